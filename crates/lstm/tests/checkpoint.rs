//! Weights from PyTorch, and files that do not fit.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorData};
use seq_core::testing::recurrent::checkpoint::{self, Tensors, refusal, safetensors};
use seq_lstm::{
    Activation, Checkpoint, CheckpointError, Lstm, LstmCell, LstmConfig, RecurrentCell,
    SequenceLayer,
};

/// A file that PyTorch wrote; `gen_recurrent.py` of seq-core's tests says how.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/checkpoint")
        .join(name)
}

#[test]
fn nn_lstm_gives_what_pytorch_gives() {
    for (name, d_output, bias) in [("lstm.pt", 4, true), ("lstm_projection.pt", 2, false)] {
        checkpoint::layer_answers_as_pytorch(&fixture(name), |device| {
            let lstm = Lstm::load_pytorch(fixture(name), device).unwrap();
            assert_eq!((lstm.cells.len(), lstm.bidirectional), (4, true));
            assert_eq!(
                (lstm.cells[2].d_input(), lstm.cells[2].d_output()),
                (2 * d_output, d_output)
            );
            let has_bias = |cell: &LstmCell| cell.weights.bias_ih.is_some();
            assert_eq!(lstm.cells.iter().any(has_bias), bias);
            lstm
        });
    }
}

#[test]
fn nn_lstm_cell_gives_what_pytorch_gives() {
    checkpoint::cell_answers_as_pytorch::<LstmCell>(&fixture("cell.pt"));
}

/// Every configuration that has other tensors than the rest.
fn configs() -> Vec<LstmConfig> {
    let plain = LstmConfig::new(3, 4);
    vec![
        plain.clone(),
        plain.clone().with_bias(false),
        plain.clone().with_num_layers(3),
        plain.clone().with_num_layers(2).with_bidirectional(true),
        plain.clone().with_d_projection(Some(2)).with_num_layers(2),
        plain.clone().with_peephole(true).with_bidirectional(true),
        plain.clone().with_layer_norm(true),
        plain
            .with_peephole(true)
            .with_layer_norm(true)
            .with_d_projection(Some(2)),
    ]
}

#[test]
fn saved_layers_load_to_the_bit() {
    checkpoint::saved_layers_load_to_the_bit(configs());
}

#[test]
fn options_without_weights_come_from_the_configuration() {
    let device = seq_lstm::device();
    let config = LstmConfig::new(3, 4)
        .with_reverse(true)
        .with_cell_clip(Some(0.5))
        .with_gate_activation(Activation::HardSigmoid);
    let saved = config.init(&device);
    let (_folder, file) = safetensors(saved.state_dict());
    let loaded =
        Lstm::init_from_checkpoint(&config, Checkpoint::read(&file).unwrap(), &device).unwrap();
    assert!(loaded.reverse);
    assert_eq!(loaded.cells[0].cell_clip, Some(0.5));
    assert_eq!(loaded.cells[0].gate_activation, Activation::HardSigmoid);
}

#[test]
fn loaded_weights_are_trained() {
    let device = seq_lstm::device().autodiff();
    let lstm = Lstm::load_pytorch(fixture("lstm.pt"), &device).unwrap();
    let loss = lstm.forward(Tensor::ones([2, 5, 3], &device), None).0.sum();
    let gradients = loss.backward();
    for cell in &lstm.cells {
        assert!(cell.weights.weight_ih.val().grad(&gradients).is_some());
        assert!(cell.weights.weight_hh.val().grad(&gradients).is_some());
    }
}

