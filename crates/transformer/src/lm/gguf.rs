//! Whole models out of the files of llama.cpp.

use std::path::Path;

use burn::nn::Linear;
use burn::tensor::{DType, Device, TensorCreationOptions};
use seq_core::checkpoint::{Checkpoint, CheckpointError, GgufMetadata, Parameters, Stored};

use super::{TransformerLm, TransformerLmConfig};
use crate::{
    Activation, FeedForwardConfig, Mlp, MultiHeadAttentionConfig, NormConfig, RotaryConfig,
    RotaryScaling, TransformerBlockConfig, TransformerConfig,
};

/// The keys of an architecture that are honoured, or make no difference to what is computed.
const KNOWN: [&str; 17] = [
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
    "rope.scaling.factor",
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "rope.scaling.type",
    "tensor_data_layout",
    "vocab_size",
];

const ARCHITECTURE: &str = "general.architecture";

/// The architecture whose queries and keys the converter reorders.
const REORDERED: &str = "llama";

/// What the angle of each pair is divided by, in files of Llama 3.
const FACTORS: &str = "rope_freqs.weight";

/// Loads a model from a GGUF file of llama.cpp, of the architecture `llama` or `qwen2`. Quantised weights become
/// floats.
///
/// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's default. Also gives
/// what the model was made of, and the file's metadata, in which the tokenizer is.
///
/// llama.cpp's converter reorders the rows of the queries and keys of `llama` so that neighbours turn together;
/// here they come back to the order of Hugging Face, in which the halves of a head do, so that
/// [`save_pretrained`](crate::save_pretrained) can write the model. Where positions turn only a part of each head,
/// the rows stay and the positions are [`interleaved`](RotaryConfig::interleaved). Positions may be scaled as
/// `linear` or `yarn`, or by factors in `rope_freqs.weight`, as Llama 3's are.
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
    let config = read_config(&metadata, &mut checkpoint, &options.device)?;
    let mut model = config.init(&options.device);
    named(&mut model).take(&mut checkpoint, options)?;
    checkpoint.finish()?;
    let attention = &config.transformer.block.attention;
    let halves = attention.rotary.as_ref().is_some_and(|it| !it.interleaved);
    if halves && metadata.str(ARCHITECTURE)? == Some(REORDERED) {
        for block in &mut model.layer.blocks {
            part_neighbours(&mut block.attention.query, attention.d_head());
            part_neighbours(&mut block.attention.key, attention.d_head());
        }
    }
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

/// Brings the outputs of a map, in which the neighbours of each head of `d_head` turn together, to the order in which
/// its halves do.
fn part_neighbours(map: &mut Linear, d_head: usize) {
    map.weight = map.weight.clone().map(|weight| {
        let [d_input, d_output] = weight.dims();
        let heads = weight.reshape([d_input, d_output / d_head, d_head / 2, 2]);
        heads.swap_dims(2, 3).reshape([d_input, d_output])
    });
    map.bias = map.bias.take().map(|bias| {
        bias.map(|bias| {
            let [d_output] = bias.dims();
            let heads = bias.reshape([d_output / d_head, d_head / 2, 2]);
            heads.swap_dims(1, 2).reshape([d_output])
        })
    });
}

