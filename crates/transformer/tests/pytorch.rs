//! Weights under PyTorch's names, and files that do not fit. What PyTorch itself computes with such weights is
//! in the golden cases.

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Distribution, Tensor, TensorData};
use seq_core::checkpoint::write_safetensors;
use seq_transformer::{
    Activation, AttentionMask, Checkpoint, CheckpointError, Decoder, DecoderBlock,
    DecoderBlockConfig, DecoderConfig, Encoder, EncoderConfig, FeedForwardConfig,
    MultiHeadAttention, MultiHeadAttentionConfig, NormConfig, NormPosition, PyTorchConfig,
    PyTorchModule, RotaryConfig, TransformerBlock, TransformerBlockConfig,
};

const HEADS: usize = 2;

fn attention() -> MultiHeadAttentionConfig {
    MultiHeadAttentionConfig::new(6, HEADS)
}

fn without_bias(attention: MultiHeadAttentionConfig) -> MultiHeadAttentionConfig {
    attention.with_bias(false).with_output_bias(false)
}

fn block(bias: bool) -> TransformerBlockConfig {
    let feed_forward = FeedForwardConfig::new(6, 5)
        .with_activation(Activation::Gelu)
        .with_bias(bias)
        .into();
    let epsilon = 1e-3;
    let (attention, norm) = match bias {
        true => (attention(), NormConfig::Layer { epsilon }),
        false => (
            without_bias(attention()),
            NormConfig::LayerWithoutBias { epsilon },
        ),
    };
    TransformerBlockConfig::new(attention, feed_forward).with_norm(norm)
}

fn decoder_block(bias: bool) -> DecoderBlockConfig {
    let block = block(bias);
    DecoderBlockConfig::new(block.attention.clone(), block.attention, block.feed_forward)
        .with_norm(block.norm)
}

/// What a file of those does not say.
fn config() -> PyTorchConfig {
    PyTorchConfig::new(HEADS)
        .with_norm_first(true)
        .with_activation(Activation::Gelu)
        .with_layer_norm_eps(1e-3)
}

fn names(file: &Path) -> Vec<String> {
    let checkpoint = Checkpoint::read(file).unwrap();
    checkpoint.names().map(str::to_owned).collect()
}

/// Saves, loads, and compares what both make of an input to the bit.
fn round_trip<M: PyTorchModule>(module: M, run: impl Fn(&M) -> Tensor<3>) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("module.safetensors");
    module.save_pytorch(&file).unwrap();
    let again = M::load_pytorch(&file, &config(), &seq_transformer::device()).unwrap();
    assert_eq!(run(&again).into_data(), run(&module).into_data());
    names(&file)
}

fn random(width: usize, device: &Device) -> Tensor<3> {
    Tensor::random([2, 3, width], Distribution::Normal(0.0, 1.0), device)
}

#[test]
fn attention_comes_back_to_the_bit() {
    let device = seq_transformer::device();
    let packed = [
        "in_proj_bias",
        "in_proj_weight",
        "out_proj.bias",
        "out_proj.weight",
    ];
    let apart = [
        "in_proj_bias",
        "k_proj_weight",
        "out_proj.bias",
        "out_proj.weight",
    ];
    let apart = [&apart[..], &["q_proj_weight", "v_proj_weight"]].concat();
    let bare = ["in_proj_weight", "out_proj.weight"];
    for (config, expected) in [
        (attention(), &packed[..]),
        (attention().with_d_memory(Some(4)), &apart[..]),
        (without_bias(attention()), &bare[..]),
    ] {
        let (x, memory) = (
            random(6, &device),
            random(config.d_memory.unwrap_or(6), &device),
        );
        let run = |layer: &MultiHeadAttention| {
            let memory = layer.remember(memory.clone());
            layer.cross(x.clone(), &memory, &AttentionMask::default())
        };
        assert_eq!(round_trip(config.init(&device), run), expected);
    }
}

