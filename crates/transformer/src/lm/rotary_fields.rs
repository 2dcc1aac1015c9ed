//! What a `config.json` says of rotary positions, in the forms of several years.

use seq_core::checkpoint::{CheckpointError, ConfigFile};

use crate::{RotaryConfig, RotaryScaling};

/// Where a model's fields are.
pub(super) struct Rotation {
    pub d_head: usize,
    /// The older name of the base.
    pub base: &'static str,
    /// The older name of the share of a head that turns, and its default.
    pub share: Option<(&'static str, f64)>,
}

/// The rotation by `rope_parameters` of transformers 5, or by `rope_theta` and `rope_scaling` before.
pub(super) fn rotation(
    file: &mut ConfigFile,
    fields: Rotation,
) -> Result<RotaryConfig, CheckpointError> {
    let max_positions: Option<usize> = file.take("max_position_embeddings")?;
    let mut base: Option<f64> = file.take(fields.base)?;
    let mut share: Option<f64> = match fields.share {
        Some((name, _)) => file.take(name)?,
        None => None,
    };
    let mut scaling = None;
    for field in ["rope_parameters", "rope_scaling"] {
        let Some(mut inner) = file.split_off(field)? else {
            continue;
        };
        base = inner.take("rope_theta")?.or(base);
        share = inner.take("partial_rotary_factor")?.or(share);
        scaling = scaling_of(&mut inner, max_positions)?.or(scaling);
        inner.finish()?;
    }
    let share = share.or(fields.share.map(|(_, default)| default));
    let d_rotary = share.map(|share| (fields.d_head as f64 * share) as usize);
    Ok(RotaryConfig::new(fields.d_head)
        .with_base(base.unwrap_or(10000.0))
        .with_d_rotary(d_rotary.filter(|&width| width < fields.d_head))
        .with_scaling(scaling))
}

fn scaling_of(
    file: &mut ConfigFile,
    max_positions: Option<usize>,
) -> Result<Option<RotaryScaling>, CheckpointError> {
    let old: Option<String> = file.take("type")?;
    let kind: Option<String> = file.take("rope_type")?;
    let original: Option<usize> = file.take("original_max_position_embeddings")?;
    let trained = |file: &ConfigFile| {
        let trained = original.or(max_positions);
        trained.ok_or_else(|| file.wrong("original_max_position_embeddings", "it is not there"))
    };
    Ok(match kind.or(old).as_deref() {
        None | Some("default") => None,
        Some("linear") => Some(RotaryScaling::Linear {
            factor: file.require("factor")?,
        }),
        Some("dynamic") => Some(RotaryScaling::DynamicNtk {
            factor: file.require("factor")?,
            max_positions: trained(file)?,
        }),
        Some("llama3") => Some(RotaryScaling::Llama3 {
            factor: file.require("factor")?,
            low_freq_factor: file.require("low_freq_factor")?,
            high_freq_factor: file.require("high_freq_factor")?,
            original_max_positions: trained(file)?,
        }),
        Some("yarn") => Some(RotaryScaling::Yarn {
            factor: file.require("factor")?,
            original_max_positions: trained(file)?,
            attention_factor: file.take("attention_factor")?,
            beta_fast: file.take("beta_fast")?.unwrap_or(32.0),
            beta_slow: file.take("beta_slow")?.unwrap_or(1.0),
            mscale: file.take("mscale")?,
            mscale_all_dim: file.take("mscale_all_dim")?,
            truncate: file.take("truncate")?.unwrap_or(true),
        }),
        Some(other) => {
            let known = "default, linear, dynamic, llama3 and yarn";
            return Err(file.wrong("rope_type", format!("it is `{other}`, known are {known}")));
        }
    })
}
