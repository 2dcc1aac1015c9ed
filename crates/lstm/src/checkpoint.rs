//! Weights under PyTorch's names: reading what `nn.LSTM` and `nn.LSTMCell` save, and saving so that
//! they read it.

use std::path::Path;

use burn::module::Param;
use burn::nn::DropoutConfig;
use burn::tensor::{Tensor, TensorCreationOptions, TensorData};
use seq_core::checkpoint::{Checkpoint, CheckpointError, write_safetensors};

use crate::config::LstmConfig;
use crate::layer::{Lstm, LstmCell};

impl Lstm {
    /// Reads the one `nn.LSTM` of a file, `.pt` or `.safetensors`, below whatever prefix it has
    /// there. Tensors of other modules are left alone; for a file with several LSTMs, or an LSTM
    /// with options that shapes cannot tell, see [`from_checkpoint`](Self::from_checkpoint) and
    /// [`LstmConfig::init_from_checkpoint`].
    ///
    /// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's
    /// default.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, holds no LSTM or several, or the tensors do not make up one
    /// `nn.LSTM`; every error names the file, and the tensor that is at fault. Either all weights
    /// are loaded or none.
    ///
    /// ```
    /// # #[cfg(feature = "ndarray")] {
    /// use seq_lstm::{Lstm, LstmConfig};
    ///
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let file = folder.path().join("tagger.safetensors");
    /// let device = seq_lstm::device();
    /// let lstm = LstmConfig::new(8, 16).with_num_layers(2).with_bidirectional(true).init(&device);
    /// lstm.save_pytorch(&file).unwrap();
    ///
    /// let same = Lstm::load_pytorch(&file, &device).unwrap();
    /// assert_eq!(same.cells.len(), 4);
    /// # }
    /// ```
    pub fn load_pytorch(
        path: impl AsRef<Path>,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let mut checkpoint = Checkpoint::read(path)?;
        let prefix = checkpoint.find_prefix("weight_ih_l0")?;
        Self::from_checkpoint(checkpoint.split_off(&prefix)?, options)
    }

    /// Takes an `nn.LSTM` from a checkpoint that holds nothing else, such as what
    /// [`Checkpoint::split_off`] gives. Layers, directions, widths, biases and a projection are
    /// told from the names and shapes; what they cannot tell is at its default.
    ///
    /// # Errors
    ///
    /// When a tensor is missing, left over, or of a wrong shape or element type.
    ///
    /// ```no_run
    /// use seq_core::checkpoint::Checkpoint;
    /// use seq_lstm::Lstm;
    ///
    /// let mut checkpoint = Checkpoint::read("translator.pt")?;
    /// let device = seq_lstm::device();
    /// let encoder = Lstm::from_checkpoint(checkpoint.split_off("encoder.rnn")?, &device)?;
    /// let decoder = Lstm::from_checkpoint(checkpoint.split_off("decoder.rnn")?, &device)?;
    /// # Ok::<(), seq_core::checkpoint::CheckpointError>(())
    /// ```
    pub fn from_checkpoint(
        checkpoint: Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        infer(&checkpoint, "_l0").init_from_checkpoint(checkpoint, options)
    }

    /// Saves the weights to a safetensors file from which PyTorch loads an `nn.LSTM`:
    /// `nn.LSTM(..).load_state_dict(safetensors.torch.load_file(path))`.
    ///
    /// What `nn.LSTM` does not have is saved under names of its own, at which PyTorch's strict
    /// loading stops: `peephole_l0`, and `norm_input_l0`, `norm_hidden_l0`, `norm_cell_l0`,
    /// `norm_cell_bias_l0` for the layer normalisations. Options without weights (clips,
    /// activations, dropout, `reverse`) are not in the file: load such an LSTM with
    /// [`LstmConfig::init_from_checkpoint`].
    ///
    /// # Errors
    ///
    /// When the file cannot be written; one that was there before is then as it was.
    pub fn save_pytorch(&self, path: impl AsRef<Path>) -> Result<(), CheckpointError> {
        write_safetensors(path, self.state_dict())
    }

    /// The weights under the names that [`save_pytorch`](Self::save_pytorch) gives them, to be put
    /// below a prefix and saved together with other modules by
    /// [`write_safetensors`].
    pub fn state_dict(&self) -> Vec<(String, TensorData)> {
        let suffixes = suffixes(self.bidirectional);
        self.cells
            .iter()
            .zip(suffixes)
            .flat_map(|(cell, suffix)| cell.named_tensors(&suffix))
            .collect()
    }
}

