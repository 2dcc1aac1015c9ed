//! Whole models out of the files of llama.cpp.

use std::path::Path;

use burn::tensor::TensorCreationOptions;
use seq_core::checkpoint::{Checkpoint, CheckpointError, GgufMetadata, Parameters, Stored};

use super::{TransformerLm, TransformerLmConfig};
use crate::{
    Activation, FeedForwardConfig, Mlp, MultiHeadAttentionConfig, NormConfig, RotaryConfig,
    TransformerBlockConfig, TransformerConfig,
};

/// The keys of an architecture that are honoured, or make no difference to what is computed.
const KNOWN: [&str; 14] = [
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.layer_norm_rms_epsilon",
    "attention.value_length",
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "rope.dimension_count",
    "rope.freq_base",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
];

/// Loads a model from a GGUF file of llama.cpp, of the architecture `llama` or `qwen2`. Quantised weights become
/// floats.
///
/// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's default. Also gives
/// what the model was made of, and the file's metadata, in which the tokenizer is.
///
/// llama.cpp's converter reorders the rows of the queries and keys of `llama` so that neighbours turn together;
/// the model has [`interleaved`](RotaryConfig::interleaved) rotary positions to match. Those of `qwen2` stand as
/// Hugging Face has them.
///
/// # Errors
///
/// When the file is missing or damaged, has another architecture, a key that would change the computation and is
/// not honoured, or a tensor that is missing, left over or of a wrong shape; every error names the file, and
/// the key or tensor at fault.
///
/// ```no_run
/// use seq_core::models::Sampler;
///
/// let device = seq_transformer::device();
/// let (model, config, metadata) = seq_transformer::load_gguf("smollm2.gguf", &device)?;
/// println!("{:?}: {} symbols", metadata.str("general.name")?, config.vocab_size);
/// for id in model.generate(&[504, 3575], Sampler::greedy()).take(20) {
///     println!("{id}");
/// }
/// # Ok::<(), seq_transformer::CheckpointError>(())
/// ```
pub fn load_gguf(
    path: impl AsRef<Path>,
    options: impl Into<TensorCreationOptions>,
) -> Result<(TransformerLm, TransformerLmConfig, GgufMetadata), CheckpointError> {
    let options = options.into();
    let (mut checkpoint, metadata) = Checkpoint::read_gguf(path)?;
    let config = read_config(&metadata, &checkpoint)?;
    let mut model = config.init(&options.device);
    named(&mut model).take(&mut checkpoint, options)?;
    checkpoint.finish()?;
    Ok((model, config, metadata))
}

/// All parameters by the names of llama.cpp.
fn named(model: &mut TransformerLm) -> Parameters<'_> {
    let mut all = Parameters::new();
    let embedding = Stored::Matrix(&mut model.embedding.weight);
    all.push("token_embd.weight", embedding);
    for (index, block) in model.layer.blocks.iter_mut().enumerate() {
        let name = |part: &str| format!("blk.{index}.{part}");
        all.norm(&name("attn_norm"), &mut block.attention_norm);
        let attention = &mut block.attention;
        all.linear(&name("attn_q"), &mut attention.query);
        all.linear(&name("attn_k"), &mut attention.key);
        all.linear(&name("attn_v"), &mut attention.value);
        all.linear(&name("attn_output"), &mut attention.output);
        all.norm(&name("ffn_norm"), &mut block.feed_forward_norm);
        if let Mlp::Dense(layer) = &mut block.feed_forward {
            all.linear(&name("ffn_up"), &mut layer.input);
            all.linear(&name("ffn_down"), &mut layer.output);
            if let Some(gate) = &mut layer.gate {
                all.linear(&name("ffn_gate"), gate);
            }
        }
    }
    if let Some(norm) = &mut model.layer.norm {
        all.norm("output_norm", norm);
    }
    if let Some(head) = &mut model.head {
        all.linear("output", head);
    }
    all
}

