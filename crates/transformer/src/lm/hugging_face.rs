//! The `config.json` of published models.

use seq_core::checkpoint::{CheckpointError, ConfigFile};
use serde_json::json;

use super::TransformerLmConfig;
use super::rotary_fields::{Rotation, rotation};
use crate::{
    Activation, FeedForwardConfig, MixtureOfExpertsConfig, MlpConfig, MultiHeadAttentionConfig,
    NormConfig, PositionsConfig, TransformerBlockConfig, TransformerConfig,
};

/// What makes no difference to what a model computes. Probabilities of dropout belong to a training, as the
/// initial range of the weights does.
const OF_NO_EFFECT: &[&str] = &[
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "bos_token_id",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "initializer_range",
    "is_llama_config",
    "n_ctx",
    "output_router_logits",
    "pad_token_id",
    // Of tensors spread over several machines.
    "pretraining_tp",
    // Of the precision of sums.
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];

/// By which names the weights of a model go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Gpt2,
    Llama,
    GptNeoX,
}

/// What the fields say.
pub(super) fn read(
    mut file: ConfigFile,
) -> Result<(TransformerLmConfig, Family), CheckpointError> {
    // Left behind by a conversion script.
    file.expect("rope_interleaved", &[json!(false)])?;
    file.discard(OF_NO_EFFECT);
    let model_type: String = file.require("model_type")?;
    let (config, family) = match model_type.as_str() {
        "gpt2" => (gpt2(&mut file)?, Family::Gpt2),
        "gpt_neox" => (gpt_neox(&mut file)?, Family::GptNeoX),
        "llama" | "mistral" | "mixtral" | "qwen2" | "qwen3" => {
            (llama(&mut file, &model_type)?, Family::Llama)
        }
        other => {
            let known = "gpt2, gpt_neox, llama, mistral, mixtral, qwen2 and qwen3";
            return Err(file.wrong("model_type", format!("it is `{other}`, known are {known}")));
        }
    };
    let valid = config.validate();
    valid.map_err(|error| file.wrong(error.option, &error))?;
    file.finish()?;
    Ok((config, family))
}

/// The activation that a field names.
pub(crate) fn activation(
    file: &mut ConfigFile,
    field: &str,
    default: Activation,
) -> Result<Activation, CheckpointError> {
    match file.take::<String>(field)?.as_deref() {
        None => Ok(default),
        Some("relu") => Ok(Activation::Relu),
        Some("gelu") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some(other) => {
            let reason = format!("it is `{other}`, known are relu, gelu, gelu_new and silu");
            Err(file.wrong(field, reason))
        }
    }
}

fn gpt2(file: &mut ConfigFile) -> Result<TransformerLmConfig, CheckpointError> {
    file.expect("scale_attn_by_inverse_layer_idx", &[json!(false)])?;
    file.expect("add_cross_attention", &[json!(false)])?;
    let d_model = file.require("n_embd")?;
    let d_hidden: Option<usize> = file.take("n_inner")?;
    let scaled = file.take("scale_attn_weights")?.unwrap_or(true);
    let attention = MultiHeadAttentionConfig::new(d_model, file.require("n_head")?)
        .with_scale((!scaled).then_some(1.0));
    let feed_forward = FeedForwardConfig::new(d_model, d_hidden.unwrap_or(4 * d_model))
        .with_activation(activation(file, "activation_function", Activation::GeluTanh)?);
    let epsilon = file.take("layer_norm_epsilon")?.unwrap_or(1e-5);
    let block = TransformerBlockConfig::new(attention, feed_forward.into())
        .with_norm(NormConfig::Layer { epsilon });
    let positions = PositionsConfig::learned(file.take("n_positions")?.unwrap_or(1024));
    let transformer = TransformerConfig::new(file.require("n_layer")?, block)
        .with_positions(Some(positions));
    let tied = file.take("tie_word_embeddings")?.unwrap_or(true);
    Ok(TransformerLmConfig::new(file.require("vocab_size")?, transformer)
        .with_tied_embeddings(tied))
}

fn gpt_neox(file: &mut ConfigFile) -> Result<TransformerLmConfig, CheckpointError> {
    let d_model: usize = file.require("hidden_size")?;
    let heads: usize = file.require("num_attention_heads")?;
    let d_head = d_model / heads.max(1);
    let fields = Rotation {
        d_head,
        base: "rotary_emb_base",
        share: Some(("rotary_pct", 0.25)),
    };
    let rotary = rotation(file, fields)?;
    let bias = file.take("attention_bias")?.unwrap_or(true);
    let attention = MultiHeadAttentionConfig::new(d_model, heads)
        .with_bias(bias)
        .with_output_bias(bias)
        .with_rotary(Some(rotary));
    let feed_forward = FeedForwardConfig::new(d_model, file.require("intermediate_size")?)
        .with_activation(activation(file, "hidden_act", Activation::Gelu)?);
    let epsilon = file.take("layer_norm_eps")?.unwrap_or(1e-5);
    let block = TransformerBlockConfig::new(attention, feed_forward.into())
        .with_norm(NormConfig::Layer { epsilon })
        .with_parallel(file.take("use_parallel_residual")?.unwrap_or(true));
    let layers = file.require("num_hidden_layers")?;
    decoder(file, layers, block)
}

