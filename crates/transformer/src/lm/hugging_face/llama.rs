//! Llama (Touvron et al. 2023, <https://arxiv.org/abs/2302.13971>) and what has its form: Mistral, Mixtral,
//! Qwen2, Qwen3, and SmolLM2, which is a Llama.

use seq_core::checkpoint::{CheckpointError, ConfigFile};
use serde_json::{Value, json};

use super::{activation, activation_name, rope};
use crate::{
    Activation, FeedForwardConfig, MixtureOfExpertsConfig, MlpConfig, MultiHeadAttentionConfig,
    NormConfig, TransformerBlockConfig, TransformerConfig, TransformerLmConfig,
};

pub(super) fn read(
    file: &mut ConfigFile,
    model_type: &str,
) -> Result<TransformerLmConfig, CheckpointError> {
    // Of training, of how many devices the weights were spread over, of exports.
    file.discard(&[
        "attention_dropout",
        "pretraining_tp",
        "transformers.js_config",
    ]);
    // Left behind by a conversion script.
    file.discard(&["is_llama_config"]);
    file.expect("rope_interleaved", &[json!(false)])?;
    let d_model: usize = file.require("hidden_size")?;
    let heads: usize = file.require("num_attention_heads")?;
    let num_layers = file.require("num_hidden_layers")?;
    let kv_heads = match model_type {
        "mistral" | "mixtral" => Some(file.require("num_key_value_heads")?),
        _ => file.take("num_key_value_heads")?,
    };
    let head_width: Option<usize> = match model_type {
        "qwen3" => Some(file.take("head_dim")?.unwrap_or(128)),
        _ => file.take("head_dim")?,
    };
    let (bias, output_bias) = match model_type {
        "llama" | "qwen3" => {
            let bias = file.take("attention_bias")?.unwrap_or(false);
            (bias, bias)
        }
        "qwen2" => (true, false),
        _ => (false, false),
    };
    let max_positions = file.take("max_position_embeddings")?;
    let base = if model_type == "mixtral" { 1e6 } else { 1e4 };
    let rotary = rope::Defaults {
        d_head: head_width.unwrap_or(d_model / heads.max(1)),
        max_positions: max_positions.unwrap_or(2048),
        base,
        fraction: 1.0,
    };
    let epsilon = file.take("rms_norm_eps")?.unwrap_or(match model_type {
        "mixtral" => 1e-5,
        _ => 1e-6,
    });
    let norm = NormConfig::Rms { epsilon };
    let attention = MultiHeadAttentionConfig::new(d_model, heads)
        .with_num_kv_heads(kv_heads)
        .with_head_width(head_width)
        .with_bias(bias)
        .with_output_bias(output_bias)
        .with_window(window(file, model_type, num_layers)?)
        .with_rotary(Some(rotary.read(file)?))
        .with_qk_norm((model_type == "qwen3").then_some(norm));
    let d_hidden = file.require("intermediate_size")?;
    let activation = activation(file, "hidden_act", Activation::Silu)?;
    let feed_forward = match model_type {
        "mixtral" => {
            // Of training.
            let of_training = ["output_router_logits", "router_aux_loss_coef"];
            file.discard(&of_training);
            file.discard(&["router_jitter_noise"]);
            let experts = file.take("num_local_experts")?.unwrap_or(8);
            MixtureOfExpertsConfig::new(d_model, d_hidden, experts)
                .with_top_k(file.take("num_experts_per_tok")?.unwrap_or(2))
                .with_activation(activation)
                .into()
        }
        _ => {
            let bias = match model_type {
                "llama" => file.take("mlp_bias")?.unwrap_or(false),
                _ => false,
            };
            FeedForwardConfig::new(d_model, d_hidden)
                .with_activation(activation)
                .with_gated(true)
                .with_bias(bias)
                .into()
        }
    };
    let block = TransformerBlockConfig::new(attention, feed_forward).with_norm(norm);
    let transformer = TransformerConfig::new(num_layers, block);
    Ok(
        TransformerLmConfig::new(file.require("vocab_size")?, transformer)
            .with_tied_embeddings(file.take("tie_word_embeddings")?.unwrap_or(false)),
    )
}

