//! Weights under PyTorch's names.

mod layout;

use std::path::Path;

use burn::config::Config;
use burn::tensor::TensorCreationOptions;
use seq_core::checkpoint::{Checkpoint, CheckpointError, Parameters, write_safetensors};

use crate::Activation;
use layout::{Found, Layout};

/// What a state dict of PyTorch does not say of the module that it belongs to; the defaults are PyTorch's,
/// but for dropout.
///
/// ```
/// use seq_transformer::{Activation, PyTorchConfig};
///
/// // nn.TransformerEncoderLayer(512, 8, activation="gelu", norm_first=True)
/// let config = PyTorchConfig::new(8).with_activation(Activation::Gelu).with_norm_first(true);
/// ```
#[derive(Config, Debug)]
pub struct PyTorchConfig {
    /// `nhead` or `num_heads`, a divisor of the width.
    pub num_heads: usize,
    /// Whether norms stand before what they belong to; of layers.
    #[config(default = false)]
    pub norm_first: bool,
    /// The nonlinearity of the feed-forward; of layers. PyTorch's `"gelu"` is [`Activation::Gelu`].
    #[config(default = "Activation::Relu")]
    pub activation: Activation,
    /// `layer_norm_eps`; of layers.
    #[config(default = 1e-5)]
    pub layer_norm_eps: f64,
    /// The probability that a value is dropped while training, everywhere that PyTorch does.
    #[config(default = 0.0)]
    pub dropout: f64,
}

/// A module that PyTorch has too, with weights from there and to there:
///
/// | here | in PyTorch |
/// | --- | --- |
/// | [`MultiHeadAttention`](crate::MultiHeadAttention) | `nn.MultiheadAttention`, `kdim` and `vdim` alike |
/// | [`TransformerBlock`](crate::TransformerBlock) | `nn.TransformerEncoderLayer` |
/// | [`DecoderBlock`](crate::DecoderBlock) | `nn.TransformerDecoderLayer` |
/// | [`Encoder`](crate::Encoder) | `nn.TransformerEncoder` |
/// | [`Decoder`](crate::Decoder) | `nn.TransformerDecoder` |
///
/// Sizes, the number of layers, biases and the norm of a stack are told by names and shapes;
/// [`PyTorchConfig`] tells the rest. A `MultiheadAttention` with `add_bias_kv` is refused, by the name of its `bias_k`;
/// `add_zero_attn` leaves no trace in a file, and is not supported either.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use seq_transformer::{
///     Activation, FeedForwardConfig, MultiHeadAttentionConfig, NormPosition, PyTorchConfig,
///     PyTorchModule, TransformerBlock, TransformerBlockConfig,
/// };
///
/// let device = seq_transformer::device();
/// let feed_forward = FeedForwardConfig::new(8, 12).with_activation(Activation::Relu);
/// let block = TransformerBlockConfig::new(MultiHeadAttentionConfig::new(8, 2), feed_forward.into())
///     .with_norm_position(NormPosition::Post)
///     .init(&device);
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("layer.safetensors");
/// block.save_pytorch(&file)?;
/// let again = TransformerBlock::load_pytorch(&file, &PyTorchConfig::new(2), &device)?;
/// assert_eq!(again.attention.d_head, 4);
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub trait PyTorchModule: Layout {
    /// Reads the one such module of a file, `.pt` or `.safetensors`, below whatever prefix it has there.
    /// Tensors of other modules are left alone; for a file with several such modules, take one out with
    /// [`Checkpoint::split_off`] and give it to [`from_checkpoint`](Self::from_checkpoint).
    ///
    /// `options` is a `&Device`, or `(&device, dtype)` for another float type than the device's default.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, holds no such module or several, the tensors do not make up one, or the
    /// options do not fit them; every error names the file, and the tensor or option that is at fault.
    fn load_pytorch(
        path: impl AsRef<Path>,
        config: &PyTorchConfig,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let mut checkpoint = Checkpoint::read(path)?;
        let prefix = checkpoint.find_prefix(Self::ANCHOR)?;
        Self::from_checkpoint(checkpoint.split_off(&prefix)?, config, options)
    }

    /// Takes the module from a checkpoint that holds nothing else.
    ///
    /// # Errors
    ///
    /// When the tensors do not make up one, or the options do not fit them, as
    /// [`load_pytorch`](Self::load_pytorch).
    fn from_checkpoint(
        mut checkpoint: Checkpoint,
        config: &PyTorchConfig,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Self, CheckpointError> {
        let options = options.into();
        let found = Found {
            checkpoint: &checkpoint,
            prefix: "",
            config,
        };
        let module = Self::infer(&found, &options.device);
        let mut module = module.map_err(|error| CheckpointError::WrongField {
            file: checkpoint.file().to_path_buf(),
            field: error.option.to_owned(),
            reason: error.to_string(),
        })?;
        let mut parameters = Parameters::new();
        module.parameters("", &mut parameters);
        parameters.take(&mut checkpoint, options)?;
        checkpoint.finish()?;
        Ok(module)
    }

    /// Saves the weights to a safetensors file from which PyTorch loads its module; the names are those of
    /// its state dict.
    ///
    /// # Errors
    ///
    /// When PyTorch's module does not have what this one has, as rotary positions, or the file cannot be
    /// written.
    fn save_pytorch(&self, path: impl AsRef<Path>) -> Result<(), CheckpointError> {
        let path = path.as_ref();
        if let Some(what) = self.foreign() {
            return Err(CheckpointError::Unwritable {
                file: path.to_path_buf(),
                name: Self::ANCHOR.to_owned(),
                reason: format!("PyTorch's module has no {what}"),
            });
        }
        let mut module = self.clone();
        let mut parameters = Parameters::new();
        module.parameters("", &mut parameters);
        write_safetensors(path, parameters.data())
    }
}

impl<M: Layout> PyTorchModule for M {}
