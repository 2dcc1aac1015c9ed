use std::io;
use std::path::PathBuf;

use thiserror::Error;

/// Why weights could not be read or written. Every message names the file, and the tensor if there is one.
///
/// ```
/// use seq_core::checkpoint::{Checkpoint, CheckpointError};
///
/// let error = Checkpoint::read("no/such/file.pt").unwrap_err();
/// assert!(matches!(error, CheckpointError::Io { .. }));
/// assert!(error.to_string().starts_with("no/such/file.pt: "));
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The operating system refused to open, read or write the file.
    #[error("{}: {source}", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The content is neither safetensors, GGUF nor anything `torch.save` writes, whatever the file's name
    /// says.
    #[error("{}: neither a safetensors or GGUF file nor a PyTorch checkpoint", file.display())]
    NotAWeightFile {
        /// The file.
        file: PathBuf,
    },
    /// The format was recognised, but the file is damaged or uses a part of the format that cannot
    /// be read (PyTorch's sparse or quantized tensors, big-endian storages, the first version of GGUF).
    #[error("{}: damaged or unsupported: {reason}", file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The file has no tensor of this name, or it has been taken already.
    #[error("{}: no tensor `{name}`; the most similar: {}", file.display(), list(similar))]
    MissingTensor {
        /// The file.
        file: PathBuf,
        /// The full name that was looked for.
        name: String,
        /// The most similar names among those left in the file, the closest first.
        similar: Vec<String>,
    },
    /// The tensor does not have the shape that the module needs.
    #[error("{}: tensor `{name}` has shape {found:?}, expected {expected:?}", file.display())]
    WrongShape {
        /// The file.
        file: PathBuf,
        /// The tensor's full name.
        name: String,
        /// The shape that the module needs.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// The tensor does not hold 16, 32 or 64 bit floats, nor quantised ones of a known type.
    #[error("{}: tensor `{name}` holds {found}, expected F64, F32, F16, BF16 or a known quantised type", file.display())]
    WrongDtype {
        /// The file.
        file: PathBuf,
        /// The tensor's full name.
        name: String,
        /// The element type in the file, as the format spells it.
        found: String,
    },
    /// No tensor has a name below this prefix.
    #[error("{}: no tensors below `{prefix}`; prefixes in the file: {}", file.display(), list(known))]
    UnknownPrefix {
        /// The file.
        file: PathBuf,
        /// The prefix that was looked for.
        prefix: String,
        /// All prefixes that exist.
        known: Vec<String>,
    },
    /// Several prefixes hold a tensor of this name: the caller has to choose one.
    #[error("{}: `{name}` exists below several prefixes, choose one: {}", file.display(), list(prefixes))]
    AmbiguousPrefix {
        /// The file.
        file: PathBuf,
        /// The name that was looked for.
        name: String,
        /// The prefixes that hold it.
        prefixes: Vec<String>,
    },
    /// The module has no place for these tensors: the file belongs to another architecture or configuration.
    #[error("{}: tensors that the module does not have: {}", file.display(), list(names))]
    UnexpectedTensors {
        /// The file.
        file: PathBuf,
        /// Their full names.
        names: Vec<String>,
    },
    /// A folder has no file with weights.
    #[error("{}: no weights, none of: {}", folder.display(), list(looked_for))]
    NoWeights {
        /// The folder.
        folder: PathBuf,
        /// The files that were looked for.
        looked_for: Vec<String>,
    },
    /// A field of a configuration, or a key of a GGUF file's metadata, is missing or has a value that cannot
    /// be used.
    #[error("{}: field `{field}`: {reason}", file.display())]
    WrongField {
        /// The file.
        file: PathBuf,
        /// The field's name.
        field: String,
        /// What does not fit.
        reason: String,
    },
    /// A configuration has fields that would not be honoured.
    #[error("{}: fields that this library does not know: {}", file.display(), list(fields))]
    UnknownFields {
        /// The file.
        file: PathBuf,
        /// Their names.
        fields: Vec<String>,
    },
    /// The tensor cannot be saved.
    #[error("{}: cannot save tensor `{name}`: {reason}", file.display())]
    Unwritable {
        /// The file that was to be written.
        file: PathBuf,
        /// The tensor's name.
        name: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// Quoted and cut off: a language model has thousands of names, and a message must stay readable.
fn list(names: &[String]) -> String {
    const SHOWN: usize = 10;
    if names.is_empty() {
        return "none".to_string();
    }
    let quote = |name: &String| match name.as_str() {
        "" => "`` (top level)".to_string(),
        name => format!("`{name}`"),
    };
    let mut text = names
        .iter()
        .take(SHOWN)
        .map(quote)
        .collect::<Vec<_>>()
        .join(", ");
    if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}
