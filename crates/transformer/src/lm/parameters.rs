//! The parameters of language models by the names of Hugging Face's checkpoints.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Tensor, TensorCreationOptions};
use seq_core::checkpoint::{Checkpoint, CheckpointError, Parameters, Stored};

use super::hugging_face::Family;
use super::{TransformerLm, TransformerLmConfig};
use crate::{Mlp, MultiHeadAttention};

/// All parameters of a model by name.
pub(super) fn named(model: &mut TransformerLm, family: Family) -> Parameters<'_> {
    match family {
        Family::Gpt2 => gpt2(model),
        Family::Llama => llama(model),
        Family::GptNeoX => gpt_neox(model),
    }
}

/// How the names of a file differ from those of [`named`].
pub(super) struct Names {
    /// What they begin with there, and not here, as in files of a model without its head.
    without: Option<&'static str>,
    /// The name of the head there.
    head: &'static str,
}

impl Names {
    pub fn of(checkpoint: &Checkpoint, family: Family) -> Self {
        let (prefix, embedding, heads): (_, _, &[_]) = match family {
            Family::Gpt2 => ("transformer.", "wte.weight", &["lm_head.weight"]),
            Family::Llama => ("model.", "embed_tokens.weight", &["lm_head.weight"]),
            Family::GptNeoX => {
                let heads = &["embed_out.weight", "lm_head.weight"];
                ("gpt_neox.", "embed_in.weight", heads)
            }
        };
        let has = |name: &str| checkpoint.shape(name).is_some();
        let bare = has(embedding) && !has(&format!("{prefix}{embedding}"));
        Self {
            without: bare.then_some(prefix),
            head: heads.iter().find(|head| has(head)).unwrap_or(&heads[0]),
        }
    }

    /// The name in the file.
    pub fn find<'a>(&self, name: &'a str) -> &'a str
    where
        'static: 'a,
    {
        match self.without.and_then(|prefix| name.strip_prefix(prefix)) {
            Some(rest) => rest,
            None if matches!(name, "lm_head.weight" | "embed_out.weight") => self.head,
            None => name,
        }
    }

    /// Drops what is no parameter: masks of what is ahead and angles of positions, which are computed here, and
    /// the copy of a tied embedding.
    pub fn drop_copies(
        &self,
        checkpoint: &mut Checkpoint,
        family: Family,
        config: &TransformerLmConfig,
    ) {
        let (prefix, buffers): (_, &[&str]) = match family {
            Family::Gpt2 => ("transformer.h", &["attn.bias", "attn.masked_bias"]),
            Family::Llama => ("model.layers", &["self_attn.rotary_emb.inv_freq"]),
            Family::GptNeoX => (
                "gpt_neox.layers",
                &[
                    "attention.bias",
                    "attention.masked_bias",
                    "attention.rotary_emb.inv_freq",
                ],
            ),
        };
        for layer in 0..config.transformer.num_layers {
            for buffer in buffers {
                let name = format!("{prefix}.{layer}.{buffer}");
                checkpoint.discard(self.find(&name));
            }
        }
        if config.tied_embeddings {
            checkpoint.discard(self.head);
        }
    }
}

fn gpt2(model: &mut TransformerLm) -> Parameters<'_> {
    let mut all = Parameters::new();
    let embedding = Stored::Matrix(&mut model.embedding.weight);
    all.push("transformer.wte.weight", embedding);
    let positions = model.layer.positions.as_mut();
    if let Some(weight) = positions.and_then(|positions| positions.weight.as_mut()) {
        let weight = Stored::Matrix(weight);
        all.push("transformer.wpe.weight", weight);
    }
    for (i, block) in model.layer.blocks.iter_mut().enumerate() {
        let prefix = format!("transformer.h.{i}");
        all.norm(&format!("{prefix}.ln_1"), &mut block.attention_norm);
        all.norm(&format!("{prefix}.ln_2"), &mut block.feed_forward_norm);
        let name = format!("{prefix}.attn.c_attn");
        let output = together(&mut all, &name, &mut block.attention, Stored::Matrices, 1);
        conv1d(&mut all, &format!("{prefix}.attn.c_proj"), output);
        if let Mlp::Dense(layer) = &mut block.feed_forward {
            conv1d(&mut all, &format!("{prefix}.mlp.c_fc"), &mut layer.input);
            conv1d(&mut all, &format!("{prefix}.mlp.c_proj"), &mut layer.output);
        }
    }
    if let Some(last) = &mut model.layer.norm {
        all.norm("transformer.ln_f", last);
    }
    if let Some(map) = &mut model.head {
        all.linear("lm_head", map);
    }
    all
}

