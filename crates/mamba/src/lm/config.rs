use burn::config::Config;
use burn::nn::RmsNormConfig;
use burn::tensor::Device;
use seq_core::ConfigError;
use seq_core::blocks::{Residual, Stack};
use seq_core::models::LanguageModel;

use super::layer::{MambaLm, Mixer};
use crate::{Mamba2Config, Mamba3Config, MambaConfig};

/// Configuration of a [`MambaLm`], made with [`init`](MambaLmConfig::init).
///
/// ```
/// use seq_mamba::{Mamba2Config, MambaLmConfig};
///
/// let mixer = Mamba2Config::new(64).with_head_dim(16).with_d_state(32);
/// let config = MambaLmConfig::new(1000, 4, mixer.into()).with_tied_embeddings(false);
/// # #[cfg(feature = "ndarray")]
/// let model = config.init(&seq_mamba::device());
/// ```
#[derive(Config, Debug)]
pub struct MambaLmConfig {
    /// How many symbols there are.
    pub vocab_size: usize,
    /// How many blocks stand over one another.
    pub num_layers: usize,
    /// The layer of every block, whose `d_model` is the width of the model.
    pub mixer: MixerConfig,
    /// The epsilon of the norms before every layer and after the last.
    #[config(default = 1e-5)]
    pub norm_eps: f64,
    /// Whether the embedding makes the logits too, as in the published models of Mamba. Otherwise there is
    /// a head without a bias.
    #[config(default = true)]
    pub tied_embeddings: bool,
}

/// Configuration of a [`Mixer`]. The example is at [`MambaLmConfig`].
#[derive(Config, Debug)]
pub enum MixerConfig {
    /// Of [`Mamba`](crate::Mamba).
    Mamba(MambaConfig),
    /// Of [`Mamba2`](crate::Mamba2).
    Mamba2(Mamba2Config),
    /// Of [`Mamba3`](crate::Mamba3).
    Mamba3(Mamba3Config),
}

impl From<MambaConfig> for MixerConfig {
    fn from(config: MambaConfig) -> Self {
        Self::Mamba(config)
    }
}

impl From<Mamba2Config> for MixerConfig {
    fn from(config: Mamba2Config) -> Self {
        Self::Mamba2(config)
    }
}

impl From<Mamba3Config> for MixerConfig {
    fn from(config: Mamba3Config) -> Self {
        Self::Mamba3(config)
    }
}

impl MixerConfig {
    /// The width of the model.
    pub fn d_model(&self) -> usize {
        match self {
            Self::Mamba(config) => config.d_model,
            Self::Mamba2(config) => config.d_model,
            Self::Mamba3(config) => config.d_model,
        }
    }

    fn init(&self, device: &Device) -> Mixer {
        match self {
            Self::Mamba(config) => Mixer::Mamba(config.init(device)),
            Self::Mamba2(config) => Mixer::Mamba2(config.init(device)),
            Self::Mamba3(config) => Mixer::Mamba3(config.init(device)),
        }
    }
}

impl MambaLmConfig {
    /// Makes sure that a model can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_mamba::{MambaConfig, MambaLmConfig};
    ///
    /// let config = MambaLmConfig::new(0, 2, MambaConfig::new(16).into());
    /// assert_eq!(config.validate().unwrap_err().to_string(), "vocab_size must be at least 1, is 0");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        let sizes = [
            ("vocab_size", self.vocab_size),
            ("num_layers", self.num_layers),
        ];
        ConfigError::sizes(sizes)?;
        ConfigError::bounds([("norm_eps", Some(self.norm_eps))])?;
        match &self.mixer {
            MixerConfig::Mamba(config) => config.validate(),
            MixerConfig::Mamba2(config) => config.validate(),
            MixerConfig::Mamba3(config) => config.validate(),
        }
    }

    /// Makes the model, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> MambaLm {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let norm = || {
            let config = RmsNormConfig::new(self.mixer.d_model());
            config.with_epsilon(self.norm_eps).init(device)
        };
        let block = |_| Residual::new(norm(), self.mixer.init(device));
        let blocks = (0..self.num_layers).map(block).collect();
        let stack = Stack::new(blocks).with_norm(norm());
        match self.tied_embeddings {
            true => LanguageModel::tied(self.vocab_size, stack, device),
            false => LanguageModel::new(self.vocab_size, stack, device).without_head_bias(),
        }
    }
}
