//! The `config.json` of published models.

use seq_core::checkpoint::{CheckpointError, ConfigFile};
use serde_json::{Value, json};

use super::{MambaLmConfig, MixerConfig};
use crate::{DtInit, Mamba2Config, Mamba3Config, MambaConfig};

/// What makes no difference to what a model computes.
const OF_NO_EFFECT: &[&str] = &[
    "_name_or_path",
    "architectures",
    "bos_token_id",
    "dtype",
    "eos_token_id",
    "initializer_range",
    "pad_token_id",
    "rescale_prenorm_residual",
    // Everything is in the precision asked for.
    "residual_in_fp32",
    "torch_dtype",
    "transformers_version",
    "use_associative_scan",
    "use_cache",
    "use_falcon_mambapy",
    "use_mambapy",
];

/// What the fields say.
pub(super) fn read(mut file: ConfigFile) -> Result<MambaLmConfig, CheckpointError> {
    file.discard(OF_NO_EFFECT);
    let model_type: Option<String> = file.take("model_type")?;
    let config = match model_type.as_deref() {
        Some("mamba") => mamba(&mut file, None)?,
        Some("falcon_mamba") => {
            let eps = file.take("mixer_rms_eps")?.unwrap_or(1e-6);
            mamba(&mut file, Some(eps))?
        }
        Some("mamba2") => mamba2(&mut file)?,
        Some(other) => {
            let reason = format!("it is `{other}`, known are mamba, falcon_mamba and mamba2");
            return Err(file.wrong("model_type", reason));
        }
        None => original(&mut file)?,
    };
    let valid = config.validate();
    valid.map_err(|error| file.wrong(error.option, &error))?;
    file.finish()?;
    Ok(config)
}

/// The activation that all of these models have.
fn check_activation(file: &mut ConfigFile) -> Result<(), CheckpointError> {
    file.expect("hidden_act", &[json!("silu"), json!("swish")])
}

fn model(
    file: &mut ConfigFile,
    mixer: MixerConfig,
    tied: bool,
) -> Result<MambaLmConfig, CheckpointError> {
    let vocab_size = file.require("vocab_size")?;
    let num_layers = file.require("num_hidden_layers")?;
    Ok(MambaLmConfig::new(vocab_size, num_layers, mixer)
        .with_norm_eps(file.take("layer_norm_epsilon")?.unwrap_or(1e-5))
        .with_tied_embeddings(file.take("tie_word_embeddings")?.unwrap_or(tied)))
}

/// A rank, or `"auto"`.
fn dt_rank(file: &mut ConfigFile, field: &str) -> Result<Option<usize>, CheckpointError> {
    match file.take::<Value>(field)? {
        Some(Value::String(word)) if word == "auto" => Ok(None),
        None => Ok(None),
        Some(value) => match value.as_u64() {
            Some(rank) => Ok(Some(rank as usize)),
            None => Err(file.wrong(field, format!("it is {value}, a number was expected"))),
        },
    }
}

fn dt_init(file: &mut ConfigFile, field: &str) -> Result<DtInit, CheckpointError> {
    match file.take::<String>(field)?.as_deref() {
        None | Some("random") => Ok(DtInit::Random),
        Some("constant") => Ok(DtInit::Constant),
        Some(other) => {
            let reason = format!("it is `{other}`, known are random and constant");
            Err(file.wrong(field, reason))
        }
    }
}

