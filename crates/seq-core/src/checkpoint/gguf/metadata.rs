use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use super::super::CheckpointError;
use super::super::reader::io_error;
use super::read_header;
use super::source::{Source, invalid};

/// How deep arrays may lie in arrays.
const DEEPEST: usize = 8;

/// What a GGUF file says of its model: sizes, constants and the tokenizer, by key.
///
/// The tensors are in the file's [`Checkpoint`](crate::checkpoint::Checkpoint). Every error of the typed
/// getters is a [`WrongField`](CheckpointError::WrongField) that names the file and the key.
///
/// ```no_run
/// use seq_core::checkpoint::Checkpoint;
///
/// let (checkpoint, metadata) = Checkpoint::read_gguf("model.gguf")?;
/// assert_eq!(metadata.str("general.architecture")?, Some("llama"));
/// let d_model = metadata.u64("llama.embedding_length")?;
/// let d_model = d_model.ok_or_else(|| metadata.missing("llama.embedding_length"))?;
/// assert_eq!(checkpoint.shape("output_norm.weight"), Some([d_model as usize].as_slice()));
/// # Ok::<(), seq_core::checkpoint::CheckpointError>(())
/// ```
#[derive(Clone, Debug)]
pub struct GgufMetadata {
    file: PathBuf,
    values: BTreeMap<String, GgufValue>,
}

/// A value in the metadata of a GGUF file. Numbers of all widths are widened, which changes none of them.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// An unsigned integer of 8 to 64 bits.
    Unsigned(u64),
    /// A signed integer of 8 to 64 bits.
    Signed(i64),
    /// A float of 32 or 64 bits.
    Float(f64),
    /// True or false.
    Bool(bool),
    /// Text.
    String(String),
    /// Values of one kind, which may be arrays themselves.
    Array(Vec<GgufValue>),
}

impl GgufValue {
    /// What kind of value it is, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Self::Unsigned(_) => "an unsigned integer",
            Self::Signed(_) => "a signed integer",
            Self::Float(_) => "a float",
            Self::Bool(_) => "a truth value",
            Self::String(_) => "a string",
            Self::Array(_) => "an array",
        }
    }

    fn as_u64(&self) -> Option<u64> {
        match self {
            Self::Unsigned(value) => Some(*value),
            Self::Signed(value) => u64::try_from(*value).ok(),
            _ => None,
        }
    }

    fn as_i64(&self) -> Option<i64> {
        match self {
            Self::Unsigned(value) => i64::try_from(*value).ok(),
            Self::Signed(value) => Some(*value),
            _ => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            _ => None,
        }
    }

    fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(value) => Some(value),
            _ => None,
        }
    }
}

impl GgufMetadata {
    pub(super) fn new(file: &Path, values: BTreeMap<String, GgufValue>) -> Self {
        let file = file.to_path_buf();
        Self { file, values }
    }