/// The keys of an architecture.
struct Keys<'a> {
    metadata: &'a GgufMetadata,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// With an error for a key that would change the computation and is not honoured.
    fn new(metadata: &'a GgufMetadata, architecture: &'a str) -> Result<Self, CheckpointError> {
        for key in metadata.keys() {
            let rest = key.strip_prefix(architecture);
            let rest = rest.and_then(|rest| rest.strip_prefix('.'));
            if rest.is_some_and(|rest| !KNOWN.contains(&rest)) {
                return Err(metadata.wrong(key, "it would not be honoured"));
            }
        }
        Ok(Self {
            metadata,
            architecture,
        })
    }

    fn full(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    fn wrong(&self, key: &str, reason: impl ToString) -> CheckpointError {
        self.metadata.wrong(&self.full(key), reason)
    }

    fn missing(&self, key: &str) -> CheckpointError {
        self.metadata.missing(&self.full(key))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, CheckpointError> {
        let size = self.metadata.u64(&self.full(key))?;
        size.map(|size| usize::try_from(size).map_err(|_| self.wrong(key, "out of range")))
            .transpose()
    }

    fn size(&self, key: &str) -> Result<usize, CheckpointError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    fn optional_float(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        self.metadata.f64(&self.full(key))
    }

    fn float(&self, key: &str) -> Result<f64, CheckpointError> {
        self.optional_float(key)?.ok_or_else(|| self.missing(key))
    }

    /// What the keys say of longer sequences. As in llama.cpp, a factor without a type is a linear one.
    fn scaling(&self) -> Result<Option<RotaryScaling>, CheckpointError> {
        let kind = self.metadata.str(&self.full("rope.scaling.type"))?;
        Ok(match kind.unwrap_or("linear") {
            "none" => None,
            "linear" => {
                let factor = self.optional_float("rope.scaling.factor")?;
                factor.map(|factor| RotaryScaling::Linear { factor })
            }
            "yarn" => {
                let original = self.optional_size("rope.scaling.original_context_length")?;
                let original = original.map_or_else(|| self.size("context_length"), Ok)?;
                Some(RotaryScaling::yarn(
                    self.float("rope.scaling.factor")?,
                    original,
                ))
            }
            other => {
                let reason = format!("it is `{other}`, known are `none`, `linear` and `yarn`");
                return Err(self.wrong("rope.scaling.type", reason));
            }
        })
    }
}

/// What the metadata says, and the tensors that are there. Takes those that are no parameters.
fn read_config(
    metadata: &GgufMetadata,
    checkpoint: &mut Checkpoint,
    device: &Device,
) -> Result<TransformerLmConfig, CheckpointError> {
    let architecture = metadata.str(ARCHITECTURE)?;
    let architecture = architecture.ok_or_else(|| metadata.missing(ARCHITECTURE))?;
    if ![REORDERED, "qwen2"].contains(&architecture) {
        let reason = format!("it is `{architecture}`, known are `llama` and `qwen2`");
        return Err(metadata.wrong(ARCHITECTURE, reason));
    }
    let keys = Keys::new(metadata, architecture)?;
    let d_model = keys.size("embedding_length")?;
    let num_heads = keys.size("attention.head_count")?;
    if num_heads == 0 {
        return Err(keys.wrong("attention.head_count", "it is 0"));
    }
    let num_kv_heads = keys.optional_size("attention.head_count_kv")?;
    let d_head = keys.optional_size("attention.key_length")?;
    let d_head = d_head.unwrap_or(d_model / num_heads);
    if let Some(width) = keys.optional_size("attention.value_length")?
        && width != d_head
    {
        let reason = format!("it is {width}, keys have {d_head}");
        return Err(keys.wrong("attention.value_length", reason));
    }
    let epsilon = keys.float("attention.layer_norm_rms_epsilon")?;
    let base = keys.optional_float("rope.freq_base")?.unwrap_or(10000.0);
    let d_rotary = keys.optional_size("rope.dimension_count")?;
    let part = d_rotary.is_some_and(|width| width != d_head);
    let rotary = RotaryConfig::new(d_head)
        .with_base(base)
        .with_d_rotary(d_rotary)
        .with_interleaved(architecture == REORDERED && part);
    let rotary = with_scaling(rotary, &keys, checkpoint, device)?;
    let has = |name: &str| checkpoint.shape(name).is_some();
    let attention = MultiHeadAttentionConfig::new(d_model, num_heads)
        .with_num_kv_heads(Some(num_kv_heads.unwrap_or(num_heads)))
        .with_head_width(Some(d_head))
        .with_bias(has("blk.0.attn_q.bias"))
        .with_output_bias(has("blk.0.attn_output.bias"))
        .with_rotary(Some(rotary));
    let feed_forward = FeedForwardConfig::new(d_model, keys.size("feed_forward_length")?)
        .with_activation(Activation::Silu)
        .with_gated(true)
        .with_bias(has("blk.0.ffn_up.bias"));
    let block = TransformerBlockConfig::new(attention, feed_forward.into())
        .with_norm(NormConfig::Rms { epsilon });
    let transformer = TransformerConfig::new(keys.size("block_count")?, block);
    // Older files do not have the number of symbols.
    let vocab_size = match checkpoint.shape("token_embd.weight") {
        Some([vocab_size, _]) => *vocab_size,
        _ => keys.size("vocab_size")?,
    };
    let config = TransformerLmConfig::new(vocab_size, transformer)
        .with_tied_embeddings(!has("output.weight"));
    let valid = config.validate();
    valid.map_err(|error| keys.wrong("*", error))?;
    Ok(config)
}

/// Scales by the keys, or by the factors that a file of Llama 3 has in a tensor; llama.cpp looks at it in `llama`
/// alone.
fn with_scaling(
    rotary: RotaryConfig,
    keys: &Keys<'_>,
    checkpoint: &mut Checkpoint,
    device: &Device,
) -> Result<RotaryConfig, CheckpointError> {
    let mut scaling = keys.scaling()?;
    if keys.architecture == REORDERED && checkpoint.shape(FACTORS).is_some() {
        if scaling.is_some() {
            let reason = format!("beside `{FACTORS}` it would not be honoured");
            return Err(keys.wrong("rope.scaling.factor", reason));
        }
        let pairs = rotary.d_rotary.unwrap_or(rotary.d_head) / 2;
        let factors = checkpoint.take::<1>(FACTORS, [pairs], (device, DType::F32))?;
        let factors = factors.into_data().iter::<f64>().collect();
        scaling = Some(RotaryScaling::Factors { factors });
    }
    let rotary = rotary.with_scaling(scaling);
    let valid = rotary.validate();
    valid.map_err(|error| match error.option {
        "factors" => keys.metadata.wrong(FACTORS, error),
        "factor" => keys.wrong("rope.scaling.factor", error),
        "original_max_positions" => keys.wrong("rope.scaling.original_context_length", error),
        "base" => keys.wrong("rope.freq_base", error),
        "d_rotary" => keys.wrong("rope.dimension_count", error),
        _ => keys.wrong("*", error),
    })?;
    Ok(rotary)
}
