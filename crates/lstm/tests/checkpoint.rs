//! Weights from PyTorch, and files that do not fit.

use std::fs;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Tensor, TensorData};
use seq_core::BackendName;
use seq_core::checkpoint::write_safetensors;
use seq_lstm::{
    Activation, Checkpoint, CheckpointError, Lstm, LstmCell, LstmCellState, LstmConfig, LstmState,
    RecurrentCell, SequenceLayer,
};
use tempfile::TempDir;

type Tensors = Vec<(String, TensorData)>;

/// A file that PyTorch wrote; `checkpoint/gen.py` says how.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/checkpoint")
        .join(name)
}

/// A safetensors file, in a folder that lives as long as the test.
fn safetensors(tensors: Tensors) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    write_safetensors(&file, tensors).unwrap();
    (folder, file)
}

/// The largest error measured is 1.2e-7.
fn close<const D: usize>(found: Tensor<D>, expected: Tensor<D>) {
    assert_eq!(found.dims(), expected.dims());
    let error = (found - expected).abs().max().into_scalar::<f32>();
    assert!(error < 1e-6, "an error of {error:e}");
}

#[test]
fn nn_lstm_gives_what_pytorch_gives() {
    for (name, d_output, bias) in [("lstm.pt", 4, true), ("lstm_projection.pt", 2, false)] {
        for backend in BackendName::compiled() {
            let device = backend.device();
            let lstm = Lstm::load_pytorch(fixture(name), &device).unwrap();
            assert_eq!((lstm.cells.len(), lstm.bidirectional), (4, true));
            assert_eq!(
                (lstm.cells[2].d_input(), lstm.cells[2].d_output()),
                (2 * d_output, d_output)
            );
            assert_eq!(lstm.cells.iter().any(|cell| cell.bias_ih.is_some()), bias);

            let mut expected = Checkpoint::read(fixture(name)).unwrap();
            let mut take = |name: &str, shape| expected.take(name, shape, &device).unwrap();
            let x = take("input", [2, 5, 3]);
            let state =
                LstmState::from_tensors(take("h_0", [4, 2, d_output]), take("c_0", [4, 2, 4]));
            let (y, state) = lstm.forward(x, Some(state));
            close(y, take("output", [2, 5, 2 * d_output]));
            let (h, c) = state.into_tensors();
            close(h, take("h_n", [4, 2, d_output]));
            close(c, take("c_n", [4, 2, 4]));
        }
    }
}

#[test]
fn nn_lstm_cell_gives_what_pytorch_gives() {
    for backend in BackendName::compiled() {
        let device = backend.device();
        let cell = LstmCell::load_pytorch(fixture("cell.pt"), &device).unwrap();
        let mut expected = Checkpoint::read(fixture("cell.pt")).unwrap();
        let mut take = |name: &str, width| expected.take(name, [2, width], &device).unwrap();
        let state = LstmCellState {
            hidden: take("h_0", 4),
            cell: take("c_0", 4),
        };
        let (h, state) = cell.step(take("input", 3), state);
        close(h, take("h_n", 4));
        close(state.cell, take("c_n", 4));
    }
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
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lstm.safetensors");
    for backend in BackendName::compiled() {
        let device = backend.device();
        for config in configs() {
            let saved = config.init(&device);
            saved.save_pytorch(&file).unwrap();
            let loaded = Lstm::load_pytorch(&file, &device).unwrap();
            assert_eq!(loaded.state_dict(), saved.state_dict(), "{config}");
            assert_eq!(loaded.num_params(), saved.num_params(), "{config}");
            let loaded = config
                .init_from_checkpoint(Checkpoint::read(&file).unwrap(), &device)
                .unwrap();
            assert_eq!(loaded.state_dict(), saved.state_dict(), "{config}");

            let saved = config.init_cell(&device);
            saved.save_pytorch(&file).unwrap();
            let loaded = LstmCell::load_pytorch(&file, &device).unwrap();
            assert_eq!(loaded.state_dict(), saved.state_dict(), "{config}");
        }
    }
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
    let loaded = config
        .init_from_checkpoint(Checkpoint::read(&file).unwrap(), &device)
        .unwrap();
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
        assert!(cell.weight_ih.val().grad(&gradients).is_some());
        assert!(cell.weight_hh.val().grad(&gradients).is_some());
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

/// The error of an LSTM's file after `damage` to its tensors; it must name the file and `tensor`.
fn refused(tensor: &str, damage: impl FnOnce(&mut Tensors)) -> CheckpointError {
    let device = seq_lstm::device();
    let lstm = LstmConfig::new(3, 4)
        .with_num_layers(2)
        .with_bidirectional(true)
        .init(&device);
    let mut tensors = lstm.state_dict();
    for (name, _) in &mut tensors {
        *name = format!("encoder.{name}");
    }
    damage(&mut tensors);
    let (_folder, file) = safetensors(tensors);
    let error = Lstm::load_pytorch(&file, &device).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with(&file.display().to_string()),
        "{message}"
    );
    assert!(message.contains(&format!("`{tensor}`")), "{message}");
    error
}