fn mamba(file: &mut ConfigFile, eps: Option<f64>) -> Result<MambaLmConfig, CheckpointError> {
    check_activation(file)?;
    let config = MambaConfig::new(file.require("hidden_size")?)
        .with_d_state(file.take("state_size")?.unwrap_or(16))
        .with_d_conv(file.take("conv_kernel")?.unwrap_or(4))
        .with_expand(file.take("expand")?.unwrap_or(2))
        .with_d_channels(file.take("intermediate_size")?)
        .with_dt_low_rank(dt_rank(file, "time_step_rank")?)
        .with_bias(file.take("use_bias")?.unwrap_or(false))
        .with_conv_bias(file.take("use_conv_bias")?.unwrap_or(true))
        .with_dt_min(file.take("time_step_min")?.unwrap_or(0.001))
        .with_dt_max(file.take("time_step_max")?.unwrap_or(0.1))
        .with_dt_init_floor(file.take("time_step_floor")?.unwrap_or(1e-4))
        .with_dt_init(dt_init(file, "time_step_init_scheme")?)
        .with_dt_scale(file.take("time_step_scale")?.unwrap_or(1.0))
        .with_dt_b_c_norm_eps(eps);
    model(file, config.into(), true)
}

fn mamba2(file: &mut ConfigFile) -> Result<MambaLmConfig, CheckpointError> {
    check_activation(file)?;
    // No step size is made of a low rank here.
    file.discard(&["time_step_rank"]);
    let d_model = file.require("hidden_size")?;
    let expand: usize = file.take("expand")?.unwrap_or(2);
    let head_dim: usize = file.take("head_dim")?.unwrap_or(64);
    let heads: usize = file.take("num_heads")?.unwrap_or(128);
    if heads * head_dim != expand * d_model {
        let reason = format!(
            "it is {heads}, of head_dim {head_dim}, in all expand * hidden_size = {expand} * {d_model}"
        );
        return Err(file.wrong("num_heads", reason));
    }
    // The model's norms and the one inside its layers share an epsilon.
    let eps: f64 = file.take("layer_norm_epsilon")?.unwrap_or(1e-5);
    let config = Mamba2Config::new(d_model)
        .with_d_state(file.take("state_size")?.unwrap_or(128))
        .with_d_conv(file.take("conv_kernel")?.unwrap_or(4))
        .with_expand(expand)
        .with_head_dim(head_dim)
        .with_n_groups(file.take("n_groups")?.unwrap_or(8))
        .with_norm_eps(eps)
        .with_dt_min(file.take("time_step_min")?.unwrap_or(0.001))
        .with_dt_max(file.take("time_step_max")?.unwrap_or(0.1))
        .with_dt_init_floor(file.take("time_step_floor")?.unwrap_or(1e-4))
        .with_dt_limit(file.take_bounds("time_step_limit")?)
        .with_bias(file.take("use_bias")?.unwrap_or(false))
        .with_conv_bias(file.take("use_conv_bias")?.unwrap_or(true));
    check_chunks(file)?;
    Ok(model(file, config.into(), false)?.with_norm_eps(eps))
}

/// The chunks of a file are for GPUs, but have to make sense.
fn check_chunks(file: &mut ConfigFile) -> Result<(), CheckpointError> {
    match file.take::<usize>("chunk_size")? {
        Some(0) => Err(file.wrong("chunk_size", "it is 0")),
        _ => Ok(()),
    }
}

/// The format of the reference code.
fn original(file: &mut ConfigFile) -> Result<MambaLmConfig, CheckpointError> {
    // Which kernel adds and normalises.
    file.discard(&["fused_add_norm"]);
    file.expect("rms_norm", &[json!(true)])?;
    file.expect("d_intermediate", &[json!(0)])?;
    file.expect("attn_layer_idx", &[json!([])])?;
    file.expect("attn_cfg", &[json!({})])?;
    let d_model = file.require("d_model")?;
    let num_layers = file.require("n_layer")?;
    let vocab_size: usize = file.require("vocab_size")?;
    let multiple: usize = file.take("pad_vocab_size_multiple")?.unwrap_or(8);
    let vocab_size = vocab_size.next_multiple_of(multiple.max(1));
    let tied = file.take("tie_embeddings")?.unwrap_or(true);
    let mixer = match file.split_off("ssm_cfg")? {
        Some(mut ssm) => {
            let mixer = match ssm.take::<String>("layer")?.as_deref() {
                None | Some("Mamba1") => original_mamba(d_model, &mut ssm)?.into(),
                Some("Mamba2") => original_mamba2(d_model, &mut ssm)?.into(),
                Some("Mamba3") => original_mamba3(d_model, &mut ssm)?.into(),
                Some(other) => {
                    let reason = format!("it is `{other}`, known are Mamba1, Mamba2 and Mamba3");
                    return Err(ssm.wrong("layer", reason));
                }
            };
            ssm.finish()?;
            mixer
        }
        None => MambaConfig::new(d_model).into(),
    };
    Ok(MambaLmConfig::new(vocab_size, num_layers, mixer).with_tied_embeddings(tied))
}

