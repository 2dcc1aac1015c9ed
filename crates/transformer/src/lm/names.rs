//! The parameters of language models by the names of Hugging Face.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::Tensor;
use seq_core::blocks::Norm;
use seq_core::checkpoint::Checkpoint;

use super::TransformerLm;
use super::hugging_face::Family;
use super::stored::Stored;
use crate::{FeedForward, Mlp, TransformerBlock};

/// Names and parameters, as they are collected.
type All<'a> = Vec<(String, Stored<'a>)>;

/// Drops what a checkpoint holds besides: masks and tables that are computed, and a head that is the embedding.
pub(super) fn discard(checkpoint: &mut Checkpoint, family: Family, tied: bool) {
    let computed = [
        ".attn.bias",
        ".attn.masked_bias",
        ".attention.bias",
        ".attention.masked_bias",
        ".rotary_emb.inv_freq",
    ];
    let head = match family {
        Family::GptNeoX => "embed_out.weight",
        _ => "lm_head.weight",
    };
    let names: Vec<String> = checkpoint.names().map(str::to_owned).collect();
    for name in names {
        if computed.iter().any(|end| name.ends_with(end)) || (tied && name == head) {
            checkpoint.discard(&name);
        }
    }
}

/// All parameters of a model by name. GPT-2's have a prefix in some files and none in others.
pub(super) fn named<'a>(
    model: &'a mut TransformerLm,
    family: Family,
    with_prefix: bool,
) -> All<'a> {
    let prefix = match (family, with_prefix) {
        (Family::Gpt2, true) => "transformer.",
        (Family::Gpt2, false) => "",
        (Family::Llama, _) => "model.",
        (Family::GptNeoX, _) => "gpt_neox.",
    };
    let [embedding, layers, norm, head] = match family {
        Family::Gpt2 => ["wte", "h", "ln_f", "lm_head"],
        Family::Llama => ["embed_tokens", "layers", "norm", "lm_head"],
        Family::GptNeoX => ["embed_in", "layers", "final_layer_norm", "embed_out"],
    };
    let mut all: All<'a> = Vec::new();
    let weight = Stored::Matrix(&mut model.embedding.weight);
    all.push((format!("{prefix}{embedding}.weight"), weight));
    if let Some(positions) = &mut model.layer.positions
        && let Some(weight) = &mut positions.weight
    {
        all.push((format!("{prefix}wpe.weight"), Stored::Matrix(weight)));
    }
    for (index, block) in model.layer.blocks.iter_mut().enumerate() {
        let prefix = format!("{prefix}{layers}.{index}");
        match family {
            Family::Gpt2 => gpt2(&mut all, &prefix, block),
            Family::Llama => llama(&mut all, &prefix, block),
            Family::GptNeoX => gpt_neox(&mut all, &prefix, block),
        }
    }
    if let Some(last) = &mut model.layer.norm {
        push_norm(&mut all, &format!("{prefix}{norm}"), last);
    }
    if let Some(linear) = &mut model.head {
        push_linear(&mut all, head, linear);
    }
    all
}

pub(crate) fn push_norm<'a>(all: &mut All<'a>, name: &str, norm: &'a mut Norm) {
    let (gamma, beta) = match norm {
        Norm::Layer(norm) => (&mut norm.gamma, norm.beta.as_mut()),
        Norm::Rms(norm) => (&mut norm.gamma, None),
    };
    all.push((format!("{name}.weight"), Stored::Vector(gamma)));
    if let Some(beta) = beta {
        all.push((format!("{name}.bias"), Stored::Vector(beta)));
    }
}

pub(crate) fn push_linear<'a>(all: &mut All<'a>, name: &str, linear: &'a mut Linear) {
    all.push((format!("{name}.weight"), Stored::Turned(&mut linear.weight)));
    if let Some(bias) = &mut linear.bias {
        all.push((format!("{name}.bias"), Stored::Vector(bias)));
    }
}

/// A linear map that GPT-2 has as Burn has it.
fn push_as_is<'a>(all: &mut All<'a>, name: &str, linear: &'a mut Linear) {
    all.push((format!("{name}.weight"), Stored::Matrix(&mut linear.weight)));
    if let Some(bias) = &mut linear.bias {
        all.push((format!("{name}.bias"), Stored::Vector(bias)));
    }
}

type Three<'a, const D: usize> = [&'a mut Param<Tensor<D>>; 3];

/// The weights and the biases of three linear maps.
fn three<'a>(maps: [&'a mut Linear; 3]) -> (Three<'a, 2>, Option<Three<'a, 1>>) {
    let [a, b, c] = maps;
    let biases = match (&mut a.bias, &mut b.bias, &mut c.bias) {
        (Some(a), Some(b), Some(c)) => Some([a, b, c]),
        _ => None,
    };
    ([&mut a.weight, &mut b.weight, &mut c.weight], biases)
}

