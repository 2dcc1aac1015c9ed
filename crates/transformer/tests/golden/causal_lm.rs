//! Language models of Hugging Face, loaded as a user's are.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{DType, Int, Tensor, TensorData};
use seq_core::blocks::Norm;
use seq_core::checkpoint::{Checkpoint, write_safetensors};
use seq_core::models::Sampler;
use seq_core::testing::Run;
use seq_transformer::{Mlp, TransformerLm, load_pretrained};
use serde::Deserialize;

/// What `hf` says too is read from there by the loader.
#[derive(Deserialize)]
pub struct LmConfig {
    vocab_size: usize,
    d_model: usize,
    num_layers: usize,
    batch: usize,
    time: usize,
    new_tokens: usize,
    with_gradients: bool,
    hf: serde_json::Value,
}

/// Writes the case's weights and configuration as a folder of Hugging Face, and tells the run that all are in use.
pub fn folder_of(hf: &serde_json::Value, run: &mut Run, track: bool) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder for the model");
    let mut checkpoint = Checkpoint::read(run.file()).expect("the case's own file");
    let mut weights = checkpoint.split_off("weight").expect("weights");
    let shapes: Vec<(String, Vec<usize>)> = weights
        .names()
        .map(|name| (name.to_owned(), weights.shape(name).unwrap_or(&[]).to_vec()))
        .collect();
    let device = run.device().clone();
    let options = || (&device, DType::F64);
    let mut tensors = Vec::new();
    for (name, shape) in shapes {
        let data = match *shape {
            [a] => weights.take(&name, [a], options()).map(Tensor::into_data),
            [a, b] => weights.take(&name, [a, b], options()).map(Tensor::into_data),
            _ => panic!("`{name}` has shape {shape:?}"),
        };
        if track {
            let nothing = Tensor::<1>::ones([1], run.device());
            run.track(&format!("weight.{name}"), &nothing);
        }
        tensors.push((name, data.expect("a tensor of the case")));
    }
    write_safetensors(folder.path().join("model.safetensors"), tensors).expect("weights are saved");
    std::fs::write(folder.path().join("config.json"), hf.to_string())
        .expect("the configuration is saved");
    folder
}

pub fn causal_lm(config: LmConfig, run: &mut Run) {
    let tracked = config.with_gradients && run.device().is_autodiff();
    let folder = folder_of(&config.hf, run, !tracked);
    let loaded = load_pretrained(folder.path(), (run.device(), run.dtype()));
    let (mut model, read) = loaded.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.vocab_size(), config.vocab_size);
    assert_eq!(
        (read.transformer.num_layers, read.transformer.d_model()),
        (config.num_layers, config.d_model)
    );
    if tracked {
        leaves(&mut model, run);
    }
    let ids = run.int::<2>("input.input_ids");
    assert_eq!(ids.dims(), [config.batch, config.time]);
    run.output("logits", model.forward(ids, None).0);

    let prompt = run.numbers("input.prompt");
    let prompt: Vec<u32> = prompt.iter().map(|&id| id as u32).collect();
    let written: Vec<u32> = model
        .generate(&prompt, Sampler::greedy())
        .take(config.new_tokens)
        .collect();
    // Without the cache, all is read again for each symbol.
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
    run.output_int(
        "greedy_tokens",
        Tensor::<2, Int>::from_data(tokens, run.device()),
    );
}

/// Puts the case's own tensors, whose gradients are asked for, in the place of a Llama's parameters.
fn leaves(model: &mut TransformerLm, run: &mut Run) {
    let linear = |map: &mut Linear, name: String, run: &mut Run| {
        let weight: Tensor<2> = run.float(&format!("{name}.weight"));
        map.weight = Param::initialized(Default::default(), weight.transpose());
        if let Some(bias) = &mut map.bias {
            *bias = Param::from_tensor(run.float(&format!("{name}.bias")));
        }
    };
    let norm = |norm: &mut Norm, name: String, run: &mut Run| match norm {
        Norm::Rms(norm) => norm.gamma = Param::from_tensor(run.float(&format!("{name}.weight"))),
        Norm::Layer(_) => panic!("`{name}` is not one of a Llama"),
    };
    let embedding = run.float("weight.model.embed_tokens.weight");
    model.embedding.weight = Param::from_tensor(embedding);
    for (index, block) in model.layer.blocks.iter_mut().enumerate() {
        let name = |part: &str| format!("weight.model.layers.{index}.{part}");
        norm(&mut block.attention_norm, name("input_layernorm"), run);
        norm(&mut block.feed_forward_norm, name("post_attention_layernorm"), run);
        let attention = &mut block.attention;
        linear(&mut attention.query, name("self_attn.q_proj"), run);
        linear(&mut attention.key, name("self_attn.k_proj"), run);
        linear(&mut attention.value, name("self_attn.v_proj"), run);
        linear(&mut attention.output, name("self_attn.o_proj"), run);
        if let Some(query) = &mut attention.query_norm {
            norm(query, name("self_attn.q_norm"), run);
        }
        if let Some(key) = &mut attention.key_norm {
            norm(key, name("self_attn.k_norm"), run);
        }
        let Mlp::Dense(layer) = &mut block.feed_forward else {
            panic!("gradients of experts are no case");
        };
        linear(layer.gate.as_mut().expect("a gate"), name("mlp.gate_proj"), run);
        linear(&mut layer.input, name("mlp.up_proj"), run);
        linear(&mut layer.output, name("mlp.down_proj"), run);
    }
    if let Some(last) = &mut model.layer.norm {
        norm(last, "weight.model.norm".to_owned(), run);
    }
    if let Some(head) = &mut model.head {
        linear(head, "weight.lm_head".to_owned(), run);
    }
}
