use burn::config::Config;
use burn::nn::{DropoutConfig, Linear, LinearConfig};
use burn::tensor::Device;
use seq_core::ConfigError;

use super::{Activation, FeedForward, MixtureOfExperts, Mlp};

/// Configuration of a [`FeedForward`] layer, made with [`init`](FeedForwardConfig::init).
///
/// The defaults are those of an encoder such as BERT; GPT-2 has [`Activation::GeluTanh`], and Llama a gate,
/// [`Activation::Silu`] and no bias. Weights and biases begin as those of PyTorch's `nn.Linear`, uniform
/// within `1 / sqrt(d_input)` of zero.
///
/// ```
/// use seq_transformer::{Activation, FeedForwardConfig};
///
/// let llama = FeedForwardConfig::new(64, 172)
///     .with_activation(Activation::Silu)
///     .with_gated(true)
///     .with_bias(false);
/// # #[cfg(feature = "ndarray")]
/// let layer = llama.init(&seq_transformer::device());
/// ```
#[derive(Config, Debug)]
pub struct FeedForwardConfig {
    /// The width of one step, of input and output alike.
    pub d_model: usize,
    /// The width between the two maps. By habit 4 times `d_model`, and 8 / 3 times with a gate, which then
    /// has as many weights.
    pub d_hidden: usize,
    /// The nonlinearity between the two maps.
    #[config(default = "Activation::Gelu")]
    pub activation: Activation,
    /// Whether the activation gates a second map of the input instead of going on by itself.
    #[config(default = false)]
    pub gated: bool,
    /// Whether the maps have a bias.
    #[config(default = true)]
    pub bias: bool,
    /// The chance that an element of the hidden layer is dropped in training.
    #[config(default = 0.0)]
    pub dropout: f64,
}

/// A linear map with the initial values of PyTorch's.
fn linear(d_input: usize, d_output: usize, bias: bool, device: &Device) -> Linear {
    LinearConfig::new(d_input, d_output)
        .with_bias(bias)
        .init(device)
}

impl FeedForwardConfig {
    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_transformer::FeedForwardConfig;
    ///
    /// let error = FeedForwardConfig::new(8, 32).with_dropout(1.0).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "dropout must be in [0, 1), is 1");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([("d_model", self.d_model), ("d_hidden", self.d_hidden)])?;
        ConfigError::probabilities([("dropout", self.dropout)])
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> FeedForward {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let input = || linear(self.d_model, self.d_hidden, self.bias, device);
        FeedForward {
            input: input(),
            gate: self.gated.then(input),
            output: linear(self.d_hidden, self.d_model, self.bias, device),
            dropout: DropoutConfig::new(self.dropout).init(),
            activation: self.activation,
            packed: Default::default(),
        }
    }
}

/// Configuration of a [`MixtureOfExperts`], made with [`init`](MixtureOfExpertsConfig::init).
///
/// The defaults are those of Mixtral (Jiang et al. 2024, <https://arxiv.org/abs/2401.04088>) but for the number
/// of experts. The Switch Transformer (Fedus et al. 2021, <https://arxiv.org/abs/2101.03961>) has `top_k` 1 and
/// does not normalise.
///
/// ```
/// use seq_transformer::MixtureOfExpertsConfig;
///
/// let switch = MixtureOfExpertsConfig::new(64, 256, 8).with_top_k(1).with_normalise(false);
/// # #[cfg(feature = "ndarray")]
/// let layer = switch.init(&seq_transformer::device());
/// ```
#[derive(Config, Debug)]
pub struct MixtureOfExpertsConfig {
    /// The width of one step, of input and output alike.
    pub d_model: usize,
    /// The width between the two maps of every expert.
    pub d_hidden: usize,
    /// How many experts there are.
    pub num_experts: usize,
    /// How many of them a token is given to, at most all.
    #[config(default = 2)]
    pub top_k: usize,
    /// The nonlinearity of the experts.
    #[config(default = "Activation::Silu")]
    pub activation: Activation,
    /// Whether the activation gates a second map of the input instead of going on by itself.
    #[config(default = true)]
    pub gated: bool,
    /// Whether the maps of the experts have a bias; the router never has.
    #[config(default = false)]
    pub bias: bool,
    /// The chance that an element of an expert's hidden layer is dropped in training.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Whether the weights of the chosen experts are scaled to a sum of one. It must not be with a `top_k` of 1,
    /// where the router would have no gradient from the output.
    #[config(default = true)]
    pub normalise: bool,
}

impl MixtureOfExpertsConfig {
    /// The configuration of one expert.
    pub fn expert(&self) -> FeedForwardConfig {
        FeedForwardConfig::new(self.d_model, self.d_hidden)
            .with_activation(self.activation)
            .with_gated(self.gated)
            .with_bias(self.bias)
            .with_dropout(self.dropout)
    }

    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_transformer::MixtureOfExpertsConfig;
    ///
    /// let error = MixtureOfExpertsConfig::new(8, 32, 4).with_top_k(5).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "top_k must be from 1 to num_experts, is 5");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.expert().validate()?;
        ConfigError::sizes([("num_experts", self.num_experts)])?;
        ConfigError::unless(
            (1..=self.num_experts).contains(&self.top_k),
            "top_k",
            "from 1 to num_experts",
            self.top_k,
        )
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> MixtureOfExperts {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let expert = self.expert();
        MixtureOfExperts {
            router: linear(self.d_model, self.num_experts, false, device),
            experts: (0..self.num_experts).map(|_| expert.init(device)).collect(),
            top_k: self.top_k,
            normalise: self.normalise,
        }
    }
}

/// Configuration of an [`Mlp`], made with [`init`](MlpConfig::init).
///
/// ```
/// use seq_transformer::{FeedForwardConfig, MlpConfig};
///
/// let config: MlpConfig = FeedForwardConfig::new(16, 64).into();
/// assert_eq!(config.d_model(), 16);
/// ```
#[derive(Config, Debug)]
pub enum MlpConfig {
    /// Of one layer for all tokens.
    Dense(FeedForwardConfig),
    /// Of several, of which every token has some.
    Experts(MixtureOfExpertsConfig),
}

impl From<FeedForwardConfig> for MlpConfig {
    fn from(config: FeedForwardConfig) -> Self {
        Self::Dense(config)
    }
}

impl From<MixtureOfExpertsConfig> for MlpConfig {
    fn from(config: MixtureOfExpertsConfig) -> Self {
        Self::Experts(config)
    }
}

impl MlpConfig {
    /// The width of one step, of input and output alike.
    pub fn d_model(&self) -> usize {
        match self {
            Self::Dense(config) => config.d_model,
            Self::Experts(config) => config.d_model,
        }
    }

    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match self {
            Self::Dense(config) => config.validate(),
            Self::Experts(config) => config.validate(),
        }
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> Mlp {
        match self {
            Self::Dense(config) => Mlp::Dense(config.init(device)),
            Self::Experts(config) => Mlp::Experts(config.init(device)),
        }
    }
}
