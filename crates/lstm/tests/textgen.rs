//! A trained model from elsewhere gives what it gave there.

#[path = "../examples/textgen/model.rs"]
mod model;

use std::path::{Path, PathBuf};

use model::TextGen;
use seq_core::models::{Sampler, surprisal};
use seq_core::testing::backends;
use serde_json::Value;

use burn::tensor::{Tensor, TensorData};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/textgen/data")
}

fn expected() -> Value {
    let json = std::fs::read(folder().join("textgenrnn-lstm.json")).unwrap();
    serde_json::from_slice::<Value>(&json).unwrap()["expected"].clone()
}

#[test]
fn greedy_text_is_that_of_textgenrnn() {
    let expected = expected()["greedy_after_start"]
        .as_str()
        .unwrap()
        .to_string();
    for backend in backends() {
        let model = TextGen::load(&folder(), &backend.device()).unwrap();
        let mut ids = model.vocab().encode("").unwrap();
        let mut text = String::new();
        for _ in expected.chars() {
            let logits: Vec<f32> = model.logits(&[&ids]).into_data().iter().collect();
            ids.push(Sampler::greedy().sample(&logits));
            text.push(model.vocab().decode(ids[ids.len() - 1]).unwrap());
        }
        assert_eq!(text, expected, "{backend}");
    }
}

#[test]
fn nats_per_character_are_those_of_textgenrnn() {
    let expected = expected();
    let (text, nats) = expected["nats_per_char"]
        .as_object()
        .unwrap()
        .iter()
        .next()
        .unwrap();
    for backend in backends() {
        let device = backend.device();
        let model = TextGen::load(&folder(), &device).unwrap();
        let ids = model.vocab().encode(text).unwrap();
        let beginnings: Vec<&[u32]> = (1..ids.len()).map(|end| &ids[..end]).collect();
        let logits = model.logits(&beginnings).unsqueeze_dim(0);
        let targets = TensorData::new(ids[1..].to_vec(), [1, ids.len() - 1]);
        let found = surprisal(logits, Tensor::from_data(targets, &device))
            .mean()
            .into_scalar::<f64>();
        let error = (found - nats.as_f64().unwrap()).abs();
        assert!(
            error < 1e-6,
            "{backend}: {found} nats per character, {error:e} off"
        );
    }
}
