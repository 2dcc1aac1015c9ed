//! GPT-2 (Radford et al. 2019).

use seq_core::checkpoint::{CheckpointError, ConfigFile};
use serde_json::{Value, json};

use super::{activation, activation_name};
use crate::{
    Activation, FeedForwardConfig, MlpConfig, MultiHeadAttentionConfig, NormConfig,
    PositionsConfig, TransformerBlockConfig, TransformerConfig, TransformerLmConfig,
};

/// Of training, of other heads, or of how the same is computed.
const OF_NO_EFFECT: &[&str] = &[
    "attn_pdrop",
    "embd_pdrop",
    "n_ctx",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
];

pub(super) fn read(file: &mut ConfigFile) -> Result<TransformerLmConfig, CheckpointError> {
    file.discard(OF_NO_EFFECT);
    file.expect("add_cross_attention", &[json!(false)])?;
    // Every layer would have a scale of its own.
    file.expect("scale_attn_by_inverse_layer_idx", &[json!(false)])?;
    let d_model = file.require("n_embd")?;
    let scaled = file.take("scale_attn_weights")?.unwrap_or(true);
    let attention = MultiHeadAttentionConfig::new(d_model, file.require("n_head")?)
        .with_scale((!scaled).then_some(1.0));
    let d_hidden: Option<usize> = file.take("n_inner")?;
    let feed_forward =
        FeedForwardConfig::new(d_model, d_hidden.unwrap_or(4 * d_model)).with_activation(
            activation(file, "activation_function", Activation::GeluTanh)?,
        );
    let epsilon = file.take("layer_norm_epsilon")?.unwrap_or(1e-5);
    let block = TransformerBlockConfig::new(attention, feed_forward.into())
        .with_norm(NormConfig::Layer { epsilon });
    let positions = PositionsConfig::learned(file.take("n_positions")?.unwrap_or(1024));
    let transformer =
        TransformerConfig::new(file.require("n_layer")?, block).with_positions(Some(positions));
    Ok(
        TransformerLmConfig::new(file.require("vocab_size")?, transformer)
            .with_tied_embeddings(file.take("tie_word_embeddings")?.unwrap_or(true)),
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
    let Some(PositionsConfig::Learned { max_positions, .. }) = transformer.positions else {
        return Err("positions".to_string());
    };
    Ok(json!({
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": max_positions,
        "n_embd": transformer.d_model(),
        "n_layer": transformer.num_layers,
        "n_head": block.attention.num_heads,
        "n_inner": feed_forward.d_hidden,
        "activation_function": activation_name(feed_forward.activation),
        "layer_norm_epsilon": epsilon,
        "scale_attn_weights": block.attention.scale != Some(1.0),
        "tie_word_embeddings": config.tied_embeddings,
    }))
}