fn get<'a>(tensors: &'a mut Tensors, name: &str) -> &'a mut (String, TensorData) {
    tensors.iter_mut().find(|(found, _)| found == name).unwrap()
}

#[test]
fn every_tensor_is_needed() {
    let lstm = LstmConfig::new(3, 4)
        .with_num_layers(2)
        .with_bidirectional(true);
    for (name, _) in lstm.init(&seq_lstm::device()).state_dict() {
        // Without its first name there is no LSTM to be found.
        let full = if name == "weight_ih_l0" {
            name
        } else {
            format!("encoder.{name}")
        };
        let error = refused(&full, |tensors| {
            tensors.retain(|(found, _)| !found.ends_with(&full))
        });
        assert!(
            matches!(error, CheckpointError::MissingTensor { .. }),
            "{error}"
        );
    }
}

#[test]
fn wrong_names_are_refused() {
    for (from, to) in [
        ("weight_hh_l1", "weights_hh_l1"),
        ("bias_hh_l0", "bias_hh_l0_forward"),
    ] {
        let (from, to) = (format!("encoder.{from}"), format!("encoder.{to}"));
        let error = refused(&from, |tensors| get(tensors, &from).0 = to);
        assert!(
            matches!(error, CheckpointError::MissingTensor { .. }),
            "{error}"
        );
    }
    let extra = ("encoder.gamma".to_string(), TensorData::from([1.0f32]));
    let error = refused("encoder.gamma", |tensors| tensors.push(extra));
    assert!(
        matches!(error, CheckpointError::UnexpectedTensors { .. }),
        "{error}"
    );
    // A third layer of which there is only one tensor.
    let extra = (
        "encoder.bias_ih_l2".to_string(),
        TensorData::from([1.0f32; 16]),
    );
    let error = refused("encoder.weight_ih_l2", |tensors| tensors.push(extra));
    assert!(
        matches!(error, CheckpointError::MissingTensor { .. }),
        "{error}"
    );
    let extra = (
        format!("encoder.bias_l{}", usize::MAX),
        TensorData::from([1.0f32]),
    );
    let error = refused("encoder.weight_ih_l2", |tensors| tensors.push(extra));
    assert!(
        matches!(error, CheckpointError::MissingTensor { .. }),
        "{error}"
    );
}

#[test]
fn wrong_shapes_are_refused() {
    let lstm = LstmConfig::new(3, 4)
        .with_num_layers(2)
        .with_bidirectional(true);
    for (name, _) in lstm.init(&seq_lstm::device()).state_dict() {
        let shapes: [&[usize]; 6] = [&[], &[0], &[7], &[0, 0], &[15, 4], &[16, 4, 1]];
        for shape in shapes {
            let data = TensorData::zeros::<f32, _>(shape.to_vec());
            let full = format!("encoder.{name}");
            let error = refused(&full, |tensors| get(tensors, &full).1 = data);
            let CheckpointError::WrongShape { found, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(found, shape);
        }
    }
}

#[test]
fn wrong_element_types_are_refused() {
    let name = "encoder.weight_hh_l1";
    let data = TensorData::zeros::<i64, _>(vec![16, 4]);
    let error = refused(name, |tensors| get(tensors, name).1 = data);
    assert!(
        matches!(error, CheckpointError::WrongDtype { .. }),
        "{error}"
    );
}

#[test]
fn a_configuration_of_other_sizes_is_refused() {
    let device = seq_lstm::device();
    let config = LstmConfig::new(3, 4).with_num_layers(2);
    let (_folder, file) = safetensors(config.init(&device).state_dict());
    let load =
        |config: LstmConfig| config.init_from_checkpoint(Checkpoint::read(&file).unwrap(), &device);
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
