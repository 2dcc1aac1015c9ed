//! Whole models out of folders.

use std::path::Path;

use burn::tensor::TensorCreationOptions;
use seq_core::checkpoint::{Checkpoint, CheckpointError, ConfigFile};

use super::hugging_face::{self, Family};
use super::names;
use super::{TransformerLm, TransformerLmConfig};

/// Loads a published model: a folder of Hugging Face with a `config.json` and weights, of GPT-2, Llama 1 to 3 and what
/// is like it (SmolLM2, TinyLlama, ...), Mistral, Mixtral, Qwen2, Qwen3, and GPT-NeoX (Pythia). The weights are in one file or in
/// parts, safetensors or `.bin`.
///
/// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's default; half
/// precision in the files becomes that type. Also gives what the model was made of. Probabilities of dropout are
/// those of a training that is over, and are not taken over.
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
/// let (model, config) = seq_transformer::load_pretrained("SmolLM2-135M", &device)?;
/// println!("{} layers", config.transformer.num_layers);
/// for id in model.generate(&[510, 5347], Sampler::greedy()).take(20) {
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
    names::discard(&mut checkpoint, family, config.tied_embeddings);
    let with_prefix = family != Family::Gpt2 || checkpoint.shape("wte.weight").is_none();
    for (name, stored) in names::named(&mut model, family, with_prefix) {
        stored.take(&name, &mut checkpoint, &options)?;
    }
    checkpoint.finish()?;
    Ok((model, config))
}
