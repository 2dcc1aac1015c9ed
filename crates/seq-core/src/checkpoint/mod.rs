//! Weights made elsewhere, under the names they have there.
//!
//! [`Checkpoint::read`] opens what `torch.save` writes (`.pt`, `.pth`, `.bin`), safetensors files and
//! the GGUF files of llama.cpp, whose other half is [`GgufMetadata`]; [`write_safetensors`] saves under
//! the same names, so that PyTorch reads the file again.
//!
//! Each [`take`](Checkpoint::take) checks name, shape and element type and hands out one tensor. A
//! module is built from the tensors once all of them are there, and [`finish`](Checkpoint::finish)
//! makes sure that none was overlooked. A file that does not fit therefore never leaves a module
//! with half of its weights:
//!
//! ```
//! use burn::module::Param;
//! use burn::nn::Linear;
//! use burn::tensor::{Device, TensorData};
//! use seq_core::checkpoint::{Checkpoint, CheckpointError, write_safetensors};
//!
//! /// PyTorch keeps a linear layer's weight as `[d_output, d_input]`, Burn as `[d_input, d_output]`.
//! fn load_linear(
//!     checkpoint: &mut Checkpoint,
//!     [d_input, d_output]: [usize; 2],
//!     device: &Device,
//! ) -> Result<Linear, CheckpointError> {
//!     let weight = checkpoint.take("weight", [d_output, d_input], device)?;
//!     let bias = checkpoint.take("bias", [d_output], device)?;
//!     Ok(Linear {
//!         weight: Param::from_tensor(weight.transpose()),
//!         bias: Some(Param::from_tensor(bias)),
//!     })
//! }
//!
//! # let folder = tempfile::tempdir()?;
//! # let file = folder.path().join("model.safetensors");
//! # let weight = TensorData::from([[1.0f32, 2.0, 3.0], [4.0, 5.0, 6.0]]);
//! # let bias = TensorData::from([0.5f32, -0.5]);
//! # let tensors = [("head.weight", weight), ("head.bias", bias)];
//! # write_safetensors(&file, tensors.map(|(name, data)| (name.to_string(), data)))?;
//! let device = Device::default();
//! let mut checkpoint = Checkpoint::read(&file)?;
//! let head = load_linear(&mut checkpoint.split_off("head")?, [3, 2], &device)?;
//! checkpoint.finish()?;
//! assert_eq!(head.weight.dims(), [3, 2]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! [`Parameters`] lists those of a module that is there already, to be taken or written in one go.

mod error;
mod folder;
mod gguf;
mod reader;
mod stored;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};

use burn::tensor::{Tensor, TensorCreationOptions, TensorData};

pub use error::CheckpointError;
pub use folder::{ConfigFile, eos_token_ids};
pub use gguf::{GgufMetadata, GgufValue};
pub use stored::{Parameters, Stored};
pub use writer::{replace_file, write_safetensors};

use reader::{Entry, corrupt, read_entries};

/// The tensors of a weight file by name, each to be taken once.
///
/// ```no_run
/// use burn::tensor::Device;
/// use seq_core::checkpoint::Checkpoint;
///
/// let mut checkpoint = Checkpoint::read("tagger.pt")?;
/// // Wherever the one LSTM of the file is: `lstm`, `encoder.rnn`, ...
/// let prefix = checkpoint.find_prefix("weight_ih_l0")?;
/// let mut lstm = checkpoint.split_off(&prefix)?;
/// let weight = lstm.take("weight_ih_l0", [4 * 128, 64], &Device::default())?;
/// # Ok::<(), seq_core::checkpoint::CheckpointError>(())
/// ```
pub struct Checkpoint {
    file: PathBuf,
    /// What [`Checkpoint::split_off`] removed from the names, the last dot included.
    prefix: String,
    entries: BTreeMap<String, Entry>,
}

