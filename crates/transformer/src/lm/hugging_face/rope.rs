//! Rotary positions: `rope_parameters` of transformers 5, `rope_theta` and `rope_scaling` before.

use seq_core::checkpoint::{CheckpointError, ConfigFile};
use serde_json::{Value, json};

use crate::{RotaryConfig, RotaryScaling};

/// What a family has where the file does not say otherwise.
pub(super) struct Defaults {
    pub d_head: usize,
    pub max_positions: usize,
    pub base: f64,
    /// How much of a head turns.
    pub fraction: f64,
}

impl Defaults {
    pub fn read(self, file: &mut ConfigFile) -> Result<RotaryConfig, CheckpointError> {
        let legacy_base: Option<f64> = file.take("rope_theta")?;
        let legacy_fraction: Option<f64> = file.take("partial_rotary_factor")?;
        let scaling = file.split_off("rope_scaling")?;
        let parameters = match file.split_off("rope_parameters")? {
            Some(parameters) => Some(parameters),
            None => scaling,
        };
        let (mut base, mut fraction, mut scaling) = (legacy_base, legacy_fraction, None);
        if let Some(mut parameters) = parameters {
            base = parameters.take("rope_theta")?.or(base);
            fraction = parameters.take("partial_rotary_factor")?.or(fraction);
            scaling = self.scaling(&mut parameters)?;
            parameters.finish()?;
        }
        let fraction = fraction.unwrap_or(self.fraction);
        let width = (self.d_head as f64 * fraction) as usize;
        Ok(RotaryConfig::new(self.d_head)
            .with_base(base.unwrap_or(self.base))
            .with_d_rotary((width != self.d_head).then_some(width))
            .with_scaling(scaling))
    }

    fn scaling(&self, file: &mut ConfigFile) -> Result<Option<RotaryScaling>, CheckpointError> {
        let old: Option<String> = file.take("type")?;
        let kind: Option<String> = file.take("rope_type")?.or(old);
        Ok(match kind.as_deref() {
            None | Some("default") => None,
            Some("linear") => Some(RotaryScaling::Linear {
                factor: file.require("factor")?,
            }),
            Some("dynamic") => {
                // The reference code counts by `max_position_embeddings` all the same.
                file.discard(&["original_max_position_embeddings"]);
                Some(RotaryScaling::DynamicNtk {
                    factor: file.require("factor")?,
                    max_positions: self.max_positions,
                })
            }
            Some("yarn") => {
                let original = file.take("original_max_position_embeddings")?;
                let original_max_positions = original.unwrap_or(self.max_positions);
                let ratio = self.max_positions as f64 / original_max_positions.max(1) as f64;
                // Of the code that Qwen's models came with.
                file.discard(&["finetuned"]);
                Some(RotaryScaling::Yarn {
                    factor: file.take("factor")?.unwrap_or(ratio),
                    original_max_positions,
                    attention_factor: file.take("attention_factor")?,
                    beta_fast: file.take("beta_fast")?.unwrap_or(32.0),
                    beta_slow: file.take("beta_slow")?.unwrap_or(1.0),
                    mscale: file.take("mscale")?,
                    mscale_all_dim: file.take("mscale_all_dim")?,
                    truncate: file.take("truncate")?.unwrap_or(true),
                })
            }
            Some("llama3") => Some(RotaryScaling::Llama3 {
                factor: file.require("factor")?,
                low_freq_factor: file.require("low_freq_factor")?,
                high_freq_factor: file.require("high_freq_factor")?,
                original_max_positions: file.require("original_max_position_embeddings")?,
            }),
            Some(other) => {
                let reason =
                    format!("it is `{other}`, known are default, linear, dynamic, yarn and llama3");
                return Err(file.wrong("rope_type", reason));
            }
        })
    }
}

/// How much of a head turns.
pub(super) fn fraction(config: &RotaryConfig) -> f64 {
    config.d_rotary.unwrap_or(config.d_head) as f64 / config.d_head as f64
}

/// Adds what [`Defaults::read`] reads, as versions before 5 and since have it.
pub(super) fn write(config: &RotaryConfig, fields: &mut Value) {
    let scaling = match config.scaling {
        // Of factors Hugging Face knows nothing.
        None | Some(RotaryScaling::Factors { .. }) => json!({"rope_type": "default"}),
        Some(RotaryScaling::Linear { factor }) => json!({"rope_type": "linear", "factor": factor}),
        Some(RotaryScaling::DynamicNtk {
            factor,
            max_positions,
        }) => {
            fields["max_position_embeddings"] = json!(max_positions);
            json!({"rope_type": "dynamic", "factor": factor})
        }
        Some(RotaryScaling::Yarn {
            factor,
            original_max_positions,
            attention_factor,
            beta_fast,
            beta_slow,
            mscale,
            mscale_all_dim,
            truncate,
        }) => json!({
            "rope_type": "yarn",
            "factor": factor,
            "original_max_position_embeddings": original_max_positions,
            "attention_factor": attention_factor,
            "beta_fast": beta_fast,
            "beta_slow": beta_slow,
            "mscale": mscale,
            "mscale_all_dim": mscale_all_dim,
            "truncate": truncate,
        }),
        Some(RotaryScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_positions,
        }) => json!({
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor,
            "original_max_position_embeddings": original_max_positions,
        }),
    };
    if let Value::Object(mut scaling) = scaling {
        scaling.retain(|_, value| !value.is_null());
        fields["rope_scaling"] = match config.scaling {
            Some(_) => Value::Object(scaling.clone()),
            None => Value::Null,
        };
        scaling.insert("rope_theta".to_string(), json!(config.base));
        if fraction(config) != 1.0 {
            let fraction = json!(fraction(config));
            scaling.insert("partial_rotary_factor".to_string(), fraction);
        }
        fields["rope_parameters"] = Value::Object(scaling);
    }
}