/// How many steps a step of every layer sees.
fn window(
    file: &mut ConfigFile,
    model_type: &str,
    num_layers: usize,
) -> Result<Option<usize>, CheckpointError> {
    let window: Option<usize> = match model_type {
        "llama" => None,
        "mistral" if !file.has("sliding_window") => Some(4096),
        _ => file.take("sliding_window")?,
    };
    let (window, full) = match model_type.starts_with("qwen") {
        true => {
            let used: bool = file.take("use_sliding_window")?.unwrap_or(false);
            let full: usize = file.take("max_window_layers")?.unwrap_or(28);
            (window.filter(|_| used), full)
        }
        false => (window, 0),
    };
    let types: Option<Vec<String>> = file.take("layer_types")?;
    let types = types.unwrap_or_else(|| {
        let kind = |layer| match window.is_some() && layer >= full {
            true => "sliding_attention".to_string(),
            false => "full_attention".to_string(),
        };
        (0..num_layers).map(kind).collect()
    });
    let all = |kind: &str| types.iter().all(|found| found == kind);
    if all("full_attention") {
        Ok(None)
    } else if all("sliding_attention") && window.is_some() {
        Ok(window)
    } else {
        let field = "layer_types";
        let reason = format!("it is {types:?}; either all layers have a window here, or none");
        Err(file.wrong(field, reason))
    }
}

pub(super) fn write(config: &TransformerLmConfig) -> Result<Value, String> {
    let transformer = &config.transformer;
    let block = &transformer.block;
    let attention = &block.attention;
    let NormConfig::Rms { epsilon } = block.norm else {
        return Err("norm".to_string());
    };
    let rotary = attention.rotary.as_ref();
    let rotary = rotary.ok_or_else(|| "rotary".to_string())?;
    let (d_hidden, activation) = match &block.feed_forward {
        MlpConfig::Dense(config) => (config.d_hidden, config.activation),
        MlpConfig::Experts(config) => (config.d_hidden, config.activation),
    };
    let mut fields = json!({
        "vocab_size": config.vocab_size,
        "hidden_size": transformer.d_model(),
        "num_hidden_layers": transformer.num_layers,
        "num_attention_heads": attention.num_heads,
        "num_key_value_heads": attention.num_kv_heads(),
        "head_dim": attention.d_head(),
        "intermediate_size": d_hidden,
        "hidden_act": activation_name(activation),
        "rms_norm_eps": epsilon,
        "rope_theta": rotary.base,
        "tie_word_embeddings": config.tied_embeddings,
    });
    let more = match &block.feed_forward {
        MlpConfig::Experts(experts) => json!({
            "model_type": "mixtral",
            "architectures": ["MixtralForCausalLM"],
            "num_local_experts": experts.num_experts,
            "num_experts_per_tok": experts.top_k,
            "sliding_window": attention.window,
        }),
        _ if attention.qk_norm.is_some() => json!({
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": attention.bias,
            "use_sliding_window": attention.window.is_some(),
            "sliding_window": attention.window,
            "max_window_layers": 0,
        }),
        _ if attention.bias && !attention.output_bias => json!({
            "model_type": "qwen2",
            "architectures": ["Qwen2ForCausalLM"],
            "use_sliding_window": attention.window.is_some(),
            "sliding_window": attention.window,
            "max_window_layers": 0,
        }),
        _ if attention.window.is_some() => json!({
            "model_type": "mistral",
            "architectures": ["MistralForCausalLM"],
            "sliding_window": attention.window,
        }),
        MlpConfig::Dense(feed_forward) => json!({
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "attention_bias": attention.bias,
            "mlp_bias": feed_forward.bias,
        }),
    };
    if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
        fields.extend(more);
    }
    rope::write(rotary, &mut fields);
    Ok(fields)
}