fn gpt_neox(model: &mut TransformerLm) -> Parameters<'_> {
    let mut all = Parameters::new();
    let embedding = Stored::Matrix(&mut model.embedding.weight);
    all.push("gpt_neox.embed_in.weight", embedding);
    for (i, block) in model.layer.blocks.iter_mut().enumerate() {
        let prefix = format!("gpt_neox.layers.{i}");
        let name = format!("{prefix}.input_layernorm");
        all.norm(&name, &mut block.attention_norm);
        let name = format!("{prefix}.post_attention_layernorm");
        all.norm(&name, &mut block.feed_forward_norm);
        let heads =
            block.attention.query.weight.lazy_shape().dims::<2>()[1] / block.attention.d_head;
        let name = format!("{prefix}.attention.query_key_value");
        let attention = &mut block.attention;
        let output = together(
            &mut all,
            &name,
            attention,
            Stored::TransposedMatrices,
            heads,
        );
        all.linear(&format!("{prefix}.attention.dense"), output);
        if let Mlp::Dense(layer) = &mut block.feed_forward {
            let name = format!("{prefix}.mlp.dense_h_to_4h");
            all.linear(&name, &mut layer.input);
            let name = format!("{prefix}.mlp.dense_4h_to_h");
            all.linear(&name, &mut layer.output);
        }
    }
    if let Some(last) = &mut model.layer.norm {
        all.norm("gpt_neox.final_layer_norm", last);
    }
    if let Some(map) = &mut model.head {
        all.linear("embed_out", map);
    }
    all
}

/// A linear map as GPT-2's `Conv1D` has it, `[d_input, d_output]`.
fn conv1d<'a>(all: &mut Parameters<'a>, name: &str, map: &'a mut Linear) {
    all.push(format!("{name}.weight"), Stored::Matrix(&mut map.weight));
    all.bias(name, map.bias.as_mut());
}

/// Queries, keys and values in one map; gives the map of the output.
fn together<'a>(
    all: &mut Parameters<'a>,
    name: &str,
    attention: &'a mut MultiHeadAttention,
    matrices: fn([&'a mut Param<Tensor<2>>; 3], usize) -> Stored<'a>,
    heads: usize,
) -> &'a mut Linear {
    let [query, key, value] = [
        &mut attention.query,
        &mut attention.key,
        &mut attention.value,
    ];
    let weights = [&mut query.weight, &mut key.weight, &mut value.weight];
    all.push(format!("{name}.weight"), matrices(weights, heads));
    let biases = [&mut query.bias, &mut key.bias, &mut value.bias];
    if let [Some(query), Some(key), Some(value)] = biases.map(Option::as_mut) {
        let biases = Stored::Vectors([query, key, value], heads);
        all.push(format!("{name}.bias"), biases);
    }
    &mut attention.output
}

