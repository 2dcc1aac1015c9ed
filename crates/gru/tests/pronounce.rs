//! A trained model from elsewhere gives what it gave there.

#[path = "../examples/pronounce/model.rs"]
mod model;

use seq_core::testing::backends;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use model::{LoadError, MAX_LETTERS, MAX_PHONEMES, Pronouncer};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pronounce/data")
}

/// Words and what g2p-en makes of them.
fn expected() -> BTreeMap<String, Vec<String>> {
    let json = fs::read(folder().join("g2p-en-gru.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    let expected: BTreeMap<_, _> = serde_json::from_value(json["expected"].clone()).unwrap();
    assert!(!expected.is_empty());
    expected
}

#[test]
fn phonemes_are_those_of_g2p_en() {
    let expected = expected();
    for backend in backends() {
        let model = Pronouncer::load(&folder(), &backend.device()).unwrap();
        for (word, phonemes) in &expected {
            let found = model.pronounce(&[word]);
            assert_eq!(found, [phonemes.as_slice()], "{backend}: {word}");
        }
        let words: Vec<&str> = expected.keys().map(String::as_str).collect();
        let batch = model.pronounce(&words);
        let phonemes: Vec<_> = expected.values().map(Vec::as_slice).collect();
        assert_eq!(batch, phonemes, "{backend}: all words as one batch");
    }
}

#[test]
fn any_text_is_pronounced() {
    let long = "ab".repeat(5000);
    let odd = [
        "",
        " ",
        "42",
        "\0",
        "don't",
        "naïve",
        "日本語",
        "🦀",
        "İ",
        &long,
    ];
    for backend in backends() {
        let model = Pronouncer::load(&folder(), &backend.device()).unwrap();
        for phonemes in model.pronounce(&odd) {
            assert!(phonemes.len() <= MAX_PHONEMES, "{backend}: {phonemes:?}");
        }
        // Upper case is lower case, one unknown letter is like another, the end of the longest is not read.
        let same = [
            ["RUST", "rust"],
            ["日", "🦀"],
            [&long, &long[..MAX_LETTERS]],
        ];
        for [a, b] in same {
            assert_eq!(model.pronounce(&[a]), model.pronounce(&[b]), "{backend}");
        }
        assert!(model.pronounce(&[]).is_empty());
    }
}

#[test]
fn a_file_that_does_not_fit_is_named() {
    let copy = tempfile::tempdir().unwrap();
    let load = || {
        Pronouncer::load(copy.path(), &seq_gru::device())
            .err()
            .unwrap()
    };
    let (json, weights) = ("g2p-en-gru.json", "g2p-en-gru.safetensors");
    let write = |name: &str, bytes: &[u8]| fs::write(copy.path().join(name), bytes).unwrap();
    let good = fs::read_to_string(folder().join(json)).unwrap();

    let missing = load();
    assert!(matches!(missing, LoadError::Io { .. }), "{missing}");
    write(json, b"{");
    let broken = load();
    assert!(matches!(broken, LoadError::Json { .. }), "{broken}");
    write(json, good.replace("<unk>", "?").as_bytes());
    let symbol = load();
    assert!(
        matches!(
            symbol,
            LoadError::MissingSymbol {
                symbol: "<unk>",
                ..
            }
        ),
        "{symbol}"
    );
    write(json, good.as_bytes());
    let missing_weights = load();
    assert!(
        matches!(missing_weights, LoadError::Checkpoint(_)),
        "{missing_weights}"
    );
    for (error, name) in [
        (missing, json),
        (broken, json),
        (symbol, json),
        (missing_weights, weights),
    ] {
        assert!(error.to_string().contains(name), "{error}");
    }

    // An alphabet of other size than the weights.
    write(json, good.replace("\"<pad>\",", "").as_bytes());
    fs::copy(folder().join(weights), copy.path().join(weights)).unwrap();
    let error = load().to_string();
    assert!(
        error.contains("tensor `fc_w` has shape [74, 256], expected [73, 256]"),
        "{error}"
    );
}
