//! The `config.json` of published models.

mod gpt2;
mod gpt_neox;
mod llama;
mod rope;

use seq_core::checkpoint::{CheckpointError, ConfigFile};
use serde_json::{Value, json};

use super::TransformerLmConfig;
use crate::{Activation, MlpConfig};

/// What makes no difference to what a model computes.
pub(crate) const OF_NO_EFFECT: &[&str] = &[
    "_attn_implementation_autoset",
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "gradient_checkpointing",
    "initializer_range",
    "pad_token_id",
    "sep_token_id",
    "task_specific_params",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
];

/// How a family names its parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Gpt2,
    /// Llama, Mistral, Mixtral, Qwen2 and Qwen3.
    Llama,
    GptNeoX,
}

/// What the fields say.
pub(super) fn read(mut file: ConfigFile) -> Result<(TransformerLmConfig, Family), CheckpointError> {
    file.discard(OF_NO_EFFECT);
    let model_type: String = file.require("model_type")?;
    let (config, family) = match model_type.as_str() {
        "gpt2" => (gpt2::read(&mut file)?, Family::Gpt2),
        "gpt_neox" => (gpt_neox::read(&mut file)?, Family::GptNeoX),
        "llama" | "mistral" | "mixtral" | "qwen2" | "qwen3" => {
            (llama::read(&mut file, &model_type)?, Family::Llama)
        }
        other => {
            let reason = format!(
                "it is `{other}`, known are gpt2, gpt_neox, llama, mistral, mixtral, qwen2 and qwen3"
            );
            return Err(file.wrong("model_type", reason));
        }
    };
    let valid = config.validate();
    valid.map_err(|error| file.wrong(error.option, &error))?;
    file.finish()?;
    Ok((config, family))
}

/// By what names a configuration calls activations.
pub(crate) fn activation(
    file: &mut ConfigFile,
    field: &str,
    default: Activation,
) -> Result<Activation, CheckpointError> {
    match file.take::<String>(field)?.as_deref() {
        None => Ok(default),
        Some("gelu" | "gelu_python") => Ok(Activation::Gelu),
        Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(Activation::GeluTanh),
        Some("relu") => Ok(Activation::Relu),
        Some("silu" | "swish") => Ok(Activation::Silu),
        Some(other) => {
            let reason = format!(
                "it is `{other}`, known are gelu, gelu_new, gelu_pytorch_tanh, relu and silu"
            );
            Err(file.wrong(field, reason))
        }
    }
}

/// The name that [`activation`] reads.
pub(crate) fn activation_name(activation: Activation) -> &'static str {
    match activation {
        Activation::Relu => "relu",
        Activation::Gelu => "gelu",
        Activation::GeluTanh => "gelu_new",
        Activation::Silu => "silu",
    }
}

/// What [`read`] reads again, as Hugging Face's classes have it; or the option that they have not.
pub(super) fn write(config: &TransformerLmConfig) -> Result<(Value, Family), String> {
    let block = &config.transformer.block;
    let fields = match (&block.attention.rotary, block.parallel) {
        _ if config.transformer.positions.is_some() => gpt2::write(config)?,
        (Some(_), parallel) if parallel || has_biases(&block.feed_forward) => {
            gpt_neox::write(config)?
        }
        (Some(_), _) => llama::write(config)?,
        (None, _) => return Err("rotary".to_string()),
    };
    // What is lost on the way is an option that the family has not.
    let text = fields.to_string();
    let read = ConfigFile::parse("config.json", &text).and_then(read);
    let (found, family) = read.map_err(|error| match error {
        CheckpointError::WrongField { field, .. } => field,
        error => error.to_string(),
    })?;
    match difference(&comparable(&found), &comparable(config)) {
        Some(option) => Err(option),
        None => Ok((fields, family)),
    }
}

/// Two maps of an activation without a gate, with biases.
fn has_biases(feed_forward: &MlpConfig) -> bool {
    matches!(feed_forward, MlpConfig::Dense(config) if config.bias && !config.gated)
}

/// The options with their defaults filled in, without those of training alone.
fn comparable(config: &TransformerLmConfig) -> Value {
    let mut config = config.clone();
    config.dropout = 0.0;
    let transformer = &mut config.transformer;
    transformer.final_norm = Some(transformer.final_norm().is_some());
    let block = &mut transformer.block;
    block.dropout = 0.0;
    match &mut block.feed_forward {
        MlpConfig::Dense(config) => config.dropout = 0.0,
        MlpConfig::Experts(config) => config.dropout = 0.0,
    }
    let attention = &mut block.attention;
    attention.dropout = 0.0;
    attention.num_kv_heads = Some(attention.num_kv_heads());
    attention.head_width = Some(attention.d_head());
    attention.d_memory = attention.d_memory.or(Some(attention.d_model));
    if let Some(rotary) = &mut attention.rotary {
        rotary.d_rotary = rotary.d_rotary.or(Some(rotary.d_head));
    }
    json!(config)
}

/// The name of the first option in which two configurations differ.
fn difference(a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) if a.keys().eq(b.keys()) => {
            let differs = |(name, value)| Some((name, difference(value, &b[name])?));
            let (name, inner) = a.iter().find_map(differs)?;
            Some(match inner.is_empty() {
                true => name.clone(),
                false => inner,
            })
        }
        (a, b) => (a != b).then(String::new),
    }
}