fn original_mamba(d_model: usize, ssm: &mut ConfigFile) -> Result<MambaConfig, CheckpointError> {
    ssm.discard(&["use_fast_path"]);
    Ok(MambaConfig::new(d_model)
        .with_d_state(ssm.take("d_state")?.unwrap_or(16))
        .with_d_conv(ssm.take("d_conv")?.unwrap_or(4))
        .with_expand(ssm.take("expand")?.unwrap_or(2))
        .with_dt_low_rank(dt_rank(ssm, "dt_rank")?)
        .with_bias(ssm.take("bias")?.unwrap_or(false))
        .with_conv_bias(ssm.take("conv_bias")?.unwrap_or(true))
        .with_dt_min(ssm.take("dt_min")?.unwrap_or(0.001))
        .with_dt_max(ssm.take("dt_max")?.unwrap_or(0.1))
        .with_dt_init_floor(ssm.take("dt_init_floor")?.unwrap_or(1e-4))
        .with_dt_init(dt_init(ssm, "dt_init")?)
        .with_dt_scale(ssm.take("dt_scale")?.unwrap_or(1.0)))
}

fn original_mamba2(d_model: usize, ssm: &mut ConfigFile) -> Result<Mamba2Config, CheckpointError> {
    ssm.discard(&["use_mem_eff_path"]);
    let range = ssm.take_bounds("A_init_range")?;
    check_chunks(ssm)?;
    let config = Mamba2Config::new(d_model)
        .with_d_state(ssm.take("d_state")?.unwrap_or(128))
        .with_d_conv(ssm.take("d_conv")?.unwrap_or(4))
        .with_expand(ssm.take("expand")?.unwrap_or(2))
        .with_head_dim(ssm.take("headdim")?.unwrap_or(64))
        .with_n_groups(ssm.take("ngroups")?.unwrap_or(1))
        .with_a_init_range(range.unwrap_or([1.0, 16.0]))
        .with_d_per_channel(ssm.take("D_has_hdim")?.unwrap_or(false))
        .with_norm(ssm.take("rmsnorm")?.unwrap_or(true))
        .with_norm_before_gate(ssm.take("norm_before_gate")?.unwrap_or(false))
        .with_dt_min(ssm.take("dt_min")?.unwrap_or(0.001))
        .with_dt_max(ssm.take("dt_max")?.unwrap_or(0.1))
        .with_dt_init_floor(ssm.take("dt_init_floor")?.unwrap_or(1e-4))
        .with_dt_limit(ssm.take_bounds("dt_limit")?)
        .with_bias(ssm.take("bias")?.unwrap_or(false))
        .with_conv_bias(ssm.take("conv_bias")?.unwrap_or(true))
        .with_conv_init(ssm.take("conv_init")?);
    Ok(config)
}

