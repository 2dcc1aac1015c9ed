use std::collections::{BTreeMap, HashMap};
use std::io::{self, Write};
use std::path::Path;

use burn::tensor::{BoolStore, DType, TensorData};
use safetensors::Dtype;
use safetensors::tensor::TensorView;

use super::CheckpointError;

/// Writes tensors to a safetensors file, which [`Checkpoint::read`](super::Checkpoint::read),
/// PyTorch and the Hugging Face tools read.
///
/// Elements keep their type and their bits. The new file takes the place of an old one in a single
/// rename, after it has reached the disk: at no time is there half a file under `path`, and after an
/// error the old one is as it was. The content is held in memory once while it is written.
///
/// # Errors
/// [`Unwritable`](CheckpointError::Unwritable) if two tensors share a name, if one is named
/// `__metadata__` (reserved by the format) or is quantized; [`Io`](CheckpointError::Io) if the
/// folder does not exist, is full or may not be written to.
///
/// ```
/// use burn::tensor::TensorData;
/// use seq_core::checkpoint::{Checkpoint, write_safetensors};
///
/// let folder = tempfile::tempdir()?;
/// let file = folder.path().join("model.safetensors");
/// let bias = TensorData::from([0.5f32, -0.5]);
/// write_safetensors(&file, [("rnn.bias_ih_l0".to_string(), bias)])?;
/// assert!(Checkpoint::read(&file)?.names().eq(["rnn.bias_ih_l0"]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn write_safetensors(
    path: impl AsRef<Path>,
    tensors: impl IntoIterator<Item = (String, TensorData)>,
) -> Result<(), CheckpointError> {
    let file = path.as_ref();
    let unwritable = |name: &str, reason: &dyn ToString| CheckpointError::Unwritable {
        file: file.to_path_buf(),
        name: name.to_string(),
        reason: reason.to_string(),
    };

    let mut by_name = BTreeMap::new();
    for (name, mut data) in tensors {
        if name == "__metadata__" {
            return Err(unwritable(&name, &"the name is reserved by the format"));
        }
        if by_name.contains_key(&name) {
            return Err(unwritable(&name, &"another tensor has the same name"));
        }
        if data.dtype() == DType::Bool(BoolStore::U32) {
            data = data.convert::<bool>();
        }
        by_name.insert(name, data);
    }

    let mut views = Vec::with_capacity(by_name.len());
    for (name, data) in &by_name {
        let dtype = safetensors_dtype(data.dtype())
            .ok_or_else(|| unwritable(name, &"the format has no quantized tensors"))?;
        let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes())
            .map_err(|error| unwritable(name, &error))?;
        views.push((name, view));
    }

    // The transformers library refuses a file that does not say which framework's layout it has.
    let metadata = HashMap::from([("format".to_string(), "pt".to_string())]);
    safetensors::serialize(views, Some(metadata))
        .map_err(io::Error::other)
        .map_err(|source| CheckpointError::Io {
            file: file.to_path_buf(),
            source,
        })
        .and_then(|content| replace_file(file, &content))
}

fn safetensors_dtype(dtype: DType) -> Option<Dtype> {
    Some(match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 | DType::Flex32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::BF16 => Dtype::BF16,
        DType::I64 => Dtype::I64,
        DType::I32 => Dtype::I32,
        DType::I16 => Dtype::I16,
        DType::I8 => Dtype::I8,
        DType::U64 => Dtype::U64,
        DType::U32 => Dtype::U32,
        DType::U16 => Dtype::U16,
        DType::U8 => Dtype::U8,
        DType::Bool(_) => Dtype::BOOL,
        DType::QFloat(_) => return None,
    })
}

/// Puts `content` in the place of a file, such as the `config.json` beside weights, or leaves everything as
/// it was.
///
/// # Errors
/// [`Io`](CheckpointError::Io) if the folder does not exist, is full or may not be written to.
pub fn replace_file(path: impl AsRef<Path>, content: &[u8]) -> Result<(), CheckpointError> {
    let file = path.as_ref();
    replace(file, content).map_err(|source| CheckpointError::Io {
        file: file.to_path_buf(),
        source,
    })
}

fn replace(file: &Path, content: &[u8]) -> io::Result<()> {
    let folder = match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    {
        // A temporary file is its owner's alone by default; weights get what the umask allows.
        use std::os::unix::fs::PermissionsExt;
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut temporary = builder.tempfile_in(folder)?;
    temporary.write_all(content)?;
    temporary.as_file().sync_all()?;
    temporary.persist(file).map_err(|error| error.error)?;
    // The rename itself is on disk only once its folder is.
    #[cfg(unix)]
    std::fs::File::open(folder)?.sync_all()?;
    Ok(())
}
