//! The file formats, brought down to one table of tensors by name.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use burn::tensor::DType;
use pytorch_reader::{PytorchError, PytorchReader};
use safetensors::{Dtype, SafeTensors};

use super::{CheckpointError, gguf};

/// Keys under which training scripts keep the weights beside the optimizer's state.
const STATE_DICT_KEYS: [&str; 2] = ["state_dict", "model_state_dict"];

/// A tensor whose bytes have not been asked for yet.
pub(super) struct Entry {
    pub shape: Vec<usize>,
    /// A float type, or the format's name for a type that holds no weights.
    pub dtype: Result<DType, String>,
    /// Reads the elements.
    pub bytes: Box<dyn Fn() -> io::Result<Vec<u8>> + Send + Sync>,
}

impl Entry {
    /// The elements, row-major.
    pub fn bytes(&self, file: &Path) -> Result<Vec<u8>, CheckpointError> {
        guarded(file, || {
            (self.bytes)().map_err(|error| io_error(file, error))
        })
    }
}

/// All tensors of a file, whose format is told by its content.
pub(super) fn read_entries(file: &Path) -> Result<BTreeMap<String, Entry>, CheckpointError> {
    let mut head = Vec::new();
    File::open(file)
        .and_then(|file| file.take(262).read_to_end(&mut head))
        .map_err(|error| io_error(file, error))?;
    if is_safetensors(&head) {
        guarded(file, || read_safetensors(file))
    } else if is_pytorch(&head) {
        guarded(file, || read_pytorch(file))
    } else if head.starts_with(gguf::MAGIC) {
        gguf::read_gguf(file).map(|(_, entries)| entries)
    } else {
        Err(CheckpointError::NotAWeightFile {
            file: file.to_path_buf(),
        })
    }
}

/// The length of a JSON object, which the format limits to 100 MB, and its opening brace.
fn is_safetensors(head: &[u8]) -> bool {
    let length = head.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
    length.is_some_and(|length| length <= 100_000_000) && head.get(8) == Some(&b'{')
}

/// A ZIP archive, or a pickle of protocol 2 or later.
///
/// The TAR archives of 2016 are left out: a sparse TAR entry of a few bytes may claim any size.
fn is_pytorch(head: &[u8]) -> bool {
    let is_tar = head.get(257..262) == Some(b"ustar".as_slice());
    head.starts_with(b"PK\x03\x04") || (head.starts_with(&[0x80]) && !is_tar)
}

fn read_safetensors(file: &Path) -> Result<BTreeMap<String, Entry>, CheckpointError> {
    let content = Arc::new(fs::read(file).map_err(|error| io_error(file, error))?);
    let (header, metadata) =
        SafeTensors::read_metadata(&content).map_err(|error| corrupt(file, error))?;
    let body = size_of::<u64>() + header;
    let entry = |info: &safetensors::tensor::TensorInfo| {
        let (content, (start, end)) = (content.clone(), info.data_offsets);
        Entry {
            shape: info.shape.clone(),
            dtype: match info.dtype {
                Dtype::F64 => Ok(DType::F64),
                Dtype::F32 => Ok(DType::F32),
                Dtype::F16 => Ok(DType::F16),
                Dtype::BF16 => Ok(DType::BF16),
                other => Err(other.to_string()),
            },
            bytes: Box::new(move || Ok(content[body + start..body + end].to_vec())),
        }
    };
    let tensors = metadata.tensors().into_iter();
    Ok(tensors.map(|(name, info)| (name, entry(info))).collect())
}

fn read_pytorch(file: &Path) -> Result<BTreeMap<String, Entry>, CheckpointError> {
    let reader = PytorchReader::new(file).map_err(|error| match error {
        PytorchError::Io(error) => io_error(file, error),
        error => corrupt(file, error),
    })?;
    let entry = |tensor: pytorch_reader::Tensor| Entry {
        shape: tensor.shape().to_vec(),
        dtype: match tensor.dtype() {
            pytorch_reader::DType::F64 => Ok(DType::F64),
            pytorch_reader::DType::F32 => Ok(DType::F32),
            pytorch_reader::DType::F16 => Ok(DType::F16),
            pytorch_reader::DType::BF16 => Ok(DType::BF16),
            other => Err(format!("{other:?}")),
        },
        bytes: Box::new(move || tensor.read()),
    };
    let mut tensors = reader.into_tensors();
    for key in STATE_DICT_KEYS {
        let below = |name: &str| Some(name.strip_prefix(key)?.strip_prefix('.')?.to_string());
        if tensors.keys().any(|name| below(name).is_some()) {
            tensors = tensors
                .into_iter()
                .filter_map(|(name, tensor)| Some((below(&name)?, tensor)))
                .collect();
            break;
        }
    }
    let tensors = tensors.into_iter();
    Ok(tensors
        .map(|(name, tensor)| (name, entry(tensor)))
        .collect())
}

/// Turns a panic of a format library into an error: safetensors adds up the offsets that a file
/// claims without checking for overflow, and a broken file must not end the program.
fn guarded<T>(
    file: &Path,
    read: impl FnOnce() -> Result<T, CheckpointError>,
) -> Result<T, CheckpointError> {
    catch_unwind(AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(corrupt(file, "its sizes or offsets make no sense")))
}

pub(super) fn corrupt(file: &Path, reason: impl ToString) -> CheckpointError {
    CheckpointError::Corrupt {
        file: file.to_path_buf(),
        reason: reason.to_string(),
    }
}

/// The readers report a file that contradicts itself as an I/O error of these kinds.
pub(super) fn io_error(file: &Path, source: io::Error) -> CheckpointError {
    use io::ErrorKind::{InvalidData, InvalidInput, UnexpectedEof};
    match source.kind() {
        InvalidData | InvalidInput | UnexpectedEof => corrupt(file, source),
        _ => CheckpointError::Io {
            file: file.to_path_buf(),
            source,
        },
    }
}