fn original_mamba3(d_model: usize, ssm: &mut ConfigFile) -> Result<Mamba3Config, CheckpointError> {
    ssm.expect("is_mimo", &[json!(false)])?;
    // Of the variant that is not here.
    ssm.discard(&["mimo_rank", "fuse_pregate_headwise_norm"]);
    check_chunks(ssm)?;
    Ok(Mamba3Config::new(d_model)
        .with_d_state(ssm.take("d_state")?.unwrap_or(128))
        .with_expand(ssm.take("expand")?.unwrap_or(2))
        .with_head_dim(ssm.take("headdim")?.unwrap_or(64))
        .with_n_groups(ssm.take("ngroups")?.unwrap_or(1))
        .with_rope_fraction(ssm.take("rope_fraction")?.unwrap_or(0.5))
        .with_dt_min(ssm.take("dt_min")?.unwrap_or(0.001))
        .with_dt_max(ssm.take("dt_max")?.unwrap_or(0.1))
        .with_dt_init_floor(ssm.take("dt_init_floor")?.unwrap_or(1e-4))
        .with_a_floor(ssm.take("A_floor")?.unwrap_or(1e-4))
        .with_out_proj_norm(ssm.take("is_outproj_norm")?.unwrap_or(false)))
}

/// What [`read`] reads again, as Hugging Face's classes have it; or the option that they have not.
pub(super) fn write(config: &MambaLmConfig) -> Result<Value, &'static str> {
    match &config.mixer {
        MixerConfig::Mamba(mixer) if mixer.dt_limit.is_some() => return Err("dt_limit"),
        MixerConfig::Mamba2(mixer) if !mixer.norm => return Err("norm"),
        MixerConfig::Mamba2(mixer) if mixer.norm_before_gate => return Err("norm_before_gate"),
        MixerConfig::Mamba2(mixer) if mixer.d_per_channel => return Err("d_per_channel"),
        MixerConfig::Mamba2(mixer) if mixer.norm_eps != config.norm_eps => return Err("norm_eps"),
        MixerConfig::Mamba2(mixer) if mixer.norm_groups.is_some_and(|n| n != mixer.n_groups) => {
            return Err("norm_groups");
        }
        MixerConfig::Mamba3(_) => return Err("mixer"),
        _ => {}
    }
    let mut fields = json!({
        "vocab_size": config.vocab_size,
        "num_hidden_layers": config.num_layers,
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tied_embeddings,
        "hidden_size": config.mixer.d_model(),
        "hidden_act": "silu",
    });
    let more = match &config.mixer {
        MixerConfig::Mamba(mixer) => {
            let (kind, class) = match mixer.dt_b_c_norm_eps {
                Some(_) => ("falcon_mamba", "FalconMambaForCausalLM"),
                None => ("mamba", "MambaForCausalLM"),
            };
            json!({
                "model_type": kind,
                "architectures": [class],
                "mixer_rms_eps": mixer.dt_b_c_norm_eps,
                "state_size": mixer.d_state,
                "conv_kernel": mixer.d_conv,
                "expand": mixer.expand,
                "intermediate_size": mixer.d_inner(),
                "time_step_rank": mixer.dt_rank(),
                "use_bias": mixer.bias,
                "use_conv_bias": mixer.conv_bias,
            })
        }
        MixerConfig::Mamba2(mixer) => json!({
            "model_type": "mamba2",
            "architectures": ["Mamba2ForCausalLM"],
            "state_size": mixer.d_state,
            "conv_kernel": mixer.d_conv,
            "expand": mixer.expand,
            "head_dim": mixer.head_dim,
            "num_heads": mixer.heads(),
            "n_groups": mixer.n_groups,
            "time_step_limit": mixer.dt_limit.map(|limit| limit.map(number)),
            "use_bias": mixer.bias,
            "use_conv_bias": mixer.conv_bias,
        }),
        MixerConfig::Mamba3(_) => json!({}),
    };
    if let (Value::Object(fields), Value::Object(more)) = (&mut fields, more) {
        fields.extend(more.into_iter().filter(|(_, value)| !value.is_null()));
    }
    Ok(fields)
}

/// JSON has no infinity.
fn number(x: f64) -> Value {
    match x.is_finite() {
        true => json!(x),
        false => json!({"__float__": "Infinity"}),
    }
}
