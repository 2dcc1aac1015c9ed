//! Whole models out of folders, and back.

use std::path::Path;

use burn::tensor::TensorCreationOptions;
use seq_core::checkpoint::{
    Checkpoint, CheckpointError, ConfigFile, replace_file, write_safetensors,
};

use super::parameters::{Names, named, take_packed_experts};
use super::{TransformerLm, TransformerLmConfig, hugging_face};

/// Loads a published model: a folder of Hugging Face with a `config.json` and weights, in one file or in
/// parts, safetensors or `.bin`. Its `model_type` may be `gpt2`, `gpt_neox` (Pythia too), `llama` (Llama 1 to
/// 3, SmolLM2 and others), `mistral`, `mixtral`, `qwen2` or `qwen3`.
///
/// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's default; half
/// precision in the files becomes that type. Also gives what the model was made of. As with Hugging Face's
/// `from_pretrained`, nothing is dropped until the caller asks for it: the file's dropout is that of its own
/// training.
///
/// # Errors
///
/// When a file is missing or damaged, the configuration has a field that would not be honoured, or a tensor is
/// missing, left over or of a wrong shape; every error names the file, and the field or tensor at fault.
///
/// ```no_run
/// use seq_core::models::Sampler;
///
/// let device = seq_transformer::device();
/// let (model, config) = seq_transformer::load_pretrained("gpt2", &device)?;
/// println!("{} layers", config.transformer.num_layers);
/// for id in model.generate(&[464, 5417], Sampler::greedy()).take(20) {
///     println!("{id}");
/// }
/// # Ok::<(), seq_transformer::CheckpointError>(())
/// ```
pub fn load_pretrained(
    folder: impl AsRef<Path>,
    options: impl Into<TensorCreationOptions>,
) -> Result<(TransformerLm, TransformerLmConfig), CheckpointError> {
    let (folder, options) = (folder.as_ref(), options.into());
    let (config, family) = hugging_face::read(ConfigFile::read_folder(folder)?)?;
    let mut checkpoint = Checkpoint::read_folder(folder)?;
    let mut model = config.init(&options.device);
    let names = Names::of(&checkpoint, family);
    names.drop_copies(&mut checkpoint, family, &config);
    let packed = take_packed_experts(&mut model, &mut checkpoint, &options)?;
    for (name, stored) in named(&mut model, family) {
        if packed && name.contains(".block_sparse_moe.") {
            continue;
        }
        stored.take(names.find(&name), &mut checkpoint, options.clone())?;
    }
    checkpoint.finish()?;
    Ok((model, config))
}

/// Saves a model so that Hugging Face's `from_pretrained` and [`load_pretrained`] load it:
/// `model.safetensors` and `config.json`, each replaced whole. `config` is what the model was made of; its
/// probabilities of dropping are not saved.
///
/// # Errors
///
/// When the files cannot be written, or the model has an option that none of the families of
/// [`load_pretrained`] has, naming it.
pub fn save_pretrained(
    model: &TransformerLm,
    config: &TransformerLmConfig,
    folder: impl AsRef<Path>,
) -> Result<(), CheckpointError> {
    let folder = folder.as_ref();
    let file = folder.join("config.json");
    let written = hugging_face::write(config);
    let (fields, family) = written.map_err(|option| CheckpointError::WrongField {
        file: file.clone(),
        field: option,
        reason: "Hugging Face's models have no such option".to_string(),
    })?;
    std::fs::create_dir_all(folder).map_err(|source| CheckpointError::Io {
        file: folder.to_path_buf(),
        source,
    })?;
    let mut model = model.clone();
    let parameters = named(&mut model, family);
    write_safetensors(folder.join("model.safetensors"), parameters.data())?;
    replace_file(file, fields.to_string().as_bytes())
}