    /// Reads the metadata of a file; [`Checkpoint::read_gguf`](crate::checkpoint::Checkpoint::read_gguf) gives
    /// the tensors, too.
    ///
    /// # Errors
    ///
    /// [`Io`](CheckpointError::Io), or [`Corrupt`](CheckpointError::Corrupt) if it is no GGUF file of
    /// version 2 or 3 in little-endian, or a damaged one.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let file = path.as_ref();
        let header = File::open(file).and_then(|file| read_header(&file));
        let header = header.map_err(|error| io_error(file, error))?;
        Ok(Self::new(file, header.metadata))
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All keys, in alphabetical order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.values.keys().map(String::as_str)
    }

    /// A value of any kind.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.values.get(key)
    }

    /// An integer that is not negative, or `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// When the value is another.
    pub fn u64(&self, key: &str) -> Result<Option<u64>, CheckpointError> {
        self.single(key, "an unsigned integer", GgufValue::as_u64)
    }

    /// A float, or `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// When the value is another.
    pub fn f64(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        self.single(key, "a float", GgufValue::as_f64)
    }

    /// True or false, or `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// When the value is another.
    pub fn bool(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        self.single(key, "a truth value", GgufValue::as_bool)
    }

    /// Text, or `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// When the value is another.
    pub fn str(&self, key: &str) -> Result<Option<&str>, CheckpointError> {
        self.single(key, "a string", GgufValue::as_str)
    }

    /// Several texts, such as `tokenizer.ggml.tokens`, or `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// When the value is another.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&str>>, CheckpointError> {
        self.array(key, "an array of strings", GgufValue::as_str)
    }

    /// Several integers, such as `tokenizer.ggml.token_type`, or `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// When the value is another.
    pub fn integers(&self, key: &str) -> Result<Option<Vec<i64>>, CheckpointError> {
        self.array(key, "an array of integers", GgufValue::as_i64)
    }

    /// Several floats, such as `tokenizer.ggml.scores`, or `None` if there is no such key.
    ///
    /// # Errors
    ///
    /// When the value is another.
    pub fn floats(&self, key: &str) -> Result<Option<Vec<f64>>, CheckpointError> {
        self.array(key, "an array of floats", GgufValue::as_f64)
    }

    /// The error for a key that has to be there.
    pub fn missing(&self, key: &str) -> CheckpointError {
        self.wrong(key, "it is not there")
    }

    /// The error for a key with a value that cannot be used.
    pub fn wrong(&self, key: &str, reason: impl ToString) -> CheckpointError {
        CheckpointError::WrongField {
            file: self.file.clone(),
            field: key.to_string(),
            reason: reason.to_string(),
        }
    }

    fn single<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>, CheckpointError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let found = || match value {
            GgufValue::Signed(value) => value.to_string(),
            other => other.kind().to_string(),
        };
        let wrong = || self.wrong(key, format!("expected {expected}, found {}", found()));
        read(value).ok_or_else(wrong).map(Some)
    }

    fn array<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<Vec<T>>, CheckpointError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        let wrong = |found| self.wrong(key, format!("expected {expected}, found {found}"));
        let GgufValue::Array(values) = value else {
            return Err(wrong(value.kind().to_string()));
        };
        let values = values.iter().map(|value| {
            let found = || format!("an array with {}", value.kind());
            read(value).ok_or_else(|| wrong(found()))
        });
        values.collect::<Result<_, _>>().map(Some)
    }
}

/// A value and its type before it.
pub(super) fn read_value(source: &mut Source<'_>) -> io::Result<GgufValue> {
    let kind = source.u32()?;
    read_of_kind(source, kind, 0)
}

fn read_of_kind(source: &mut Source<'_>, kind: u32, depth: usize) -> io::Result<GgufValue> {
    use GgufValue::{Array, Bool, Float, Signed, String, Unsigned};
    Ok(match kind {
        0 => Unsigned(u8::from_le_bytes(source.array()?).into()),
        1 => Signed(i8::from_le_bytes(source.array()?).into()),
        2 => Unsigned(u16::from_le_bytes(source.array()?).into()),
        3 => Signed(i16::from_le_bytes(source.array()?).into()),
        4 => Unsigned(source.u32()?.into()),
        5 => Signed(i32::from_le_bytes(source.array()?).into()),
        6 => Float(f32::from_le_bytes(source.array()?).into()),
        7 => match source.array()? {
            [0] => Bool(false),
            [1] => Bool(true),
            [other] => return Err(invalid(format!("a truth value of {other}"))),
        },
        8 => String(source.string()?),
        9 if depth == DEEPEST => return Err(invalid("its arrays lie too deep in each other")),
        9 => {
            let kind = source.u32()?;
            let count = source.count(smallest(kind)?, "values")?;
            let mut values = Vec::with_capacity(count);
            for _ in 0..count {
                values.push(read_of_kind(source, kind, depth + 1)?);
            }
            Array(values)
        }
        10 => Unsigned(source.u64()?),
        11 => Signed(i64::from_le_bytes(source.array()?)),
        12 => Float(f64::from_le_bytes(source.array()?)),
        other => return Err(unknown(other)),
    })
}

/// The fewest bytes that a value of a type takes.
fn smallest(kind: u32) -> io::Result<u64> {
    Ok(match kind {
        0 | 1 | 7 => 1,
        2 | 3 => 2,
        4..=6 => 4,
        8 | 10..=12 => 8,
        9 => 12,
        other => return Err(unknown(other)),
    })
}

fn unknown(kind: u32) -> io::Error {
    invalid(format!("values of an unknown type {kind}"))
}
