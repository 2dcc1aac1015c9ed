//! Weights under PyTorch's names: reading what its recurrent modules save, and saving so that they
//! read it.

use std::path::Path;

use burn::tensor::{TensorCreationOptions, TensorData};

use super::config::check;
use super::{CellWeights, Recurrent, RecurrentCell, RecurrentConfig};
use crate::checkpoint::{Checkpoint, CheckpointError, Stored, write_safetensors};

/// A cell whose weights have names in PyTorch's files.
pub trait PyTorchCell: RecurrentCell {
    /// What a layer of such cells is made from.
    type Config: RecurrentConfig<Cell = Self>;

    /// A configuration for the weights of a file, from their names and shapes. Where they make no
    /// sense it may be any that they do not fit, so that loading says what is wrong.
    fn infer(names: &Names<'_>) -> Self::Config;

    /// The parameters of the cell by name, without what tells the layer and the direction: those of
    /// [`CellWeights::parameters`] and its own.
    fn parameters(&mut self) -> Vec<(&'static str, Stored<'_>)>;

    /// Reads the one `nn.LSTMCell`, `nn.GRUCell` or `nn.RNNCell` of a file, as
    /// [`Recurrent::load_pytorch`] reads a layer.
    ///
    /// # Errors
    ///
    /// As [`Recurrent::load_pytorch`].
    fn load_pytorch(
        path: impl AsRef<Path>,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let mut checkpoint = Checkpoint::read(path)?;
        let prefix = checkpoint.find_prefix("weight_ih")?;
        Self::from_checkpoint(checkpoint.split_off(&prefix)?, options)
    }

    /// Takes a cell from a checkpoint that holds nothing else.
    ///
    /// # Errors
    ///
    /// As [`Recurrent::from_checkpoint`].
    fn from_checkpoint(
        checkpoint: Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let config = Self::infer(&Names(&checkpoint));
        Self::init_from_checkpoint(&config, checkpoint, options)
    }

    /// Makes a cell with the options of `config`, which a file cannot tell, and the weights of a
    /// checkpoint that holds nothing else.
    ///
    /// # Errors
    ///
    /// As [`Recurrent::init_from_checkpoint`].
    ///
    /// # Panics
    ///
    /// As [`RecurrentConfig::init`].
    fn init_from_checkpoint(
        config: &Self::Config,
        mut checkpoint: Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let options = options.into();
        let mut cell = config.init_cell(&options.device);
        take(&mut cell, "", &mut checkpoint, &options)?;
        checkpoint.finish()?;
        Ok(cell)
    }

    /// Saves the weights to a safetensors file from which PyTorch loads a cell; the names are those
    /// of [`Recurrent::save_pytorch`] without `_l0`.
    ///
    /// # Errors
    ///
    /// As [`Recurrent::save_pytorch`].
    fn save_pytorch(&self, path: impl AsRef<Path>) -> Result<(), CheckpointError> {
        write_safetensors(path, self.state_dict())
    }

    /// The weights under the names that [`save_pytorch`](Self::save_pytorch) gives them.
    fn state_dict(&self) -> Vec<(String, TensorData)> {
        named(self, "")
    }
}

impl<C: PyTorchCell> Recurrent<C> {
    /// Reads the one `nn.LSTM`, `nn.GRU` or `nn.RNN` of a file, `.pt` or `.safetensors`, below
    /// whatever prefix it has there. Tensors of other modules are left alone; for a file with several
    /// such layers, or a layer with options that shapes cannot tell, see
    /// [`from_checkpoint`](Self::from_checkpoint) and
    /// [`init_from_checkpoint`](Self::init_from_checkpoint).
    ///
    /// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's
    /// default.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, holds no such layer or several, or the tensors do not make up
    /// one; every error names the file, and the tensor that is at fault. Either all weights are
    /// loaded or none.
    pub fn load_pytorch(
        path: impl AsRef<Path>,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let mut checkpoint = Checkpoint::read(path)?;
        let prefix = checkpoint.find_prefix("weight_ih_l0")?;
        Self::from_checkpoint(checkpoint.split_off(&prefix)?, options)
    }

    /// Takes a layer from a checkpoint that holds nothing else, such as what
    /// [`Checkpoint::split_off`] gives. Layers, directions, widths and biases are told from the names
    /// and shapes; what they cannot tell is at its default.
    ///
    /// # Errors
    ///
    /// When a tensor is missing, left over, or of a wrong shape or element type.
    pub fn from_checkpoint(
        checkpoint: Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let config = C::infer(&Names(&checkpoint));
        Self::init_from_checkpoint(&config, checkpoint, options)
    }

    /// Makes a layer with the weights of a checkpoint that holds nothing else.
    ///
    /// The configuration gives what a file cannot: activations, clips, dropout, `reverse`. Its sizes
    /// must be those of the weights.
    ///
    /// # Errors
    ///
    /// When a tensor is missing, left over, or of a wrong shape or element type.
    ///
    /// # Panics
    ///
    /// As [`RecurrentConfig::init`].
    pub fn init_from_checkpoint(
        config: &C::Config,
        mut checkpoint: Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        check(config);
        let options = options.into();
        let layer = config.options();
        let cells = layer
            .places()
            .map(|place| {
                let mut cell = config.fresh_cell(place.d_input, place.top, &options.device);
                take(&mut cell, &place.suffix, &mut checkpoint, &options)?;
                Ok(cell)
            })
            .collect::<Result<_, _>>()?;
        checkpoint.finish()?;
        Ok(Self::new(cells, &layer))
    }