impl Checkpoint {
    /// Opens a weight file. Its content decides on the format, its name does not.
    ///
    /// Of a PyTorch file, whatever is not a tensor is left out; tensors in nested dictionaries get
    /// dotted names. Where a training script has put the weights under `state_dict` or
    /// `model_state_dict`, only these are kept, under their own names. Code in a pickle is never run.
    ///
    /// A safetensors file is held in memory until the last of its tensors has been taken or
    /// dropped. A PyTorch or GGUF file stays open, and a tensor is read from it when it is taken.
    ///
    /// Tensors of a GGUF file (version 2 or 3, little-endian) may be quantised as Q4_0, Q4_1, Q5_0, Q5_1,
    /// Q8_0, Q4_K, Q5_K or Q6_K: they are handed out as floats. Shapes are in PyTorch's order, the reverse
    /// of the file's.
    ///
    /// Damage is found as far as the formats allow. In PyTorch's ZIP files, checksums cover the
    /// table of tensors, and every tensor that does not share its storage with others. Safetensors,
    /// GGUF and the format of PyTorch before 1.6 have no checksums: there a changed bit in an element
    /// gives another number.
    ///
    /// # Errors
    /// [`Io`](CheckpointError::Io), [`NotAWeightFile`](CheckpointError::NotAWeightFile) or
    /// [`Corrupt`](CheckpointError::Corrupt).
    pub fn read(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let file = path.as_ref();
        Ok(Self {
            file: file.to_path_buf(),
            prefix: String::new(),
            entries: read_entries(file)?,
        })
    }

    /// Opens a GGUF file with what it says of its model.
    ///
    /// # Errors
    ///
    /// [`Io`](CheckpointError::Io), or [`Corrupt`](CheckpointError::Corrupt) if it is no GGUF file of
    /// version 2 or 3 in little-endian, or a damaged one.
    pub fn read_gguf(path: impl AsRef<Path>) -> Result<(Self, GgufMetadata), CheckpointError> {
        let file = path.as_ref();
        let (metadata, entries) = gguf::read_gguf(file)?;
        let checkpoint = Self {
            file: file.to_path_buf(),
            prefix: String::new(),
            entries,
        };
        Ok((checkpoint, metadata))
    }

    /// The file that was read.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The names of the tensors that have not been taken, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// The shape of a tensor, or `None` if there is no such tensor: tells sizes, and whether there
    /// is a bias or one more layer, before anything is built.
    pub fn shape(&self, name: &str) -> Option<&[usize]> {
        Some(&self.entries.get(name)?.shape)
    }

    /// The one prefix below which there is a tensor `name`, such as `encoder.rnn` for
    /// `weight_ih_l0`, fit for [`split_off`](Self::split_off). It is empty for a name that has none.
    ///
    /// # Errors
    /// [`MissingTensor`](CheckpointError::MissingTensor) if there is none,
    /// [`AmbiguousPrefix`](CheckpointError::AmbiguousPrefix) if there are several.
    pub fn find_prefix(&self, name: &str) -> Result<String, CheckpointError> {
        let prefix_of = |full: &str| match full.strip_suffix(name)? {
            "" => Some(String::new()),
            prefix => Some(prefix.strip_suffix('.')?.to_string()),
        };
        let mut prefixes: Vec<_> = self.names().filter_map(prefix_of).collect();
        match prefixes.len() {
            0 => Err(self.missing(name)),
            1 => Ok(prefixes.remove(0)),
            _ => Err(CheckpointError::AmbiguousPrefix {
                file: self.file.clone(),
                name: name.to_string(),
                prefixes,
            }),
        }
    }

    /// Moves the tensors below `prefix` to a checkpoint of their own, where `encoder.rnn.bias` is
    /// called `bias` if the prefix is `encoder.rnn`. The empty prefix moves all of them.
    ///
    /// # Errors
    /// [`UnknownPrefix`](CheckpointError::UnknownPrefix) if no tensor is below it.
    pub fn split_off(&mut self, prefix: &str) -> Result<Self, CheckpointError> {
        let dotted = match prefix {
            "" => String::new(),
            prefix => format!("{prefix}."),
        };
        let below: BTreeMap<_, _> = self
            .entries
            .extract_if(.., |name, _| name.starts_with(&dotted))
            .map(|(name, entry)| (name[dotted.len()..].to_string(), entry))
            .collect();
        if below.is_empty() {
            return Err(CheckpointError::UnknownPrefix {
                file: self.file.clone(),
                prefix: self.full(prefix),
                known: self.prefixes(),
            });
        }
        Ok(Self {
            file: self.file.clone(),
            prefix: self.full(&dotted),
            entries: below,
        })
    }

