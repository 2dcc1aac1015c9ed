//! Language models of Hugging Face.

use std::path::Path;

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{DType, Int, Tensor, TensorData};
use seq_core::blocks::Norm;
use seq_core::checkpoint::{Checkpoint, write_safetensors};
use seq_core::models::Sampler;
use seq_core::testing::Run;
use seq_transformer::{Mlp, TransformerLm, load_pretrained};
use serde::Deserialize;
use serde_json::Value;

/// What `hf` says too is read from there by the loader.
#[derive(Deserialize)]
pub struct CausalLm {
    vocab_size: usize,
    d_model: usize,
    num_layers: usize,
    batch: usize,
    time: usize,
    new_tokens: usize,
    with_gradients: bool,
    hf: Value,
}

/// The folder in which a user would have the case's weights.
pub fn write_folder(folder: &Path, hf: &Value, run: &mut Run) {
    let mut checkpoint = Checkpoint::read(run.file()).expect("the case's own file");
    let mut weights = checkpoint.split_off("weight").expect("weights");
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    // A reference that has no gradients has no leaves either.
    let nothing = Tensor::<1>::ones([1], run.device());
    let device = run.device().clone();
    let options = (&device, DType::F64);
    let mut tensors = Vec::new();
    for name in names {
        let shape = weights.shape(&name).expect("a tensor").to_vec();
        let data = match *shape {
            [a] => weights.take(&name, [a], options).map(Tensor::into_data),
            [a, b] => weights.take(&name, [a, b], options).map(Tensor::into_data),
            [a, b, c] => (weights.take(&name, [a, b, c], options)).map(Tensor::into_data),
            _ => panic!("`{name}` has shape {shape:?}"),
        };
        run.track(&format!("weight.{name}"), &nothing);
        tensors.push((name, data.expect("a tensor of the case")));
    }
    write_safetensors(folder.join("model.safetensors"), tensors).expect("weights are saved");
    std::fs::write(folder.join("config.json"), hf.to_string()).expect("a configuration is saved");
}

/// The model comes out of a folder, as a user's does.
pub fn case(config: CausalLm, run: &mut Run) {
    let folder = tempfile::tempdir().expect("a folder for the model");
    write_folder(folder.path(), &config.hf, run);
    let loaded = load_pretrained(folder.path(), (run.device(), run.dtype()));
    let (mut model, read) = loaded.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.vocab_size(), config.vocab_size);
    let transformer = &read.transformer;
    assert_eq!(
        (transformer.num_layers, transformer.d_model()),
        (config.num_layers, config.d_model)
    );
    if config.with_gradients {
        put_leaves(&mut model, run);
    }
    let ids = run.int::<2>("input.input_ids");
    assert_eq!(ids.dims(), [config.batch, config.time]);
    run.output("logits", model.forward(ids, None).0);

    let prompt = run.numbers("input.prompt");
    let prompt: Vec<u32> = prompt.iter().map(|&id| id as u32).collect();
    let written = model.generate(&prompt, Sampler::greedy());
    let written: Vec<u32> = written.take(config.new_tokens).collect();
    // Without the state, all is read again for each symbol.
    let mut again = prompt;
    for &expected in &written {
        let ids = TensorData::new(again.clone(), [1, again.len()]);
        let (logits, _) = model.forward(Tensor::from_data(ids, run.device()), None);
        let last = logits.narrow(1, again.len() - 1, 1).into_data();
        let last: Vec<f32> = last.iter::<f32>().collect();
        assert_eq!(Sampler::greedy().sample(&last), expected);
        again.push(expected);
    }
    let tokens: Vec<i64> = written.into_iter().map(i64::from).collect();
    let tokens = TensorData::new(tokens, [1, config.new_tokens]);
    let tokens = Tensor::<2, Int>::from_data(tokens, run.device());
    run.output_int("greedy_tokens", tokens);
}

/// The case's own tensors in place of those that were loaded, so that each has a gradient.
fn put_leaves(model: &mut TransformerLm, run: &mut Run) {
    if run.has("weight.transformer.wte.weight") {
        put_gpt2(model, run);
    } else {
        put_llama(model, run);
    }
}

fn vector(param: &mut Param<Tensor<1>>, name: &str, run: &mut Run) {
    *param = Param::from_tensor(run.float(&format!("weight.{name}")));
}

fn matrix(param: &mut Param<Tensor<2>>, name: &str, run: &mut Run) {
    *param = Param::from_tensor(run.float(&format!("weight.{name}")));
}

fn set<const D: usize>(param: &mut Param<Tensor<D>>, tensor: Tensor<D>) {
    *param = Param::initialized(Default::default(), tensor);
}

