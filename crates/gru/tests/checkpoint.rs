//! Weights from PyTorch, and files that do not fit.

use std::path::{Path, PathBuf};

use seq_core::testing::recurrent::checkpoint::{self, safetensors};
use seq_gru::{Activation, Checkpoint, Gru, GruCell, GruConfig, RecurrentCell, UpdateGate};

/// A file that PyTorch wrote; `gen_recurrent.py` of seq-core's tests says how.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/checkpoint")
        .join(name)
}

#[test]
fn nn_gru_gives_what_pytorch_gives() {
    for (name, bias) in [("gru.pt", true), ("gru_no_bias.pt", false)] {
        checkpoint::layer_answers_as_pytorch(&fixture(name), |device| {
            let gru = Gru::load_pytorch(fixture(name), device).unwrap();
            assert_eq!((gru.cells.len(), gru.bidirectional), (4, true));
            assert_eq!((gru.cells[2].d_input(), gru.cells[2].d_hidden()), (8, 4));
            let has_bias = |cell: &GruCell| cell.weights.bias_ih.is_some();
            assert_eq!(gru.cells.iter().any(has_bias), bias);
            gru
        });
    }
}

#[test]
fn nn_gru_cell_gives_what_pytorch_gives() {
    checkpoint::cell_answers_as_pytorch::<GruCell>(&fixture("cell.pt"));
}

#[test]
fn saved_layers_load_to_the_bit() {
    let plain = GruConfig::new(3, 4);
    checkpoint::saved_layers_load_to_the_bit([
        plain.clone(),
        plain.clone().with_bias(false),
        plain.clone().with_num_layers(3),
        plain.clone().with_num_layers(2).with_bidirectional(true),
        plain.clone().with_trained_state(true).with_num_layers(2),
        plain.clone().with_layer_norm(true).with_bidirectional(true),
        plain.with_layer_norm(true).with_trained_state(true),
    ]);
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let config = GruConfig::new(3, 4)
        .with_num_layers(2)
        .with_bidirectional(true);
    checkpoint::files_that_do_not_fit_are_refused(&config);
}

#[test]
fn options_without_weights_come_from_the_configuration() {
    let device = seq_gru::device();
    let config = GruConfig::new(3, 4)
        .with_reverse(true)
        .with_reset_after(false)
        .with_update_gate(UpdateGate::Write)
        .with_gate_activation(Activation::HardSigmoid);
    let (_folder, file) = safetensors(config.init(&device).state_dict());
    let file = Checkpoint::read(&file).unwrap();
    let loaded = Gru::init_from_checkpoint(&config, file, &device).unwrap();
    assert!(loaded.reverse);
    let cell = &loaded.cells[0];
    assert!(!cell.reset_after);
    assert_eq!(cell.update_gate, UpdateGate::Write);
    assert_eq!(cell.gate_activation, Activation::HardSigmoid);
}