    /// Saves the weights to a safetensors file from which PyTorch loads its module:
    /// `module.load_state_dict(safetensors.torch.load_file(path))`.
    ///
    /// What PyTorch's module does not have is saved under names of its own, at which PyTorch's strict
    /// loading stops. Options without weights (clips, activations, dropout, `reverse`) are not in the
    /// file: load such a layer with [`init_from_checkpoint`](Self::init_from_checkpoint).
    ///
    /// # Errors
    ///
    /// When the file cannot be written; one that was there before is then as it was.
    pub fn save_pytorch(&self, path: impl AsRef<Path>) -> Result<(), CheckpointError> {
        write_safetensors(path, self.state_dict())
    }

    /// The weights under the names that [`save_pytorch`](Self::save_pytorch) gives them, to be put
    /// below a prefix and saved together with other modules by [`write_safetensors`].
    pub fn state_dict(&self) -> Vec<(String, TensorData)> {
        let places = self.options().places();
        let cells = self.cells.iter().zip(places);
        cells
            .flat_map(|(cell, place)| named(cell, &place.suffix))
            .collect()
    }
}

/// The names and shapes of a checkpoint that holds one layer or cell.
#[derive(Debug)]
pub struct Names<'a>(&'a Checkpoint);

impl Names<'_> {
    /// The size along an axis of the first tensor of this name, in whichever layer; 1 where there is no
    /// such tensor or axis.
    pub fn size(&self, name: &str, axis: usize) -> usize {
        let mut names = self.0.names();
        let shape = names
            .find(|full| {
                let rest = full.strip_prefix(name);
                rest.is_some_and(|rest| rest.is_empty() || rest.starts_with("_l"))
            })
            .and_then(|full| self.0.shape(full));
        let size = shape.and_then(|shape| shape.get(axis).copied());
        size.unwrap_or(0).max(1)
    }

    /// Whether a tensor of any cell begins with this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.names().any(|full| full.starts_with(name))
    }

    /// Whether there are weights of the backward direction.
    pub fn is_bidirectional(&self) -> bool {
        let mut names = self.0.names();
        names.any(|name| name.ends_with("_reverse"))
    }

    /// How many layers there are.
    pub fn num_layers(&self) -> usize {
        let layer = |name: &str| {
            let name = name.strip_suffix("_reverse").unwrap_or(name);
            name.rsplit_once("_l")?.1.parse::<usize>().ok()
        };
        let layers = self.0.names().filter_map(layer);
        layers.max().unwrap_or(0).saturating_add(1)
    }
}

impl CellWeights {
    /// The parameters by their names in PyTorch; those of layer normalisation, which PyTorch does not
    /// have, are `norm_input` and `norm_hidden`, numbered from the second group of gates on.
    ///
    /// # Panics
    ///
    /// When there are more than two groups of gates.
    pub fn parameters(&mut self) -> Vec<(&'static str, Stored<'_>)> {
        const NORMS: [[&str; 2]; 2] = [
            ["norm_input", "norm_hidden"],
            ["norm_input_1", "norm_hidden_1"],
        ];
        let mut all = vec![
            ("weight_ih", Stored::Matrix(&mut self.weight_ih)),
            ("weight_hh", Stored::Matrix(&mut self.weight_hh)),
        ];
        let biases = [
            ("bias_ih", &mut self.bias_ih),
            ("bias_hh", &mut self.bias_hh),
        ];
        for (name, bias) in biases {
            all.extend(bias.as_mut().map(|bias| (name, Stored::Vector(bias))));
        }
        if let Some(norm) = &mut self.norm {
            let groups = norm.input.iter_mut().zip(&mut norm.hidden).enumerate();
            for (group, (input, hidden)) in groups {
                let [input_name, hidden_name] = NORMS[group];
                all.push((input_name, Stored::Vector(&mut input.gamma)));
                all.push((hidden_name, Stored::Vector(&mut hidden.gamma)));
            }
        }
        all
    }
}

/// Replaces all parameters of a fresh cell. Its random values are drawn only when they are looked at,
/// and few are.
fn take(
    cell: &mut impl PyTorchCell,
    suffix: &str,
    checkpoint: &mut Checkpoint,
    options: &TensorCreationOptions,
) -> Result<(), CheckpointError> {
    let mut parameters = cell.parameters().into_iter();
    parameters.try_for_each(|(name, stored)| {
        stored.take(&format!("{name}{suffix}"), checkpoint, options.clone())
    })
}

fn named(cell: &impl PyTorchCell, suffix: &str) -> Vec<(String, TensorData)> {
    let mut cell = cell.clone();
    let parameters = cell.parameters().into_iter();
    parameters
        .map(|(name, stored)| (format!("{name}{suffix}"), stored.data()))
        .collect()
}