impl LstmCell {
    /// Reads the one `nn.LSTMCell` of a file, as [`Lstm::load_pytorch`] reads an `nn.LSTM`.
    ///
    /// # Errors
    ///
    /// As [`Lstm::load_pytorch`].
    ///
    /// ```no_run
    /// let device = seq_lstm::device();
    /// let cell = seq_lstm::LstmCell::load_pytorch("controller.pt", &device)?;
    /// # Ok::<(), seq_core::checkpoint::CheckpointError>(())
    /// ```
    pub fn load_pytorch(
        path: impl AsRef<Path>,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let mut checkpoint = Checkpoint::read(path)?;
        let prefix = checkpoint.find_prefix("weight_ih")?;
        Self::from_checkpoint(checkpoint.split_off(&prefix)?, options)
    }

    /// Takes an `nn.LSTMCell` from a checkpoint that holds nothing else.
    ///
    /// # Errors
    ///
    /// As [`Lstm::from_checkpoint`].
    pub fn from_checkpoint(
        checkpoint: Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        infer(&checkpoint, "").init_cell_from_checkpoint(checkpoint, options)
    }

    /// Saves the weights to a safetensors file from which PyTorch loads an `nn.LSTMCell`; the names
    /// are those of [`Lstm::save_pytorch`] without `_l0`.
    ///
    /// # Errors
    ///
    /// As [`Lstm::save_pytorch`].
    pub fn save_pytorch(&self, path: impl AsRef<Path>) -> Result<(), CheckpointError> {
        write_safetensors(path, self.state_dict())
    }

    /// The weights under the names that [`save_pytorch`](Self::save_pytorch) gives them.
    pub fn state_dict(&self) -> Vec<(String, TensorData)> {
        self.named_tensors("")
    }

    fn named_tensors(&self, suffix: &str) -> Vec<(String, TensorData)> {
        let norm = self.norm.as_ref();
        let matrices = [
            ("weight_ih", Some(&self.weight_ih)),
            ("weight_hh", Some(&self.weight_hh)),
            ("weight_hr", self.weight_hr.as_ref()),
        ];
        let vectors = [
            ("bias_ih", self.bias_ih.as_ref()),
            ("bias_hh", self.bias_hh.as_ref()),
            ("peephole", self.peephole.as_ref()),
            ("norm_input", norm.map(|norm| &norm.input.gamma)),
            ("norm_hidden", norm.map(|norm| &norm.hidden.gamma)),
            ("norm_cell", norm.map(|norm| &norm.cell.gamma)),
            (
                "norm_cell_bias",
                norm.and_then(|norm| norm.cell.beta.as_ref()),
            ),
        ];
        let matrices = matrices
            .into_iter()
            .map(|(name, param)| (name, data(param)));
        let vectors = vectors.into_iter().map(|(name, param)| (name, data(param)));
        matrices
            .chain(vectors)
            .filter_map(|(name, data)| Some((format!("{name}{suffix}"), data?)))
            .collect()
    }
}