/// Llama and those that are like it but for a few options.
fn llama(file: &mut ConfigFile, model_type: &str) -> Result<TransformerLmConfig, CheckpointError> {
    let d_model: usize = file.require("hidden_size")?;
    let layers = file.require("num_hidden_layers")?;
    let heads: usize = file.require("num_attention_heads")?;
    let head_width: Option<usize> = file.take("head_dim")?;
    // Qwen3's own default.
    let head_width = head_width.or((model_type == "qwen3").then_some(128));
    let d_head = head_width.unwrap_or(d_model / heads.max(1));
    let fields = Rotation {
        d_head,
        base: "rope_theta",
        share: None,
    };
    let rotary = rotation(file, fields)?;
    let epsilon = file.take("rms_norm_eps")?.unwrap_or(match model_type {
        "mixtral" => 1e-5,
        _ => 1e-6,
    });
    let norm = NormConfig::Rms { epsilon };
    let (bias, output_bias) = match model_type {
        "qwen2" => (true, false),
        "llama" | "qwen3" => {
            let bias = file.take("attention_bias")?.unwrap_or(false);
            (bias, bias)
        }
        _ => (false, false),
    };
    let attention = MultiHeadAttentionConfig::new(d_model, heads)
        .with_num_kv_heads(file.take("num_key_value_heads")?)
        .with_head_width(head_width)
        .with_bias(bias)
        .with_output_bias(output_bias)
        .with_window(window(file, model_type, layers)?)
        .with_rotary(Some(rotary))
        .with_qk_norm((model_type == "qwen3").then_some(norm));
    let activation = activation(file, "hidden_act", Activation::Silu)?;
    let d_hidden = file.require("intermediate_size")?;
    let feed_forward = match model_type {
        "mixtral" => {
            let experts = file.take("num_local_experts")?.unwrap_or(8);
            let config = MixtureOfExpertsConfig::new(d_model, d_hidden, experts)
                .with_top_k(file.take("num_experts_per_tok")?.unwrap_or(2))
                .with_activation(activation);
            MlpConfig::from(config)
        }
        _ => {
            let bias = match model_type {
                "llama" => file.take("mlp_bias")?.unwrap_or(false),
                _ => false,
            };
            let config = FeedForwardConfig::new(d_model, d_hidden)
                .with_activation(activation)
                .with_gated(true)
                .with_bias(bias);
            config.into()
        }
    };
    let block = TransformerBlockConfig::new(attention, feed_forward).with_norm(norm);
    decoder(file, layers, block)
}

/// How many tokens a token sees, where not all; one number for all layers.
fn window(
    file: &mut ConfigFile,
    model_type: &str,
    layers: usize,
) -> Result<Option<usize>, CheckpointError> {
    let window: Option<usize> = file.take("sliding_window")?;
    let kinds: Option<Vec<String>> = file.take("layer_types")?;
    let first: Option<usize> = file.take("max_window_layers")?;
    let on = match model_type {
        "mistral" | "mixtral" => true,
        _ => file.take("use_sliding_window")?.unwrap_or(false),
    };
    if let Some(kinds) = kinds {
        let expected = match on && window.is_some() && first.is_none_or(|first| first == 0) {
            true => "sliding_attention",
            false => "full_attention",
        };
        if let Some(other) = kinds.iter().find(|kind| *kind != expected) {
            let reason = format!("it has `{other}`, known is `{expected}` for all layers here");
            return Err(file.wrong("layer_types", reason));
        }
    }
    match (on, window, first) {
        // Layers from this one on have the window.
        (true, Some(_), Some(first)) if first > 0 && first < layers => {
            let reason = format!("it is {first}, known is one window for all layers");
            Err(file.wrong("max_window_layers", reason))
        }
        (true, Some(_), Some(first)) if first >= layers => Ok(None),
        (true, window, _) => Ok(window),
        (false, ..) => Ok(None),
    }
}

fn decoder(
    file: &mut ConfigFile,
    num_layers: usize,
    block: TransformerBlockConfig,
) -> Result<TransformerLmConfig, CheckpointError> {
    let transformer = TransformerConfig::new(num_layers, block);
    let tied = file.take("tie_word_embeddings")?.unwrap_or(false);
    Ok(TransformerLmConfig::new(file.require("vocab_size")?, transformer)
        .with_tied_embeddings(tied))
}
