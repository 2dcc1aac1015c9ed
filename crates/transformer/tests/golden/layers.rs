//! Encoder and decoder layers of PyTorch.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Bool, Tensor};
use seq_core::blocks::Norm;
use seq_core::testing::Run;
use seq_transformer::{
    Activation, AttentionMask, Checkpoint, DecoderBlock, Lengths, Mlp, MultiHeadAttention,
    PyTorchConfig, PyTorchModule, TransformerBlock,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    d_model: usize,
    num_heads: usize,
    d_ff: usize,
    norm_first: bool,
    activation: String,
    norm_eps: f64,
    bias: bool,
    causal: bool,
    batch: usize,
    time: usize,
    padding_mask: bool,
    // Of decoders alone.
    time_memory: Option<usize>,
    memory_padding_mask: Option<bool>,
}

pub fn encoder(config: Layer, run: &mut Run) {
    let mut block: TransformerBlock = load(&config, run);
    assert_eq!(
        (config.time_memory, config.memory_padding_mask),
        (None, None)
    );
    attention(&config, "self_attn", &mut block.attention, run);
    feed_forward(&config, &mut block.feed_forward, run);
    norm(&config, "norm1", &mut block.attention_norm, run);
    norm(&config, "norm2", &mut block.feed_forward_norm, run);
    let x = run.float("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.d_model]);
    let mask = mask(&config, config.padding_mask, "input.attention_mask", run);
    let causal = config.causal;
    run.output("y", block.encode(x, &AttentionMask { causal, ..mask }));
}

pub fn decoder(config: Layer, run: &mut Run) {
    let mut block: DecoderBlock = load(&config, run);
    attention(&config, "self_attn", &mut block.attention, run);
    attention(&config, "multihead_attn", &mut block.cross_attention, run);
    feed_forward(&config, &mut block.feed_forward, run);
    norm(&config, "norm1", &mut block.attention_norm, run);
    norm(&config, "norm2", &mut block.cross_norm, run);
    norm(&config, "norm3", &mut block.feed_forward_norm, run);
    let x = run.float("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.d_model]);
    let memory = run.float("input.memory");
    let time_memory = config.time_memory.expect("time_memory");
    assert_eq!(memory.dims(), [config.batch, time_memory, config.d_model]);
    let mask_of = |present, name: &str, run: &mut Run| mask(&config, present, name, run);
    let mask = mask_of(config.padding_mask, "input.attention_mask", run);
    let present = config.memory_padding_mask.expect("memory_padding_mask");
    let memory_mask = mask_of(present, "input.memory_attention_mask", run);
    let mask = AttentionMask {
        causal: config.causal,
        ..mask
    };
    let memory = block.remember(memory);
    run.output("y", block.decode(x, &memory, &mask, &memory_mask));
}

/// The layer as a user loads it, from the case's own file.
fn load<M: PyTorchModule>(config: &Layer, run: &Run) -> M {
    let pytorch = PyTorchConfig::new(config.num_heads)
        .with_norm_first(config.norm_first)
        .with_layer_norm_eps(config.norm_eps)
        .with_activation(match config.activation.as_str() {
            "relu" => Activation::Relu,
            "gelu" => Activation::Gelu,
            other => panic!("unknown activation {other}"),
        });
    let weights = Checkpoint::read(run.file()).and_then(|mut file| file.split_off("weight"));
    let options = (run.device(), run.dtype());
    let layer = weights.and_then(|weights| M::from_checkpoint(weights, &pytorch, options));
    layer.unwrap_or_else(|error| panic!("{error}"))
}

/// What the padding hides: where there are gradients by a mask, otherwise by lengths if they can say it.
fn mask(config: &Layer, present: bool, name: &str, run: &mut Run) -> AttentionMask {
    if !present {
        return AttentionMask::default();
    }
    let mask = run.mask::<2>(name);
    let [batch, time] = mask.dims();
    assert_eq!(batch, config.batch);
    let rows = run.numbers(name);
    let rows = rows.chunks(time);
    let lengths: Vec<usize> = rows.clone().map(|row| row.iter().sum()).collect();
    let mut ends = rows.zip(&lengths);
    match ends.all(|(row, &length)| !row[length..].contains(&1)) && !run.device().is_autodiff() {
        true => AttentionMask {
            lengths: Some(Lengths::from(lengths)),
            ..AttentionMask::default()
        },
        false => {
            let mask: Tensor<4, Bool> = mask.reshape([batch, 1, 1, time]);
            AttentionMask {
                mask: Some(mask),
                ..AttentionMask::default()
            }
        }
    }
}

/// Puts a weight of the case in the place of the one that was loaded, where its gradient is asked for.
fn put<const D: usize>(param: &mut Param<Tensor<D>>, weight: Tensor<D>, run: &Run) {
    assert_eq!(param.dims(), weight.dims());
    if run.device().is_autodiff() {
        *param = Param::initialized(Default::default(), weight);
    }
}

fn vector(name: &str, param: Option<&mut Param<Tensor<1>>>, bias: bool, run: &mut Run) {
    assert_eq!(param.is_some(), bias, "{name}");
    if let Some(param) = param {
        let weight = run.float(&format!("weight.{name}"));
        put(param, weight, run);
    }
}

fn map(config: &Layer, name: &str, map: &mut Linear, run: &mut Run) {
    let weight = run.float::<2>(&format!("weight.{name}.weight"));
    put(&mut map.weight, weight.transpose(), run);
    vector(&format!("{name}.bias"), map.bias.as_mut(), config.bias, run);
}

fn norm(config: &Layer, name: &str, norm: &mut Norm, run: &mut Run) {
    let Norm::Layer(norm) = norm else {
        panic!("{name} is no LayerNorm")
    };
    vector(&format!("{name}.weight"), Some(&mut norm.gamma), true, run);
    let bias = norm.beta.as_mut();
    vector(&format!("{name}.bias"), bias, config.bias, run);
}

fn feed_forward(config: &Layer, layer: &mut Mlp, run: &mut Run) {
    let Mlp::Dense(layer) = layer else {
        panic!("a mixture of experts")
    };
    assert_eq!(layer.input.weight.dims(), [config.d_model, config.d_ff]);
    map(config, "linear1", &mut layer.input, run);
    map(config, "linear2", &mut layer.output, run);
}

fn attention(config: &Layer, name: &str, layer: &mut MultiHeadAttention, run: &mut Run) {
    assert_eq!(layer.d_head * config.num_heads, config.d_model);
    let width = config.d_model;
    let weight = run.float::<2>(&format!("weight.{name}.in_proj_weight"));
    let bias_name = format!("weight.{name}.in_proj_bias");
    let bias = config.bias.then(|| run.float::<1>(&bias_name));
    let maps = [&mut layer.query, &mut layer.key, &mut layer.value];
    for (i, map) in maps.into_iter().enumerate() {
        let part = weight.clone().narrow(0, i * width, width);
        put(&mut map.weight, part.transpose(), run);
        assert_eq!(map.bias.is_some(), config.bias);
        if let Some((param, bias)) = map.bias.as_mut().zip(bias.clone()) {
            put(param, bias.narrow(0, i * width, width), run);
        }
    }
    map(config, &format!("{name}.out_proj"), &mut layer.output, run);
}