impl LstmConfig {
    /// Makes the layer with the weights of an `nn.LSTM`, from a checkpoint that holds nothing else.
    ///
    /// The configuration gives what a file cannot: activations, clips, dropout, `reverse`. Its
    /// sizes must be those of the weights.
    ///
    /// # Errors
    ///
    /// When a tensor is missing, left over, or of a wrong shape or element type.
    ///
    /// # Panics
    ///
    /// As [`init`](Self::init).
    ///
    /// ```no_run
    /// use seq_core::checkpoint::Checkpoint;
    /// use seq_lstm::{Activation, LstmConfig};
    ///
    /// let config = LstmConfig::new(40, 128).with_gate_activation(Activation::HardSigmoid);
    /// let lstm = config.init_from_checkpoint(Checkpoint::read("keyword.pt")?, &seq_lstm::device())?;
    /// # Ok::<(), seq_core::checkpoint::CheckpointError>(())
    /// ```
    pub fn init_from_checkpoint(
        &self,
        mut checkpoint: Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Lstm, CheckpointError> {
        let options = options.into();
        let directions = if self.bidirectional { 2 } else { 1 };
        let cells = suffixes(self.bidirectional)
            .take(self.num_layers.saturating_mul(directions))
            .enumerate()
            .map(|(row, suffix)| {
                let d_input = match row / directions {
                    0 => self.d_input,
                    _ => directions * self.d_output(),
                };
                self.take_cell(d_input, &suffix, &mut checkpoint, &options)
            })
            .collect::<Result<_, _>>()?;
        checkpoint.finish()?;
        Ok(Lstm {
            cells,
            dropout: DropoutConfig::new(self.dropout).init(),
            bidirectional: self.bidirectional,
            reverse: self.reverse,
        })
    }

    /// Makes a single cell with the weights of an `nn.LSTMCell`, from a checkpoint that holds
    /// nothing else.
    ///
    /// # Errors
    ///
    /// As [`init_from_checkpoint`](Self::init_from_checkpoint).
    ///
    /// # Panics
    ///
    /// As [`init`](Self::init).
    pub fn init_cell_from_checkpoint(
        &self,
        mut checkpoint: Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<LstmCell, CheckpointError> {
        let cell = self.take_cell(self.d_input, "", &mut checkpoint, &options.into())?;
        checkpoint.finish()?;
        Ok(cell)
    }

    fn take_cell(
        &self,
        d_input: usize,
        suffix: &str,
        checkpoint: &mut Checkpoint,
        options: &TensorCreationOptions,
    ) -> Result<LstmCell, CheckpointError> {
        let (hidden, output) = (self.d_hidden, self.d_output());
        // Fresh weights are drawn only when they are looked at, and none is: all are replaced below.
        let fresh = self.clone().with_orthogonal(false).with_forget_bias(None);
        let mut cell = fresh.init_cell(&options.device);
        let mut from = Source {
            checkpoint,
            suffix,
            options,
        };
        cell.weight_ih = from.take("weight_ih", [4 * hidden, d_input])?;
        cell.weight_hh = from.take("weight_hh", [4 * hidden, output])?;
        if self.bias {
            cell.bias_ih = Some(from.take("bias_ih", [4 * hidden])?);
            cell.bias_hh = Some(from.take("bias_hh", [4 * hidden])?);
        }
        if cell.weight_hr.is_some() {
            cell.weight_hr = Some(from.take("weight_hr", [output, hidden])?);
        }
        if self.peephole {
            cell.peephole = Some(from.take("peephole", [3 * hidden])?);
        }
        if let Some(norm) = &mut cell.norm {
            norm.input.gamma = from.take("norm_input", [4 * hidden])?;
            norm.hidden.gamma = from.take("norm_hidden", [4 * hidden])?;
            norm.cell.gamma = from.take("norm_cell", [hidden])?;
            norm.cell.beta = Some(from.take("norm_cell_bias", [hidden])?);
        }
        Ok(cell)
    }
}

/// Where the tensors of one cell come from.
struct Source<'a> {
    checkpoint: &'a mut Checkpoint,
    suffix: &'a str,
    options: &'a TensorCreationOptions,
}

impl Source<'_> {
    fn take<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
    ) -> Result<Param<Tensor<D>>, CheckpointError> {
        let name = format!("{name}{}", self.suffix);
        let tensor = self.checkpoint.take(&name, shape, self.options.clone())?;
        Ok(Param::from_tensor(tensor))
    }
}

/// What names and shapes tell. A checkpoint that makes no sense gives a configuration that it does
/// not fit, so that loading says what is wrong.
fn infer(checkpoint: &Checkpoint, first: &str) -> LstmConfig {
    let size = |name: &str, axis: usize| {
        let shape = checkpoint.shape(&format!("{name}{first}"));
        shape
            .and_then(|shape| shape.get(axis).copied())
            .unwrap_or(0)
            .max(1)
    };
    let has = |name: &str| checkpoint.names().any(|full| full.starts_with(name));
    let layers = checkpoint.names().filter_map(|name| {
        let (_, layer) = name
            .strip_suffix("_reverse")
            .unwrap_or(name)
            .rsplit_once("_l")?;
        layer.parse::<usize>().ok()
    });
    LstmConfig::new(size("weight_ih", 1), (size("weight_ih", 0) / 4).max(1))
        .with_num_layers(layers.max().unwrap_or(0).saturating_add(1))
        .with_bidirectional(checkpoint.names().any(|name| name.ends_with("_reverse")))
        .with_bias(has("bias_"))
        .with_d_projection(has("weight_hr").then(|| size("weight_hr", 0)))
        .with_peephole(has("peephole"))
        .with_layer_norm(has("norm_"))
}

/// What PyTorch appends to the names of layer 0 forward, layer 0 backward, layer 1 forward, ...
fn suffixes(bidirectional: bool) -> impl Iterator<Item = String> {
    let directions: &[&str] = if bidirectional {
        &["", "_reverse"]
    } else {
        &[""]
    };
    (0..).flat_map(move |layer: usize| {
        directions
            .iter()
            .map(move |direction| format!("_l{layer}{direction}"))
    })
}

fn data<const D: usize>(param: Option<&Param<Tensor<D>>>) -> Option<TensorData> {
    Some(param?.val().into_data())
}
