//! GGUF, the format of llama.cpp: metadata, a table of tensors, and their elements, mostly quantised.
//!
//! Source: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod elements;
mod metadata;
mod source;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::DType;

pub use metadata::{GgufMetadata, GgufValue};

use super::CheckpointError;
use super::reader::{Entry, io_error};
use elements::{Elements, Format};
use metadata::read_value;
use source::{Source, invalid};

/// What every file begins with.
pub(super) const MAGIC: &[u8; 4] = b"GGUF";

/// The smallest entry of the metadata: an empty name, a type, a byte.
const SMALLEST_VALUE: u64 = 8 + 4 + 1;
/// The smallest entry of the table of tensors: an empty name, no sizes, a type, an offset.
const SMALLEST_TENSOR: u64 = 8 + 4 + 4 + 8;
/// Where tensors begin, unless `general.alignment` says otherwise.
const ALIGNMENT: u64 = 32;
/// The most axes that the format knows.
const MAX_AXES: u32 = 4;

/// The metadata and all tensors of a file. Each tensor is read, and made floats, when it is asked for.
pub(super) fn read_gguf(
    path: &Path,
) -> Result<(GgufMetadata, BTreeMap<String, Entry>), CheckpointError> {
    let read = || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        let header = read_header(&file)?;
        let entries = entries(&header, file, length)?;
        Ok((GgufMetadata::new(path, header.metadata), entries))
    };
    read().map_err(|error| io_error(path, error))
}

/// What a file says of itself before the elements.
struct Header {
    metadata: BTreeMap<String, GgufValue>,
    tensors: Vec<(String, Info)>,
    /// Where the header ends.
    length: u64,
}

/// An entry of the table of tensors.
struct Info {
    /// Row-major, as PyTorch has it; the file has the fastest axis first.
    shape: Vec<usize>,
    format: u32,
    /// Counted from the beginning of the elements.
    offset: u64,
}

fn read_header(file: &File) -> io::Result<Header> {
    let mut source = Source::new(file)?;
    if source.array::<4>()? != *MAGIC {
        return Err(invalid("it does not begin with `GGUF`"));
    }
    let version = source.u32()?;
    if matches!(version.swap_bytes(), 1..=3) {
        return Err(invalid("its numbers are big-endian"));
    }
    if !matches!(version, 2 | 3) {
        let reason = format!("it has version {version} of the format, known are 2 and 3");
        return Err(invalid(reason));
    }
    let num_tensors = source.count(SMALLEST_TENSOR, "tensors")?;
    let num_values = source.count(SMALLEST_VALUE, "keys")?;

    let mut metadata = BTreeMap::new();
    for index in 0..num_values {
        let key = (source.string()).map_err(|error| within(error, format!("key {index}")))?;
        let value =
            read_value(&mut source).map_err(|error| within(error, format!("key `{key}`")))?;
        if metadata.contains_key(&key) {
            return Err(invalid(format!("two keys `{key}`")));
        }
        metadata.insert(key, value);
    }
    let mut tensors = Vec::new();
    for index in 0..num_tensors {
        let name = (source.string()).map_err(|error| within(error, format!("tensor {index}")))?;
        let info =
            read_info(&mut source).map_err(|error| within(error, format!("tensor `{name}`")))?;
        tensors.push((name, info));
    }
    Ok(Header {
        metadata,
        tensors,
        length: source.position(),
    })
}

fn read_info(source: &mut Source<'_>) -> io::Result<Info> {
    let num_axes = source.u32()?;
    if num_axes > MAX_AXES {
        let reason = format!("it has {num_axes} axes, the format knows {MAX_AXES}");
        return Err(invalid(reason));
    }
    let mut shape = Vec::new();
    for _ in 0..num_axes {
        let size = usize::try_from(source.u64()?);
        shape.push(size.map_err(|_| invalid("its sizes are out of range"))?);
    }
    shape.reverse();
    Ok(Info {
        shape,
        format: source.u32()?,
        offset: source.u64()?,
    })
}

