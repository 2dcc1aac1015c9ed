use std::path::Path;

use burn::config::Config;
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorCreationOptions, TensorData};
use seq_core::ConfigError;
use seq_core::checkpoint::{Checkpoint, CheckpointError, replace_file, write_safetensors};
use seq_core::models::LanguageModel;
use serde::Serialize;

use crate::json::{self, FromJson};
use crate::{Hybrid, HybridConfig, HybridConfigError};

/// A language model of blocks of any kinds, made by [`HybridLmConfig`] or [`load`].
///
/// A prompt is read in the parallel form; each further symbol costs one step.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Int, Tensor};
/// use seq_core::models::Sampler;
/// use seq_hybrid::{HybridConfig, HybridLmConfig};
/// use seq_mamba::MambaConfig;
/// use seq_transformer::MultiHeadAttentionConfig;
///
/// let device = seq_hybrid::device();
/// let blocks = vec![MambaConfig::new(16).into(), MultiHeadAttentionConfig::new(16, 2).into()];
/// let model = HybridLmConfig::new(50, HybridConfig::new(16, blocks)).init(&device);
/// let ids = Tensor::<2, Int>::from_data([[3, 1, 4]], &device);
/// let (logits, _state) = model.forward(ids, None);
/// assert_eq!(logits.dims(), [1, 3, 50]);
/// let written: Vec<u32> = model.generate(&[3, 1, 4], Sampler::greedy()).take(5).collect();
/// assert_eq!(written.len(), 5);
/// # }
/// ```
pub type HybridLm = LanguageModel<Hybrid>;

/// Configuration of a [`HybridLm`], made with [`init`](HybridLmConfig::init). In JSON, `tied_embeddings` may be left
/// out.
///
/// The example is at [`HybridLm`].
#[derive(Debug, Clone, Serialize)]
pub struct HybridLmConfig {
    /// How many symbols there are.
    pub vocab_size: usize,
    /// The layer between the embedding and the logits.
    pub hybrid: HybridConfig,
    /// Whether the embedding makes the logits too; true by default. Otherwise there is a head without a bias, as in
    /// Jamba.
    pub tied_embeddings: bool,
}

impl Config for HybridLmConfig {}

impl HybridConfig {
    /// Reads a JSON file.
    ///
    /// # Errors
    ///
    /// When the file cannot be read, is not JSON, or has a field that is not known or has a value that it cannot
    /// have; the error names the file and the field.
    pub fn read(file: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        json::read(file.as_ref())
    }
}

impl HybridLmConfig {
    /// A model with tied embeddings.
    pub fn new(vocab_size: usize, hybrid: HybridConfig) -> Self {
        Self {
            vocab_size,
            hybrid,
            tied_embeddings: true,
        }
    }

    /// Sets whether the embedding makes the logits too.
    pub fn with_tied_embeddings(self, tied_embeddings: bool) -> Self {
        Self {
            tied_embeddings,
            ..self
        }
    }

    /// Reads a JSON file.
    ///
    /// # Errors
    ///
    /// As [`HybridConfig::read`].
    pub fn read(file: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        json::read(file.as_ref())
    }

    /// Makes sure that a model can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it and its block.
    pub fn validate(&self) -> Result<(), HybridConfigError> {
        ConfigError::sizes([("vocab_size", self.vocab_size)])?;
        self.hybrid.validate()
    }

    /// Makes the model, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> HybridLm {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let layer = self.hybrid.init(device);
        match self.tied_embeddings {
            true => LanguageModel::tied(self.vocab_size, layer, device),
            false => LanguageModel::new(self.vocab_size, layer, device).without_head_bias(),
        }
    }
}

/// Saves a model so that [`load`] loads it: `model.safetensors`, the parameters by their places in the model, and
/// `config.json`, each replaced whole. `config` is what the model was made of.
///
/// # Errors
///
/// When the files cannot be written, or the configuration cannot be put into JSON, which has no infinite numbers.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use seq_hybrid::{HybridConfig, HybridLmConfig};
/// use seq_mamba::MambaConfig;
///
/// let device = seq_hybrid::device();
/// let config = HybridLmConfig::new(50, HybridConfig::new(16, vec![MambaConfig::new(16).into()]));
/// let folder = tempfile::tempdir()?;
/// seq_hybrid::save(&config.init(&device), &config, folder.path())?;
/// let (model, _config) = seq_hybrid::load(folder.path(), &device)?;
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn save(
    model: &HybridLm,
    config: &HybridLmConfig,
    folder: impl AsRef<Path>,
) -> Result<(), CheckpointError> {
    let folder = folder.as_ref();
    let file = folder.join("config.json");
    let corrupt = |error: serde_json::Error| CheckpointError::Corrupt {
        file: file.clone(),
        reason: error.to_string(),
    };
    let text = serde_json::to_string_pretty(config).map_err(corrupt)?;
    let value = serde_json::from_str(&text).map_err(corrupt)?;
    HybridLmConfig::from_json(value, "").map_err(|error| error.in_file(&file))?;
    std::fs::create_dir_all(folder).map_err(|source| CheckpointError::Io {
        file: folder.to_path_buf(),
        source,
    })?;
    let mut parameters = Save::default();
    model.visit(&mut parameters);
    write_safetensors(folder.join("model.safetensors"), parameters.tensors)?;
    replace_file(file, text.as_bytes())
}

/// Loads a model from a folder that [`save`] wrote. Also gives what the model was made of.
///
/// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's default.
///
/// # Errors
///
/// When a file is missing or damaged, the configuration has a field that is not known or has a value that it cannot
/// have, or a tensor is missing, left over or of a wrong shape; every error names the file, and the field or tensor
/// at fault.
pub fn load(
    folder: impl AsRef<Path>,
    options: impl Into<TensorCreationOptions>,
) -> Result<(HybridLm, HybridLmConfig), CheckpointError> {
    let (folder, options) = (folder.as_ref(), options.into());
    let config = HybridLmConfig::read(folder.join("config.json"))?;
    let mut parameters = Load {
        path: Vec::new(),
        checkpoint: Checkpoint::read(folder.join("model.safetensors"))?,
        error: None,
        options: &options,
    };
    let model = config.init(&options.device).map(&mut parameters);
    match parameters.error {
        Some(error) => Err(error),
        None => parameters.checkpoint.finish().map(|()| (model, config)),
    }
}

#[derive(Default)]
struct Save {
    path: Vec<String>,
    tensors: Vec<(String, TensorData)>,
}

impl ModuleVisitor for Save {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let data = param.transform_for_save().val().into_data();
        self.tensors.push((self.path.join("."), data));
    }
}

struct Load<'a> {
    path: Vec<String>,
    checkpoint: Checkpoint,
    /// The first one.
    error: Option<CheckpointError>,
    options: &'a TensorCreationOptions,
}

impl ModuleMapper for Load<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    /// Replaces the parameter. Its random values are drawn only when they are looked at.
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.error.is_some() {
            return param;
        }
        let shape = param.lazy_shape().dims();
        let options = self.options.clone();
        match self.checkpoint.take(&self.path.join("."), shape, options) {
            Ok(tensor) => {
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}
