//! Weights from PyTorch, and files that do not fit.

use std::fmt::Display;
use std::path::{Path, PathBuf};

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use tempfile::TempDir;

use crate::checkpoint::{Checkpoint, CheckpointError, write_safetensors};
use crate::device::{device, read};
use crate::recurrent::{CellState, PyTorchCell, Recurrent, RecurrentConfig, RecurrentState};
use crate::testing::compare::{Values, close};
use crate::{BackendName, SequenceLayer};

/// The tensors of a file.
pub type Tensors = Vec<(String, TensorData)>;

/// Writes a safetensors file, in a folder that lives as long as the test.
///
/// # Panics
///
/// When it cannot be written.
pub fn safetensors(tensors: Tensors) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    write_safetensors(&file, tensors).unwrap();
    (folder, file)
}

/// Checks that a layer gives what the PyTorch module gave that its weights come from.
///
/// Beside the weights the file holds `input` and `output`, batch first, and `h_0`, `h_n` and, for a
/// cell with a memory, `c_0`, `c_n`. Values may be 1e-6 off, relative to one plus the largest; measured
/// are 1.2e-7.
///
/// # Panics
///
/// When it gives something else.
pub fn layer_answers_as_pytorch<C: PyTorchCell>(
    file: &Path,
    load: impl Fn(&Device) -> Recurrent<C>,
) {
    for backend in BackendName::compiled() {
        let device = backend.device();
        let layer = load(&device);
        let mut answers = Answers::read(file, &device);
        let x = answers.take::<3>("input");
        let before = answers.states::<3>(C::State::MEMORY);
        let row = |row| {
            let row = |x: &Tensor<3>| x.clone().narrow(0, row, 1).squeeze_dim(0);
            C::State::from_parts(row(&before[0]), before.get(1).map(row))
        };
        let cells = (0..layer.cells.len()).map(row).collect();
        let (y, state) = layer.forward(x, Some(RecurrentState { cells }));
        let states = state.cells.into_iter().map(CellState::into_parts);
        let (hidden, cell): (Vec<_>, Vec<_>) = states.unzip();
        let cell: Option<Vec<_>> = cell.into_iter().collect();
        let mut found = vec![("output".to_owned(), read(&y))];
        let states = [Some(hidden), cell].into_iter().flatten();
        for (name, rows) in ["h_n", "c_n"].iter().zip(states) {
            found.push((name.to_string(), read(&Tensor::stack::<3>(rows, 0))));
        }
        answers.compare(backend, found);
    }
}

/// As [`layer_answers_as_pytorch`], for one step of a cell: the file has `input`, but no `output`.
///
/// # Panics
///
/// When it gives something else.
pub fn cell_answers_as_pytorch<C: PyTorchCell>(file: &Path) {
    for backend in BackendName::compiled() {
        let device = backend.device();
        let cell = C::load_pytorch(file, &device).unwrap();
        let mut answers = Answers::read(file, &device);
        let x = answers.take::<2>("input");
        let mut before = answers.states::<2>(C::State::MEMORY).into_iter();
        let state = C::State::from_parts(before.next().unwrap(), before.next());
        let (hidden, memory) = cell.step(x, state).1.into_parts();
        let mut found = vec![("h_n".to_owned(), read(&hidden))];
        found.extend(memory.map(|memory| ("c_n".to_owned(), read(&memory))));
        answers.compare(backend, found);
    }
}

/// What PyTorch was given and answered.
struct Answers {
    file: Checkpoint,
    device: Device,
}

impl Answers {
    fn read(file: &Path, device: &Device) -> Self {
        Self {
            file: Checkpoint::read(file).unwrap(),
            device: device.clone(),
        }
    }

    fn take<const D: usize>(&mut self, name: &str) -> Tensor<D> {
        let shape = self.file.shape(name).unwrap().to_vec();
        let shape = shape.try_into().unwrap();
        self.file.take::<D>(name, shape, &self.device).unwrap()
    }

    /// The hidden and the cell state before.
    fn states<const D: usize>(&mut self, memory: bool) -> Vec<Tensor<D>> {
        let names = ["h_0", "c_0"].into_iter().take(if memory { 2 } else { 1 });
        names.map(|name| self.take(name)).collect()
    }

    fn compare(mut self, backend: BackendName, found: Values) {
        let expected = found.iter().map(|(name, data)| {
            let expected = match data.shape().len() {
                2 => read(&self.take::<2>(name)),
                _ => read(&self.take::<3>(name)),
            };
            (name.clone(), expected)
        });
        let expected = expected.collect();
        close(&found, &expected, 1e-6).unwrap_or_else(|error| panic!("{backend}: {error}"));
    }
}