/// What the metadata says, and the tensors that are there.
fn read_config(
    metadata: &GgufMetadata,
    checkpoint: &Checkpoint,
) -> Result<TransformerLmConfig, CheckpointError> {
    let required = |key: &str| metadata.missing(key);
    let architecture = metadata.str("general.architecture")?;
    let architecture = architecture.ok_or_else(|| required("general.architecture"))?;
    let interleaved = match architecture {
        "llama" => true,
        "qwen2" => false,
        other => {
            let reason = format!("it is `{other}`, known are `llama` and `qwen2`");
            return Err(metadata.wrong("general.architecture", reason));
        }
    };
    let full = |key: &str| format!("{architecture}.{key}");
    let below = metadata.keys().filter_map(|key| {
        let rest = key.strip_prefix(architecture)?.strip_prefix('.')?;
        Some((key, rest))
    });
    for (key, rest) in below {
        if !KNOWN.contains(&rest) {
            return Err(metadata.wrong(key, "it would not be honoured"));
        }
    }
    let scaling = full("rope.scaling.type");
    if let Some(kind) = metadata.str(&scaling)?
        && kind != "none"
    {
        return Err(metadata.wrong(&scaling, format!("it is `{kind}`, known is `none`")));
    }
    let optional_size = |key: &str| -> Result<Option<usize>, CheckpointError> {
        let key = full(key);
        let size = metadata.u64(&key)?;
        size.map(|size| usize::try_from(size).map_err(|_| metadata.wrong(&key, "out of range")))
            .transpose()
    };
    let size = |key: &str| optional_size(key)?.ok_or_else(|| metadata.missing(&full(key)));

    let (d_model, num_heads) = (size("embedding_length")?, size("attention.head_count")?);
    if num_heads == 0 {
        return Err(metadata.wrong(&full("attention.head_count"), "it is 0"));
    }
    let num_kv_heads = optional_size("attention.head_count_kv")?.unwrap_or(num_heads);
    let d_head = optional_size("attention.key_length")?.unwrap_or(d_model / num_heads);
    if let Some(width) = optional_size("attention.value_length")?
        && width != d_head
    {
        let reason = format!("it is {width}, keys have {d_head}");
        return Err(metadata.wrong(&full("attention.value_length"), reason));
    }
    let epsilon_key = full("attention.layer_norm_rms_epsilon");
    let epsilon = metadata.f64(&epsilon_key)?;
    let epsilon = epsilon.ok_or_else(|| required(&epsilon_key))?;
    let base = metadata.f64(&full("rope.freq_base"))?.unwrap_or(10000.0);
    let rotary = RotaryConfig::new(d_head)
        .with_base(base)
        .with_d_rotary(optional_size("rope.dimension_count")?)
        .with_interleaved(interleaved);
    let has = |name: &str| checkpoint.shape(name).is_some();
    let attention = MultiHeadAttentionConfig::new(d_model, num_heads)
        .with_num_kv_heads(Some(num_kv_heads))
        .with_head_width(Some(d_head))
        .with_bias(has("blk.0.attn_q.bias"))
        .with_output_bias(has("blk.0.attn_output.bias"))
        .with_rotary(Some(rotary));
    let feed_forward = FeedForwardConfig::new(d_model, size("feed_forward_length")?)
        .with_activation(Activation::Silu)
        .with_gated(true)
        .with_bias(has("blk.0.ffn_up.bias"));
    let block = TransformerBlockConfig::new(attention, feed_forward.into())
        .with_norm(NormConfig::Rms { epsilon });
    let transformer = TransformerConfig::new(size("block_count")?, block);
    // Older files do not have the number of symbols.
    let vocab_size = match checkpoint.shape("token_embd.weight") {
        Some([vocab_size, _]) => *vocab_size,
        _ => size("vocab_size")?,
    };
    let config = TransformerLmConfig::new(vocab_size, transformer)
        .with_tied_embeddings(!has("output.weight"));
    config
        .validate()
        .map_err(|error| metadata.wrong(&format!("{architecture}.*"), error))?;
    Ok(config)
}