#[test]
fn layers_come_back_to_the_bit() {
    let device = seq_transformer::device();
    let (x, memory) = (random(6, &device), random(6, &device));
    let mask = AttentionMask::default();
    for bias in [true, false] {
        let encode = |block: &TransformerBlock| block.encode(x.clone(), &mask);
        let found = round_trip(block(bias).init(&device), encode);
        let expected: Vec<&str> =
            "linear1.bias linear1.weight linear2.bias linear2.weight norm1.bias \
             norm1.weight norm2.bias norm2.weight self_attn.in_proj_bias self_attn.in_proj_weight \
             self_attn.out_proj.bias self_attn.out_proj.weight"
                .split_whitespace()
                .filter(|name| bias || !name.ends_with("bias"))
                .collect();
        assert_eq!(found, expected);
        let decode = |block: &DecoderBlock| {
            block.decode(x.clone(), &block.remember(memory.clone()), &mask, &mask)
        };
        let found = round_trip(decoder_block(bias).init(&device), decode);
        let more = [
            "multihead_attn.in_proj_weight",
            "multihead_attn.out_proj.weight",
            "norm3.weight",
        ];
        assert!(
            more.iter()
                .all(|more| found.iter().any(|name| name == more))
        );
        assert_eq!(found.len(), if bias { 18 } else { 9 });
    }
}

#[test]
fn stacks_come_back_to_the_bit() {
    let device = seq_transformer::device();
    let (x, memory) = (random(6, &device), random(6, &device));
    let mask = AttentionMask::default();
    for norm in [true, false] {
        let encode = |encoder: &Encoder| encoder.forward(x.clone(), &mask);
        let encoder = EncoderConfig::new(3, block(true)).with_final_norm(Some(norm));
        let found = round_trip(encoder.init(&device), encode);
        assert!(found.iter().any(|name| name == "layers.2.norm2.bias"));
        assert_eq!(found.iter().any(|name| name == "norm.weight"), norm);
        let decode = |decoder: &Decoder| decoder.decode(x.clone(), memory.clone(), &mask, &mask);
        let decoder = DecoderConfig::new(2, decoder_block(true)).with_final_norm(Some(norm));
        round_trip(decoder.init(&device), decode);
    }
}

#[test]
fn the_float_type_is_the_one_asked_for() {
    let device = seq_transformer::device();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("attention.safetensors");
    attention().init(&device).save_pytorch(&file).unwrap();
    let options = (&device, DType::F64);
    let layer = MultiHeadAttention::load_pytorch(&file, &config(), options).unwrap();
    for map in [&layer.query, &layer.value, &layer.output] {
        assert_eq!(map.weight.dtype(), DType::F64);
        assert_eq!(map.bias.as_ref().unwrap().dtype(), DType::F64);
    }
}

/// A file of named zeros.
fn zeros(folder: &Path, tensors: &[(&str, &[usize])]) -> PathBuf {
    let file = folder.join("zeros.safetensors");
    let tensors = tensors.iter().map(|(name, shape)| {
        let zeros = vec![0f32; shape.iter().product()];
        (name.to_string(), TensorData::new(zeros, shape.to_vec()))
    });
    write_safetensors(&file, tensors).unwrap();
    file
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let device = seq_transformer::device();
    let error = |tensors: &[(&str, &[usize])], heads: usize| {
        let file = zeros(folder.path(), tensors);
        let error = MultiHeadAttention::load_pytorch(&file, &PyTorchConfig::new(heads), &device);
        let error = error.unwrap_err().to_string();
        let place = file.display().to_string();
        assert!(error.starts_with(&place), "{error}");
        error[place.len()..].to_owned()
    };
    let weights: [(&str, &[usize]); 2] =
        [("in_proj_weight", &[18, 6]), ("out_proj.weight", &[6, 6])];
    let with = |more: &[(&'static str, &'static [usize])]| [&weights[..], more].concat();

    let found = error(&with(&[("bias_k", &[1, 1, 6]), ("bias_v", &[1, 1, 6])]), 2);
    assert_eq!(
        found,
        ": tensors that the module does not have: `bias_k`, `bias_v`"
    );
    let found = error(&weights, 4);
    assert!(
        found.starts_with(": field `num_heads`: num_heads must be a divisor of d_model"),
        "{found}"
    );
    assert!(error(&weights, 0).contains("num_heads must be at least 1, is 0"));
    let found = error(&[("in_proj_weight", &[12, 6]), weights[1]], 2);
    assert_eq!(
        found,
        ": tensor `in_proj_weight` has shape [12, 6], expected [18, 6]"
    );
    let found = error(
        &[("in_proj_weight", &[18, 6]), ("out_proj.weight", &[6])],
        2,
    );
    assert_eq!(
        found,
        ": tensor `out_proj.weight` has shape [6], expected [6, 6]"
    );
    assert!(error(&weights[1..], 2).starts_with(": no tensor `in_proj_weight`"));
    assert!(error(&weights[..1], 2).starts_with(": no tensor `out_proj.weight`"));
    let apart: [(&str, &[usize]); 4] = [
        ("q_proj_weight", &[6, 6]),
        ("k_proj_weight", &[6, 4]),
        ("v_proj_weight", &[6, 3]),
        weights[1],
    ];
    let found = error(&apart, 2);
    assert_eq!(
        found,
        ": tensor `v_proj_weight` has shape [6, 3], expected [6, 4]"
    );
}

