//! Whole models out of folders, and back.

use std::path::Path;

use burn::tensor::TensorCreationOptions;
use seq_core::checkpoint::{
    Checkpoint, CheckpointError, ConfigFile, Parameters, Stored, replace_file, write_safetensors,
};

use super::{MambaLm, MambaLmConfig, hugging_face, parameters};

/// Loads a published model: a folder with a `config.json` and weights, of `MambaForCausalLM`,
/// `FalconMambaForCausalLM` or `Mamba2ForCausalLM` of Hugging Face, or in the original format of
/// <https://github.com/state-spaces/mamba>. The weights are in one file or in parts, safetensors or `.bin`.
///
/// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's default; half
/// precision in the files becomes that type. Also gives what the model was made of.
///
/// # Errors
///
/// When a file is missing or damaged, the configuration has a field that would not be honoured, or a tensor is
/// missing, left over or of a wrong shape; every error names the file, and the field or tensor at fault.
///
/// ```no_run
/// use seq_core::models::Sampler;
///
/// let device = seq_mamba::device();
/// let (model, config) = seq_mamba::load_pretrained("mamba-130m-hf", &device)?;
/// println!("{} layers", config.num_layers);
/// for id in model.generate(&[510, 5347], Sampler::greedy()).take(20) {
///     println!("{id}");
/// }
/// # Ok::<(), seq_mamba::CheckpointError>(())
/// ```
pub fn load_pretrained(
    folder: impl AsRef<Path>,
    options: impl Into<TensorCreationOptions>,
) -> Result<(MambaLm, MambaLmConfig), CheckpointError> {
    let (folder, options) = (folder.as_ref(), options.into());
    let config = hugging_face::read(ConfigFile::read_folder(folder)?)?;
    let mut checkpoint = Checkpoint::read_folder(folder)?;
    let mut model = config.init(&options.device);
    // The original format has the name in the singular.
    let embedding = ["backbone.embeddings.weight", "backbone.embedding.weight"];
    let embedding = embedding
        .into_iter()
        .find(|name| checkpoint.shape(name).is_some())
        .unwrap_or(embedding[0]);
    if config.tied_embeddings {
        checkpoint.discard("lm_head.weight");
    }
    named(&mut model, embedding).take(&mut checkpoint, options)?;
    checkpoint.finish()?;
    Ok((model, config))
}

/// Saves a model so that Hugging Face's `from_pretrained` and [`load_pretrained`] load it:
/// `model.safetensors` and `config.json`, each replaced whole. `config` is what the model was made of.
///
/// # Errors
///
/// When the files cannot be written, or a layer has an option that Hugging Face's classes have not.
pub fn save_pretrained(
    model: &MambaLm,
    config: &MambaLmConfig,
    folder: impl AsRef<Path>,
) -> Result<(), CheckpointError> {
    let folder = folder.as_ref();
    let file = folder.join("config.json");
    let text = hugging_face::write(config).map_err(|option| CheckpointError::WrongField {
        file: file.clone(),
        field: option.to_string(),
        reason: "Hugging Face's models have no such option".to_string(),
    })?;
    std::fs::create_dir_all(folder).map_err(|source| CheckpointError::Io {
        file: folder.to_path_buf(),
        source,
    })?;
    let mut model = model.clone();
    let parameters = named(&mut model, "backbone.embeddings.weight");
    write_safetensors(folder.join("model.safetensors"), parameters.data())?;
    replace_file(file, text.to_string().as_bytes())
}

/// All parameters of a model by name.
fn named<'a>(model: &'a mut MambaLm, embedding: &str) -> Parameters<'a> {
    let mut all = Parameters::new();
    all.push(embedding, Stored::Matrix(&mut model.embedding.weight));
    for (index, block) in model.layer.layers.iter_mut().enumerate() {
        let name = |part: &str| format!("backbone.layers.{index}.{part}");
        all.norm(&name("norm"), &mut block.norm);
        parameters::add(&mut all, &name("mixer"), &mut block.layer);
    }
    if let Some(norm) = &mut model.layer.norm {
        all.norm("backbone.norm_f", norm);
    }
    if let Some(head) = &mut model.head {
        all.linear("lm_head", head);
    }
    all
}