fn entries(header: &Header, file: File, file_length: u64) -> io::Result<BTreeMap<String, Entry>> {
    let alignment = match header.metadata.get("general.alignment") {
        None => ALIGNMENT,
        Some(GgufValue::Unsigned(alignment)) if alignment.is_power_of_two() => *alignment,
        Some(other) => {
            let reason = format!("key `general.alignment`: {other:?} is no power of two");
            return Err(invalid(reason));
        }
    };
    let begin = header.length.checked_next_multiple_of(alignment);
    let begin = begin.ok_or_else(|| invalid("its alignment is out of range"))?;
    let file = Arc::new(Mutex::new(file));
    let mut entries = BTreeMap::new();
    let mut extents = Vec::new();
    for (name, info) in &header.tensors {
        let format = Format::of(info.format);
        if let Some(format) = &format {
            let (start, length) = extent(info, format, begin, alignment, file_length)
                .map_err(|error| within(error, format!("tensor `{name}`")))?;
            extents.push((start, start + length, name.clone()));
        }
        let entry = entry(info, format, begin, &file);
        if entries.insert(name.clone(), entry).is_some() {
            return Err(invalid(format!("two tensors `{name}`")));
        }
    }
    extents.sort();
    for neighbours in extents.windows(2) {
        let [(_, end, one), (start, _, other)] = neighbours else {
            continue;
        };
        if start < end {
            let reason = format!("tensors `{one}` and `{other}` lie in the same place");
            return Err(invalid(reason));
        }
    }
    Ok(entries)
}

/// Where a tensor begins in the file, and how many bytes it has there.
fn extent(
    info: &Info,
    format: &Format,
    begin: u64,
    alignment: u64,
    file_length: u64,
) -> io::Result<(u64, u64)> {
    let Info { shape, offset, .. } = info;
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(format.block) {
        return Err(invalid(format!(
            "it has rows of {row} elements, {} has blocks of {}",
            format.name, format.block
        )));
    }
    if !offset.is_multiple_of(alignment) {
        let reason = format!("its offset {offset} is no multiple of {alignment}");
        return Err(invalid(reason));
    }
    let start = begin.checked_add(*offset);
    let length = format.num_bytes(shape);
    let end = start.zip(length).and_then(|(a, b)| a.checked_add(b));
    match (start, length, end) {
        (Some(start), Some(length), Some(end)) if end <= file_length => Ok((start, length)),
        _ => Err(invalid(format!(
            "{shape:?} in {} at {offset} goes beyond the file's {file_length} bytes",
            format.name
        ))),
    }
}

/// A tensor whose place in the file has been found right.
fn entry(info: &Info, format: Option<Format>, begin: u64, file: &Arc<Mutex<File>>) -> Entry {
    let unreadable = |name: String| Entry {
        shape: info.shape.clone(),
        dtype: Err(name.clone()),
        bytes: Box::new(move || Err(invalid(format!("{name} cannot be read")))),
    };
    let Some(format) = format else {
        return unreadable(format!("type {} of ggml", info.format));
    };
    let dtype = match format.elements {
        Elements::Plain(dtype) => dtype,
        Elements::Quantized(_) => DType::F32,
        Elements::Unreadable => return unreadable(format.name.to_string()),
    };
    let (file, start) = (file.clone(), begin + info.offset);
    let num_bytes = format.num_bytes(&info.shape).unwrap_or_default() as usize;
    Entry {
        shape: info.shape.clone(),
        dtype: Ok(dtype),
        bytes: Box::new(move || {
            let mut stored = vec![0; num_bytes];
            {
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(start))?;
                file.read_exact(&mut stored)?;
            }
            Ok(format.dequantize(stored))
        }),
    }
}

/// The error, saying where it happened.
fn within(error: io::Error, place: String) -> io::Error {
    io::Error::new(error.kind(), format!("{place}: {error}"))
}