#[test]
fn one_of_several_is_to_be_chosen() {
    let folder = tempfile::tempdir().unwrap();
    let device = seq_transformer::device();
    let (encoder, decoder) = (
        folder.path().join("encoder.safetensors"),
        folder.path().join("decoder.safetensors"),
    );
    let stack = EncoderConfig::new(2, block(true)).init(&device);
    stack.save_pytorch(&encoder).unwrap();
    let stack = DecoderConfig::new(2, decoder_block(true)).init(&device);
    stack.save_pytorch(&decoder).unwrap();

    // As `nn.Transformer` has them, in one file.
    let both = folder.path().join("both.safetensors");
    let mut tensors = Vec::new();
    for (prefix, file) in [("encoder", &encoder), ("decoder", &decoder)] {
        let mut checkpoint = Checkpoint::read(file).unwrap();
        for name in names(file) {
            let shape = checkpoint.shape(&name).unwrap().to_vec();
            let data = match *shape {
                [a] => checkpoint.take(&name, [a], &device).map(Tensor::into_data),
                [a, b] => checkpoint
                    .take(&name, [a, b], &device)
                    .map(Tensor::into_data),
                _ => panic!("{shape:?}"),
            };
            tensors.push((format!("transformer.{prefix}.{name}"), data.unwrap()));
        }
    }
    write_safetensors(&both, tensors).unwrap();

    let loaded = Decoder::load_pytorch(&both, &config(), &device).unwrap();
    assert_eq!((loaded.blocks.len(), loaded.norm.is_some()), (2, true));
    let error = Encoder::load_pytorch(&both, &config(), &device).unwrap_err();
    assert!(
        matches!(error, CheckpointError::AmbiguousPrefix { .. }),
        "{error}"
    );
    let mut checkpoint = Checkpoint::read(&both).unwrap();
    let part = checkpoint.split_off("transformer.encoder").unwrap();
    let loaded = Encoder::from_checkpoint(part, &config(), &device).unwrap();
    assert_eq!(loaded.blocks.len(), 2);
    assert_eq!(loaded.blocks[0].norm_position, NormPosition::Pre);

    // A layer that is not like the first.
    let mut checkpoint = Checkpoint::read(&both).unwrap();
    let mut part = checkpoint.split_off("transformer.encoder").unwrap();
    assert!(part.discard("layers.1.linear2.bias"));
    let error = Encoder::from_checkpoint(part, &config(), &device).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("no tensor `transformer.encoder.layers.1.linear2.bias`"),
        "{error}"
    );
}

#[test]
fn what_pytorch_has_not_is_not_saved() {
    let device = seq_transformer::device();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("module.safetensors");
    let rotary = attention().with_rotary(Some(RotaryConfig::new(4)));
    let refused = |config: MultiHeadAttentionConfig| {
        let config = MultiHeadAttentionConfig {
            head_width: config.rotary.as_ref().map(|_| 4),
            ..config
        };
        config
            .init(&device)
            .save_pytorch(&file)
            .unwrap_err()
            .to_string()
    };
    for (config, what) in [
        (rotary, "heads that do not make up its width"),
        (
            attention().with_num_kv_heads(Some(1)),
            "heads that do not make up its width",
        ),
        (attention().with_window(Some(3)), "window"),
        (attention().with_alibi(true), "linear biases"),
        (
            attention().with_bias(false),
            "bias in some of its maps alone",
        ),
    ] {
        let error = refused(config);
        assert!(
            error.ends_with(&format!("PyTorch's module has no {what}")),
            "{error}"
        );
    }
    let gated = FeedForwardConfig::new(6, 5).with_gated(true);
    let with = |block: TransformerBlockConfig, what: &str| {
        let error = block
            .init(&device)
            .save_pytorch(&file)
            .unwrap_err()
            .to_string();
        assert!(error.contains(what), "{error}");
    };
    with(
        TransformerBlockConfig::new(attention(), gated.into()),
        "no gate",
    );
    with(block(true).with_parallel(true), "no parallel");
    with(
        block(true).with_norm(NormConfig::Rms { epsilon: 1e-5 }),
        "no norm but LayerNorm",
    );
    assert!(!file.exists());
}