/// Checks for layers and for cells that what is saved for PyTorch loads again to the bit, by the
/// configuration and without it.
///
/// # Panics
///
/// When it does not.
pub fn saved_layers_load_to_the_bit<K>(configs: impl IntoIterator<Item = K> + Clone)
where
    K: RecurrentConfig + Display,
    K::Cell: PyTorchCell<Config = K>,
{
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("layer.safetensors");
    for backend in BackendName::compiled() {
        let device = backend.device();
        for config in configs.clone() {
            let saved = config.init(&device);
            saved.save_pytorch(&file).unwrap();
            let loaded = Recurrent::<K::Cell>::load_pytorch(&file, &device).unwrap();
            assert_eq!(loaded.state_dict(), saved.state_dict(), "{config}");
            assert_eq!(loaded.num_params(), saved.num_params(), "{config}");
            let file_again = Checkpoint::read(&file).unwrap();
            let loaded =
                Recurrent::<K::Cell>::init_from_checkpoint(&config, file_again, &device).unwrap();
            assert_eq!(loaded.state_dict(), saved.state_dict(), "{config}");

            let saved = config.init_cell(&device);
            saved.save_pytorch(&file).unwrap();
            let loaded = K::Cell::load_pytorch(&file, &device).unwrap();
            assert_eq!(loaded.state_dict(), saved.state_dict(), "{config}");
        }
    }
}

/// The error of a layer's file after `damage` to its tensors, whose names begin with `encoder.`; it
/// names the file and `tensor`.
///
/// # Panics
///
/// When there is no error, or one that names something else.
pub fn refusal<C: PyTorchCell>(
    layer: &Recurrent<C>,
    tensor: &str,
    damage: impl FnOnce(&mut Tensors),
) -> CheckpointError {
    let tensors = layer.state_dict().into_iter();
    let mut tensors = tensors
        .map(|(name, data)| (format!("encoder.{name}"), data))
        .collect();
    damage(&mut tensors);
    let (_folder, file) = safetensors(tensors);
    let error = Recurrent::<C>::load_pytorch(&file, &device()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.starts_with(&file.display().to_string()),
        "{message}"
    );
    assert!(message.contains(&format!("`{tensor}`")), "{message}");
    error
}

/// Checks that files are refused which lack a tensor of the layer, or have one under another name, one
/// more, or one of another shape or type. `config` is to have two layers, both directions and biases.
///
/// # Panics
///
/// When one is taken, or the error is not the right one.
pub fn files_that_do_not_fit_are_refused<K>(config: &K)
where
    K: RecurrentConfig,
    K::Cell: PyTorchCell<Config = K>,
{
    let layer = config.init(&device());
    tensors_are_missing(&layer);
    names_are_wrong(&layer);
    shapes_are_wrong(&layer);
    let name = "encoder.weight_hh_l1";
    let error = refusal(&layer, name, |tensors| {
        let data = &mut get(tensors, name).1;
        *data = TensorData::zeros::<i64, _>(data.shape().clone());
    });
    let wrong = matches!(error, CheckpointError::WrongDtype { .. });
    assert!(wrong, "{error}");
}

fn tensors_are_missing<C: PyTorchCell>(layer: &Recurrent<C>) {
    for (name, _) in layer.state_dict() {
        // Without its first name there is no layer to be found.
        let full = match name == "weight_ih_l0" {
            true => name,
            false => format!("encoder.{name}"),
        };
        let error = refusal(layer, &full, |tensors| {
            tensors.retain(|(found, _)| !found.ends_with(&full))
        });
        assert_missing(&error);
    }
}

fn names_are_wrong<C: PyTorchCell>(layer: &Recurrent<C>) {
    for (from, to) in [
        ("weight_hh_l1", "weights_hh_l1"),
        ("bias_hh_l0", "bias_hh_l0_forward"),
    ] {
        let (from, to) = (format!("encoder.{from}"), format!("encoder.{to}"));
        let error = refusal(layer, &from, |tensors| get(tensors, &from).0 = to);
        assert_missing(&error);
    }
    let one_more = |name: String, missed: &str| {
        let extra = (format!("encoder.{name}"), TensorData::from([1.0f32]));
        refusal(layer, &format!("encoder.{missed}"), |tensors| {
            tensors.push(extra)
        })
    };
    let error = one_more("gamma".into(), "gamma");
    let unexpected = matches!(error, CheckpointError::UnexpectedTensors { .. });
    assert!(unexpected, "{error}");
    // Of these layers there is only one tensor.
    assert_missing(&one_more("bias_ih_l2".into(), "weight_ih_l2"));
    assert_missing(&one_more(format!("bias_l{}", usize::MAX), "weight_ih_l2"));
}

fn shapes_are_wrong<C: PyTorchCell>(layer: &Recurrent<C>) {
    for (name, data) in layer.state_dict() {
        let rows = data.shape()[0];
        let shapes: [&[usize]; 6] = [&[], &[0], &[7], &[0, 0], &[rows - 1, 4], &[rows, 4, 1]];
        // The first weight tells all sizes: with fewer rows it is the others that do not fit.
        let told = |shape: &[usize]| name == "weight_ih_l0" && shape == [rows - 1, 4];
        for shape in shapes.into_iter().filter(|shape| !told(shape)) {
            let data = TensorData::zeros::<f32, _>(shape.to_vec());
            let full = format!("encoder.{name}");
            let error = refusal(layer, &full, |tensors| get(tensors, &full).1 = data);
            let CheckpointError::WrongShape { found, .. } = &error else {
                panic!("{error}");
            };
            assert_eq!(found, shape);
        }
    }
}

fn get<'a>(tensors: &'a mut Tensors, name: &str) -> &'a mut (String, TensorData) {
    tensors.iter_mut().find(|(found, _)| found == name).unwrap()
}

fn assert_missing(error: &CheckpointError) {
    let missing = matches!(error, CheckpointError::MissingTensor { .. });
    assert!(missing, "{error}");
}