fn gpt2<'a>(all: &mut All<'a>, prefix: &str, block: &'a mut TransformerBlock) {
    push_norm(all, &format!("{prefix}.ln_1"), &mut block.attention_norm);
    push_norm(all, &format!("{prefix}.ln_2"), &mut block.feed_forward_norm);
    let attention = &mut block.attention;
    let maps = [&mut attention.query, &mut attention.key, &mut attention.value];
    let (weights, biases) = three(maps);
    all.push((format!("{prefix}.attn.c_attn.weight"), Stored::Joined(weights)));
    if let Some(biases) = biases {
        let biases = Stored::JoinedVectors(biases, 1);
        all.push((format!("{prefix}.attn.c_attn.bias"), biases));
    }
    push_as_is(all, &format!("{prefix}.attn.c_proj"), &mut attention.output);
    if let Mlp::Dense(layer) = &mut block.feed_forward {
        push_as_is(all, &format!("{prefix}.mlp.c_fc"), &mut layer.input);
        push_as_is(all, &format!("{prefix}.mlp.c_proj"), &mut layer.output);
    }
}

fn gpt_neox<'a>(all: &mut All<'a>, prefix: &str, block: &'a mut TransformerBlock) {
    push_norm(all, &format!("{prefix}.input_layernorm"), &mut block.attention_norm);
    let norm = format!("{prefix}.post_attention_layernorm");
    push_norm(all, &norm, &mut block.feed_forward_norm);
    let attention = &mut block.attention;
    let heads = attention.query.weight.lazy_shape().dims::<2>()[1] / attention.d_head;
    let maps = [&mut attention.query, &mut attention.key, &mut attention.value];
    let (weights, biases) = three(maps);
    let name = format!("{prefix}.attention.query_key_value");
    all.push((format!("{name}.weight"), Stored::JoinedTurned(weights, heads)));
    if let Some(biases) = biases {
        all.push((format!("{name}.bias"), Stored::JoinedVectors(biases, heads)));
    }
    push_linear(all, &format!("{prefix}.attention.dense"), &mut attention.output);
    if let Mlp::Dense(layer) = &mut block.feed_forward {
        push_linear(all, &format!("{prefix}.mlp.dense_h_to_4h"), &mut layer.input);
        push_linear(all, &format!("{prefix}.mlp.dense_4h_to_h"), &mut layer.output);
    }
}

fn llama<'a>(all: &mut All<'a>, prefix: &str, block: &'a mut TransformerBlock) {
    push_norm(all, &format!("{prefix}.input_layernorm"), &mut block.attention_norm);
    let norm = format!("{prefix}.post_attention_layernorm");
    push_norm(all, &norm, &mut block.feed_forward_norm);
    let attention = &mut block.attention;
    let maps = [
        ("q_proj", &mut attention.query),
        ("k_proj", &mut attention.key),
        ("v_proj", &mut attention.value),
        ("o_proj", &mut attention.output),
    ];
    for (name, map) in maps {
        push_linear(all, &format!("{prefix}.self_attn.{name}"), map);
    }
    let norms = [
        ("q_norm", &mut attention.query_norm),
        ("k_norm", &mut attention.key_norm),
    ];
    for (name, norm) in norms {
        if let Some(norm) = norm {
            push_norm(all, &format!("{prefix}.self_attn.{name}"), norm);
        }
    }
    match &mut block.feed_forward {
        Mlp::Dense(layer) => {
            push_gated(all, [
                format!("{prefix}.mlp.gate_proj"),
                format!("{prefix}.mlp.up_proj"),
                format!("{prefix}.mlp.down_proj"),
            ], layer);
        }
        Mlp::Experts(mixture) => {
            let prefix = format!("{prefix}.block_sparse_moe");
            push_linear(all, &format!("{prefix}.gate"), &mut mixture.router);
            for (index, expert) in mixture.experts.iter_mut().enumerate() {
                let name = |part: &str| format!("{prefix}.experts.{index}.{part}");
                push_gated(all, [name("w1"), name("w3"), name("w2")], expert);
            }
        }
    }
}

fn push_gated<'a>(
    all: &mut All<'a>,
    [gate, up, down]: [String; 3],
    layer: &'a mut FeedForward,
) {
    if let Some(map) = &mut layer.gate {
        push_linear(all, &gate, map);
    }
    push_linear(all, &up, &mut layer.input);
    push_linear(all, &down, &mut layer.output);
}