    /// Takes a tensor of floats out of the checkpoint and puts it on a device.
    ///
    /// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's
    /// default. Elements are rounded to that type where it is narrower than the file's. Nothing is
    /// read before the shape has been found right, so a file cannot make a module larger than the
    /// caller meant it to be. NaN and infinite weights are handed out as they are.
    ///
    /// # Errors
    /// [`MissingTensor`](CheckpointError::MissingTensor), [`WrongShape`](CheckpointError::WrongShape),
    /// [`WrongDtype`](CheckpointError::WrongDtype) for integers, booleans, complex, 8 bit floats and
    /// other quantised types,
    /// [`Corrupt`](CheckpointError::Corrupt) or [`Io`](CheckpointError::Io) if the elements cannot be
    /// read. After an error, the tensor is still there.
    ///
    /// # Panics
    /// If the device does not know the requested type, or if it is not a float type.
    pub fn take<const D: usize>(
        &mut self,
        name: &str,
        shape: [usize; D],
        options: impl Into<TensorCreationOptions>,
    ) -> Result<Tensor<D>, CheckpointError> {
        let entry = self.entries.get(name).ok_or_else(|| self.missing(name))?;
        if entry.shape != shape {
            return Err(CheckpointError::WrongShape {
                file: self.file.clone(),
                name: self.full(name),
                expected: shape.to_vec(),
                found: entry.shape.clone(),
            });
        }
        let dtype = match &entry.dtype {
            Ok(dtype) => *dtype,
            Err(found) => {
                return Err(CheckpointError::WrongDtype {
                    file: self.file.clone(),
                    name: self.full(name),
                    found: found.clone(),
                });
            }
        };
        let data = TensorData::try_from_bytes_vec(entry.bytes(&self.file)?, shape, dtype)
            .map_err(|error| corrupt(&self.file, error))?;
        self.entries.remove(name);
        Ok(Tensor::from_data(data, options))
    }

    /// Drops a tensor that the module knows and does not need, such as the copy of a tied weight or
    /// a counter of training steps. Says whether it was there.
    pub fn discard(&mut self, name: &str) -> bool {
        self.entries.remove(name).is_some()
    }

    /// Ends the loading. To ignore what is left over, drop the checkpoint instead.
    ///
    /// # Errors
    /// [`UnexpectedTensors`](CheckpointError::UnexpectedTensors) if a tensor was neither taken nor
    /// discarded.
    pub fn finish(self) -> Result<(), CheckpointError> {
        if self.entries.is_empty() {
            return Ok(());
        }
        Err(CheckpointError::UnexpectedTensors {
            names: self.names().map(|name| self.full(name)).collect(),
            file: self.file,
        })
    }

    /// The name as it stands in the file.
    fn full(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Every prefix that [`Self::split_off`] would accept, except the empty one.
    fn prefixes(&self) -> Vec<String> {
        let dots = |name| str::match_indices(name, '.').map(move |(dot, _)| &name[..dot]);
        let prefixes: BTreeSet<_> = self.names().flat_map(dots).collect();
        prefixes
            .into_iter()
            .map(|prefix| self.full(prefix))
            .collect()
    }

    /// The error that names what the caller may have meant: names with the longest common
    /// beginning and end.
    fn missing(&self, name: &str) -> CheckpointError {
        const SHOWN: usize = 3;
        let common = |other: &str| {
            let beginning = name.bytes().zip(other.bytes());
            let end = name.bytes().rev().zip(other.bytes().rev());
            beginning.take_while(|(a, b)| a == b).count() + end.take_while(|(a, b)| a == b).count()
        };
        let mut similar: Vec<_> = self.names().collect();
        similar.sort_by_key(|other| std::cmp::Reverse(common(other)));
        CheckpointError::MissingTensor {
            file: self.file.clone(),
            name: self.full(name),
            similar: similar
                .into_iter()
                .take(SHOWN)
                .map(|name| self.full(name))
                .collect(),
        }
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Checkpoint")
            .field("file", &self.file)
            .field("prefix", &self.prefix)
            .field("names", &self.entries.keys())
            .finish()
    }
}