#[test]
fn several_lstms_in_a_file_are_told_apart() {
    let device = seq_lstm::device();
    let below = |prefix: &str, lstm: &Lstm| -> Tensors {
        let tensors = lstm.state_dict().into_iter();
        tensors
            .map(|(name, data)| (format!("{prefix}.{name}"), data))
            .collect()
    };
    let encoder = LstmConfig::new(3, 4).with_bidirectional(true).init(&device);
    let decoder = LstmConfig::new(8, 5).init(&device);
    let head = ("head.weight".to_string(), TensorData::from([[1.0f32]]));
    let tensors = [
        below("encoder.rnn", &encoder),
        below("decoder", &decoder),
        vec![head],
    ]
    .concat();
    let (_folder, file) = safetensors(tensors);

    let error = Lstm::load_pytorch(&file, &device).unwrap_err();
    assert!(
        matches!(error, CheckpointError::AmbiguousPrefix { .. }),
        "{error}"
    );
    let mut checkpoint = Checkpoint::read(&file).unwrap();
    for (prefix, lstm) in [("encoder.rnn", encoder), ("decoder", decoder)] {
        let loaded = Lstm::from_checkpoint(checkpoint.split_off(prefix).unwrap(), &device).unwrap();
        assert_eq!(loaded.state_dict(), lstm.state_dict());
    }
    assert!(checkpoint.names().eq(["head.weight"]));
}

#[test]
fn files_that_do_not_fit_are_refused() {
    let config = LstmConfig::new(3, 4)
        .with_num_layers(2)
        .with_bidirectional(true);
    checkpoint::files_that_do_not_fit_are_refused(&config);
}

#[test]
fn rows_that_are_no_four_gates_are_refused() {
    let lstm = LstmConfig::new(3, 4).init(&seq_lstm::device());
    let name = "encoder.weight_ih_l0";
    let error = refusal(&lstm, name, |tensors| {
        let first = tensors.iter_mut().find(|(found, _)| found == name);
        first.unwrap().1 = TensorData::zeros::<f32, _>([15, 4]);
    });
    let CheckpointError::WrongShape { found, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(found, &[15, 4]);
}

#[test]
fn a_configuration_of_other_sizes_is_refused() {
    let device = seq_lstm::device();
    let config = LstmConfig::new(3, 4).with_num_layers(2);
    let (_folder, file) = safetensors(config.init(&device).state_dict());
    let load = |config: LstmConfig| {
        Lstm::init_from_checkpoint(&config, Checkpoint::read(&file).unwrap(), &device)
    };
    assert!(load(config.clone()).is_ok());
    let shape = load(config.clone().with_d_projection(Some(2))).unwrap_err();
    assert!(
        matches!(shape, CheckpointError::WrongShape { .. }),
        "{shape}"
    );
    for config in [
        config.clone().with_num_layers(1),
        config.clone().with_bias(false),
    ] {
        let error = load(config).unwrap_err();
        assert!(
            matches!(error, CheckpointError::UnexpectedTensors { .. }),
            "{error}"
        );
    }
    for config in [
        config.clone().with_num_layers(3),
        config.with_peephole(true),
    ] {
        let error = load(config).unwrap_err();
        assert!(
            matches!(error, CheckpointError::MissingTensor { .. }),
            "{error}"
        );
    }
}

#[test]
fn damaged_files_are_refused() {
    let device = seq_lstm::device();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged.pt");
    let content = fs::read(fixture("lstm.pt")).unwrap();
    let whole = Lstm::load_pytorch(fixture("lstm.pt"), &device)
        .unwrap()
        .state_dict();
    let named = |error: CheckpointError| {
        let message = error.to_string();
        assert!(
            message.starts_with(&file.display().to_string()),
            "{message}"
        );
    };
    for length in (0..content.len()).step_by(97) {
        fs::write(&file, &content[..length]).unwrap();
        named(Lstm::load_pytorch(&file, &device).unwrap_err());
    }
    // Bits that mean nothing (dates, padding) may change; the weights may not.
    let mut refused = 0;
    for bit in (0..8 * content.len()).step_by(101) {
        let mut flipped = content.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, &flipped).unwrap();
        match Lstm::load_pytorch(&file, &device) {
            Ok(lstm) => assert_eq!(lstm.state_dict(), whole, "bit {bit}"),
            Err(error) => {
                named(error);
                refused += 1;
            }
        }
    }
    assert!(refused > 0);
}