fn llama(model: &mut TransformerLm) -> Parameters<'_> {
    let mut all = Parameters::new();
    let embedding = Stored::Matrix(&mut model.embedding.weight);
    all.push("model.embed_tokens.weight", embedding);
    for (i, block) in model.layer.blocks.iter_mut().enumerate() {
        let prefix = format!("model.layers.{i}");
        let name = format!("{prefix}.input_layernorm");
        all.norm(&name, &mut block.attention_norm);
        let name = format!("{prefix}.post_attention_layernorm");
        all.norm(&name, &mut block.feed_forward_norm);
        let attention = &mut block.attention;
        let maps = [
            ("q_proj", &mut attention.query),
            ("k_proj", &mut attention.key),
            ("v_proj", &mut attention.value),
            ("o_proj", &mut attention.output),
        ];
        for (name, map) in maps {
            all.linear(&format!("{prefix}.self_attn.{name}"), map);
        }
        let norms = [
            ("q_norm", attention.query_norm.as_mut()),
            ("k_norm", attention.key_norm.as_mut()),
        ];
        for (name, of_heads) in norms {
            if let Some(of_heads) = of_heads {
                all.norm(&format!("{prefix}.self_attn.{name}"), of_heads);
            }
        }
        match &mut block.feed_forward {
            Mlp::Dense(layer) => {
                let prefix = format!("{prefix}.mlp");
                if let Some(gate) = &mut layer.gate {
                    all.linear(&format!("{prefix}.gate_proj"), gate);
                }
                all.linear(&format!("{prefix}.up_proj"), &mut layer.input);
                all.linear(&format!("{prefix}.down_proj"), &mut layer.output);
            }
            Mlp::Experts(layer) => {
                let prefix = format!("{prefix}.block_sparse_moe");
                all.linear(&format!("{prefix}.gate"), &mut layer.router);
                for (i, expert) in layer.experts.iter_mut().enumerate() {
                    let prefix = format!("{prefix}.experts.{i}");
                    if let Some(gate) = &mut expert.gate {
                        all.linear(&format!("{prefix}.w1"), gate);
                    }
                    all.linear(&format!("{prefix}.w3"), &mut expert.input);
                    all.linear(&format!("{prefix}.w2"), &mut expert.output);
                }
            }
        }
    }
    if let Some(last) = &mut model.layer.norm {
        all.norm("model.norm", last);
    }
    if let Some(map) = &mut model.head {
        all.linear("lm_head", map);
    }
    all
}

/// Takes the experts of transformers 5, all of a layer in one tensor, where a file has them so:
/// `gate_up_proj` `[num_experts, 2 d_hidden, d_model]`, `down_proj` `[num_experts, d_model, d_hidden]`. Says
/// whether it has.
pub(super) fn take_packed_experts(
    model: &mut TransformerLm,
    checkpoint: &mut Checkpoint,
    options: &TensorCreationOptions,
) -> Result<bool, CheckpointError> {
    let mut found = false;
    for (i, block) in model.layer.blocks.iter_mut().enumerate() {
        let prefix = format!("model.layers.{i}.mlp");
        let packed = format!("{prefix}.experts.gate_up_proj");
        let Mlp::Experts(layer) = &mut block.feed_forward else {
            continue;
        };
        if checkpoint.shape(&packed).is_none() {
            continue;
        }
        found = true;
        let router = Stored::Transposed(&mut layer.router.weight);
        router.take(
            &format!("{prefix}.gate.weight"),
            checkpoint,
            options.clone(),
        )?;
        let count = layer.experts.len();
        let [d_model, d_hidden] = layer.experts[0].input.weight.lazy_shape().dims();
        let shape = [count, 2 * d_hidden, d_model];
        let before = checkpoint.take::<3>(&packed, shape, options.clone())?;
        let shape = [count, d_model, d_hidden];
        let name = format!("{prefix}.experts.down_proj");
        let after = checkpoint.take::<3>(&name, shape, options.clone())?;
        let of = |packed: &Tensor<3>, expert: usize, from: usize, rows: usize| {
            let part = packed.clone().narrow(0, expert, 1).narrow(1, from, rows);
            let part = part.squeeze_dim::<2>(0).transpose();
            // A view would keep all experts, and be copied by every use.
            let place = (&part.device(), part.dtype());
            Param::from_tensor(Tensor::from_data(part.into_data(), place))
        };
        for (i, expert) in layer.experts.iter_mut().enumerate() {
            if let Some(gate) = &mut expert.gate {
                gate.weight = of(&before, i, 0, d_hidden);
            }
            expert.input.weight = of(&before, i, d_hidden, d_hidden);
            expert.output.weight = of(&after, i, 0, d_model);
        }
    }
    Ok(found)
}