fn linear(map: &mut Linear, name: &str, run: &mut Run) {
    let weight: Tensor<2> = run.float(&format!("weight.{name}.weight"));
    set(&mut map.weight, weight.transpose());
    if let Some(bias) = &mut map.bias {
        vector(bias, &format!("{name}.bias"), run);
    }
}

fn norm(norm: &mut Norm, name: &str, run: &mut Run) {
    match norm {
        Norm::Rms(norm) => vector(&mut norm.gamma, &format!("{name}.weight"), run),
        Norm::Layer(norm) => {
            vector(&mut norm.gamma, &format!("{name}.weight"), run);
            if let Some(beta) = &mut norm.beta {
                vector(beta, &format!("{name}.bias"), run);
            }
        }
    }
}

fn put_llama(model: &mut TransformerLm, run: &mut Run) {
    let embedding = &mut model.embedding.weight;
    matrix(embedding, "model.embed_tokens.weight", run);
    for (i, block) in model.layer.blocks.iter_mut().enumerate() {
        let name = |rest: &str| format!("model.layers.{i}.{rest}");
        norm(&mut block.attention_norm, &name("input_layernorm"), run);
        let after = name("post_attention_layernorm");
        norm(&mut block.feed_forward_norm, &after, run);
        let attention = &mut block.attention;
        linear(&mut attention.query, &name("self_attn.q_proj"), run);
        linear(&mut attention.key, &name("self_attn.k_proj"), run);
        linear(&mut attention.value, &name("self_attn.v_proj"), run);
        linear(&mut attention.output, &name("self_attn.o_proj"), run);
        if let Some(of_query) = &mut attention.query_norm {
            norm(of_query, &name("self_attn.q_norm"), run);
        }
        if let Some(of_key) = &mut attention.key_norm {
            norm(of_key, &name("self_attn.k_norm"), run);
        }
        let Mlp::Dense(mlp) = &mut block.feed_forward else {
            panic!("gradients of experts are not compared")
        };
        let gate = mlp.gate.as_mut().expect("a gate");
        linear(gate, &name("mlp.gate_proj"), run);
        linear(&mut mlp.input, &name("mlp.up_proj"), run);
        linear(&mut mlp.output, &name("mlp.down_proj"), run);
    }
    let last = model.layer.norm.as_mut().expect("a last norm");
    norm(last, "model.norm", run);
    if let Some(head) = &mut model.head {
        linear(head, "lm_head", run);
    }
}

fn conv1d(map: &mut Linear, name: &str, run: &mut Run) {
    matrix(&mut map.weight, &format!("{name}.weight"), run);
    let bias = map.bias.as_mut().expect("a bias");
    vector(bias, &format!("{name}.bias"), run);
}

fn put_gpt2(model: &mut TransformerLm, run: &mut Run) {
    let embedding = &mut model.embedding.weight;
    matrix(embedding, "transformer.wte.weight", run);
    let positions = model.layer.positions.as_mut().expect("positions");
    let positions = positions.weight.as_mut().expect("a table");
    matrix(positions, "transformer.wpe.weight", run);
    for (i, block) in model.layer.blocks.iter_mut().enumerate() {
        let name = |rest: &str| format!("transformer.h.{i}.{rest}");
        norm(&mut block.attention_norm, &name("ln_1"), run);
        norm(&mut block.feed_forward_norm, &name("ln_2"), run);
        let attention = &mut block.attention;
        let weight: Tensor<2> = run.float(&format!("weight.{}", name("attn.c_attn.weight")));
        let bias: Tensor<1> = run.float(&format!("weight.{}", name("attn.c_attn.bias")));
        let maps = [
            &mut attention.query,
            &mut attention.key,
            &mut attention.value,
        ];
        let [width, _] = weight.dims();
        for (part, map) in maps.into_iter().enumerate() {
            let columns = weight.clone().narrow(1, part * width, width);
            set(&mut map.weight, columns);
            let elements = bias.clone().narrow(0, part * width, width);
            set(map.bias.as_mut().expect("a bias"), elements);
        }
        conv1d(&mut attention.output, &name("attn.c_proj"), run);
        let Mlp::Dense(mlp) = &mut block.feed_forward else {
            panic!("GPT-2 has no experts")
        };
        conv1d(&mut mlp.input, &name("mlp.c_fc"), run);
        conv1d(&mut mlp.output, &name("mlp.c_proj"), run);
    }
    let last = model.layer.norm.as_mut().expect("a last norm");
    norm(last, "transformer.ln_f", run);
    if let Some(head) = &mut model.head {
        linear(head, "lm_head", run);
    }
}
