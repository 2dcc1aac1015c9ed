//! GPT-NeoX (Black et al. 2022, <https://arxiv.org/abs/2204.06745>) and Pythia.

use seq_core::checkpoint::{CheckpointError, ConfigFile};
use serde_json::{Value, json};

use super::{activation, activation_name, rope};
use crate::{
    Activation, FeedForwardConfig, MlpConfig, MultiHeadAttentionConfig, NormConfig,
    TransformerBlockConfig, TransformerConfig, TransformerLmConfig,
};

pub(super) fn read(file: &mut ConfigFile) -> Result<TransformerLmConfig, CheckpointError> {
    // Of training.
    file.discard(&["attention_dropout", "classifier_dropout", "hidden_dropout"]);
    // It is causal whatever this says.
    file.discard(&["is_decoder"]);
    let d_model = file.require("hidden_size")?;
    let heads: usize = file.require("num_attention_heads")?;
    let bias = file.take("attention_bias")?.unwrap_or(true);
    let max_positions = file.take("max_position_embeddings")?.unwrap_or(2048);
    let rotary = rope::Defaults {
        d_head: d_model / heads.max(1),
        max_positions,
        base: file.take("rotary_emb_base")?.unwrap_or(10_000.0),
        fraction: file.take("rotary_pct")?.unwrap_or(0.25),
    };
    let attention = MultiHeadAttentionConfig::new(d_model, heads)
        .with_bias(bias)
        .with_output_bias(bias)
        .with_rotary(Some(rotary.read(file)?));
    let feed_forward = FeedForwardConfig::new(d_model, file.require("intermediate_size")?)
        .with_activation(activation(file, "hidden_act", Activation::Gelu)?);
    let epsilon = file.take("layer_norm_eps")?.unwrap_or(1e-5);
    let block = TransformerBlockConfig::new(attention, feed_forward.into())
        .with_norm(NormConfig::Layer { epsilon })
        .with_parallel(file.take("use_parallel_residual")?.unwrap_or(true));
    let transformer = TransformerConfig::new(file.require("num_hidden_layers")?, block);
    Ok(
        TransformerLmConfig::new(file.require("vocab_size")?, transformer)
            .with_tied_embeddings(file.take("tie_word_embeddings")?.unwrap_or(false)),
    )
}

pub(super) fn write(config: &TransformerLmConfig) -> Result<Value, String> {
    let transformer = &config.transformer;
    let block = &transformer.block;
    let MlpConfig::Dense(feed_forward) = &block.feed_forward else {
        return Err("feed_forward".to_string());
    };
    let NormConfig::Layer { epsilon } = block.norm else {
        return Err("norm".to_string());
    };
    let rotary = block.attention.rotary.as_ref();
    let rotary = rotary.ok_or_else(|| "rotary".to_string())?;
    let mut fields = json!({
        "model_type": "gpt_neox",
        "architectures": ["GPTNeoXForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": transformer.d_model(),
        "num_hidden_layers": transformer.num_layers,
        "num_attention_heads": block.attention.num_heads,
        "intermediate_size": feed_forward.d_hidden,
        "hidden_act": activation_name(feed_forward.activation),
        "layer_norm_eps": epsilon,
        "use_parallel_residual": block.parallel,
        "attention_bias": block.attention.bias,
        "tie_word_embeddings": config.tied_embeddings,
        "rotary_pct": rope::fraction(rotary),
        "rotary_emb_base": rotary.base,
    });
    rope::write(rotary, &mut fields);
    Ok(fields)
}
