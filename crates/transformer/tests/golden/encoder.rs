//! Encoders of Hugging Face.

use seq_core::testing::Run;
use seq_transformer::{AttentionMask, Lengths, load_pretrained_encoder};
use serde::Deserialize;
use serde_json::Value;

use crate::causal_lm::write_folder;

/// What `hf` says too is read from there by the loader.
#[derive(Deserialize)]
pub struct Encoder {
    d_model: usize,
    num_layers: usize,
    batch: usize,
    time: usize,
    padding_mask: bool,
    hf: Value,
}

/// The encoder comes out of a folder, as a user's does.
pub fn case(config: Encoder, run: &mut Run) {
    let folder = tempfile::tempdir().expect("a folder for the encoder");
    write_folder(folder.path(), &config.hf, run);
    let loaded = load_pretrained_encoder(folder.path(), (run.device(), run.dtype()));
    let (encoder, read) = loaded.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        (read.num_layers, read.d_model()),
        (config.num_layers, config.d_model)
    );
    let ids = run.int::<2>("input.input_ids");
    assert_eq!(ids.dims(), [config.batch, config.time]);
    let types = "input.token_type_ids";
    let types = run.has(types).then(|| run.int::<2>(types));
    let lengths = config.padding_mask.then(|| {
        let mask = run.numbers("input.attention_mask");
        let rows = mask.chunks(config.time);
        rows.map(|row| row.iter().sum()).collect::<Vec<usize>>()
    });
    let mask = AttentionMask {
        lengths: lengths.map(Lengths::new),
        ..AttentionMask::default()
    };
    let hidden = encoder.forward(ids, types, &mask);
    run.output("last_hidden_state", hidden.clone());
    run.output("pooler_output", encoder.pool(hidden).expect("a pooler"));
}
