//! Weights from PyTorch, and files that do not fit.

use std::path::{Path, PathBuf};

use burn::nn::activation::{Activation, ActivationConfig};
use seq_core::testing::recurrent::checkpoint::{self, safetensors};
use seq_rnn::{Checkpoint, RecurrentCell, Rnn, RnnCell, RnnConfig};

/// A file that PyTorch wrote; `gen_recurrent.py` of seq-core's tests says how.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/checkpoint")
        .join(name)
}

#[test]
fn nn_rnn_gives_what_pytorch_gives() {
    checkpoint::layer_answers_as_pytorch(&fixture("rnn.pt"), |device| {
        let rnn = Rnn::load_pytorch(fixture("rnn.pt"), device).unwrap();
        assert_eq!((rnn.cells.len(), rnn.bidirectional), (4, true));
        assert_eq!((rnn.cells[2].d_input(), rnn.cells[2].d_hidden()), (8, 4));
        rnn
    });
}

#[test]
fn nn_rnn_with_relu_gives_what_pytorch_gives() {
    let file = fixture("rnn_relu_no_bias.pt");
    let config = RnnConfig::new(3, 4)
        .with_num_layers(2)
        .with_bidirectional(true)
        .with_bias(false)
        .with_activation(ActivationConfig::Relu);
    checkpoint::layer_answers_as_pytorch(&file, |device| {
        let weights = Checkpoint::read(&file).unwrap().split_off("model.rnn");
        Rnn::init_from_checkpoint(&config, weights.unwrap(), device).unwrap()
    });
}

#[test]
fn nn_rnn_cell_gives_what_pytorch_gives() {
    checkpoint::cell_answers_as_pytorch::<RnnCell>(&fixture("cell.pt"));
}

#[test]
fn saved_layers_load_to_the_bit() {
    let plain = RnnConfig::new(3, 4);
    checkpoint::saved_layers_load_to_the_bit([
        plain.clone(),
        plain.clone().with_bias(false),
        plain.clone().with_num_layers(3),
        plain.clone().with_num_layers(2).with_bidirectional(true),
        plain.clone().with_d_output(Some(2)).with_num_layers(2),
        plain
            .clone()
            .with_d_output(Some(2))
            .with_bidirectional(true),
        plain.clone().with_independent(true).with_num_layers(2),
        plain.clone().with_layer_norm(true),
        plain
            .with_independent(true)
            .with_layer_norm(true)
            .with_bias(false)
            .with_num_layers(2)
            .with_d_output(Some(5)),
        RnnConfig::new(1, 1).with_num_layers(2),
        RnnConfig::new(1, 1).with_independent(true),
    ]);
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let config = RnnConfig::new(3, 4)
        .with_num_layers(2)
        .with_bidirectional(true);
    checkpoint::files_that_do_not_fit_are_refused(&config);
}

#[test]
fn options_without_weights_come_from_the_configuration() {
    let device = seq_rnn::device();
    let config = RnnConfig::new(3, 4)
        .with_reverse(true)
        .with_hidden_clip(Some(0.5))
        .with_activation(ActivationConfig::Softsign);
    let (_folder, file) = safetensors(config.init(&device).state_dict());
    let file = Checkpoint::read(&file).unwrap();
    let loaded = Rnn::init_from_checkpoint(&config, file, &device).unwrap();
    assert!(loaded.reverse);
    let cell = &loaded.cells[0];
    assert_eq!(cell.hidden_clip, Some(0.5));
    assert!(matches!(cell.activation, Activation::Softsign(_)));
}
