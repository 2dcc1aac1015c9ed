//! A trained model from elsewhere gives what it gave there.

#[path = "../examples/antibody/model.rs"]
mod model;

use seq_core::testing::backends;
use std::fs;
use std::path::{Path, PathBuf};

use model::{MAX_RESIDUES, NumberError, Numberer};
use serde_json::Value;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/antibody/data")
}

#[test]
fn numbers_are_those_of_the_original() {
    let golden = fs::read(folder().join("anarcii-encoder-decoder.json")).unwrap();
    let golden: Value = serde_json::from_slice(&golden).unwrap();
    for backend in backends() {
        let model = Numberer::load(&folder(), &backend.device()).unwrap();
        let input = model.example.as_str();
        let symbols = golden["expected"]["greedy_output"].as_str().unwrap();
        let symbols = symbols.split(' ');
        let expected: Vec<&str> = symbols
            .filter(|s| !["<SOS>", "<EOS>"].contains(s))
            .collect();
        assert_eq!(
            expected.len(),
            input.len() + 1,
            "the chain, and each residue"
        );
        assert_eq!(model.number(&[input]).unwrap(), [expected], "{backend}");
    }
}

#[test]
fn a_batch_gives_what_each_gives_alone() {
    let model = Numberer::load(&folder(), &seq_transformer::device()).unwrap();
    let long = model.example.as_str();
    let short = &long[..long.len() - 9];
    let alone = [short, long].map(|sequence| model.number(&[sequence]).unwrap().remove(0));
    assert_eq!(model.number(&[short, long]).unwrap(), alone);
}

#[test]
fn odd_sequences() {
    let model = Numberer::load(&folder(), &seq_transformer::device()).unwrap();
    assert!(model.number(&[]).unwrap().is_empty());
    let input = model.example.as_str();
    let lower = input.to_lowercase();
    assert_eq!(
        model.number(&[input]).unwrap(),
        model.number(&[&lower]).unwrap()
    );
    let longest = "A".repeat(MAX_RESIDUES);
    let numbers = model.number(&["", "A", &longest]).unwrap();
    assert!(numbers[0].len() <= 1 && numbers[1].len() <= 2);

    let error = model.number(&["EVQ7"]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`7`, residue 4 of `EVQ7`, is not an amino acid"
    );
    let error = model.number(&[&"A".repeat(MAX_RESIDUES + 1)]).unwrap_err();
    assert!(matches!(error, NumberError::TooLong { found } if found == MAX_RESIDUES + 1));
}

#[test]
fn files_that_do_not_fit_are_named() {
    let copy = tempfile::tempdir().unwrap();
    let load = || {
        Numberer::load(copy.path(), &seq_transformer::device())
            .err()
            .unwrap()
    };
    let [json, weights] = ["json", "pt"].map(|end| format!("anarcii-encoder-decoder.{end}"));
    let missing = load();
    assert!(matches!(missing, NumberError::Io { .. }), "{missing}");
    fs::write(copy.path().join(&json), b"{").unwrap();
    let broken = load();
    assert!(matches!(broken, NumberError::Json { .. }), "{broken}");
    let good = fs::read_to_string(folder().join(&json)).unwrap();
    fs::write(copy.path().join(&json), good.replace("\"Q\",", "")).unwrap();
    let without = load();
    assert!(matches!(without, NumberError::Checkpoint(_)), "{without}");
    for (error, name) in [(missing, &json), (broken, &json), (without, &weights)] {
        assert!(error.to_string().contains(name), "{error}");
    }
    // A vocabulary of other size than the weights.
    fs::copy(folder().join(&weights), copy.path().join(&weights)).unwrap();
    let error = load().to_string();
    let expected = "`encoder.tok_embedding.weight` has shape [25, 128], expected [24, 128]";
    assert!(error.contains(expected), "{error}");
}
