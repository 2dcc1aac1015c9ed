//! A trained model from elsewhere gives what it gave there.

#[path = "../examples/antibody/model.rs"]
mod model;

use std::fs;
use std::path::{Path, PathBuf};

use model::{MAX_RESIDUES, NumberError, Numberer};
use seq_core::BackendName;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/antibody/data")
}

#[test]
fn numbers_are_those_of_the_original() {
    for backend in BackendName::compiled() {
        let model = Numberer::load(&folder(), &backend.device()).unwrap();
        let input = model.expected.input.as_str();
        let symbols = model.expected.greedy_output.split(' ');
        let expected: Vec<&str> = symbols
            .filter(|s| !["<SOS>", "<EOS>"].contains(s))
            .collect();
        assert_eq!(
            expected.len(),
            input.len() + 1,
            "the chain, and each residue"
        );
        assert_eq!(
            model.number(&[input]).unwrap(),
            [expected.clone()],
            "{backend}"
        );
        // Beside others, one of which ends earlier.
        let short = &input[..input.len() - 9];
        let beside = model.number(&[short, input]).unwrap();
        assert_eq!(beside[1], expected, "{backend}: as a batch");
        assert_eq!(model.number(&[short]).unwrap()[0], beside[0], "{backend}");
    }
}

#[test]
fn odd_sequences() {
    let model = Numberer::load(&folder(), &seq_transformer::device()).unwrap();
    assert!(model.number(&[]).unwrap().is_empty());
    let input = model.expected.input.as_str();
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
