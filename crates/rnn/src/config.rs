use burn::config::Config;
use burn::nn::activation::ActivationConfig;
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::Device;
use seq_core::recurrent::{LayerOptions, RecurrentConfig, RecurrentInit, WeightsConfig};
use seq_core::{ConfigError, recurrent_config};

use crate::layer::{Rnn, RnnCell};

/// Configuration of an [`Rnn`], made with [`init`](RnnConfig::init).
///
/// The defaults are those of PyTorch's `nn.RNN`.
///
/// ```
/// use burn::nn::activation::ActivationConfig;
/// use seq_rnn::{RecurrentInit, RnnConfig};
///
/// // The network of Le et al. 2015, which remembers for long.
/// let config = RnnConfig::new(64, 128)
///     .with_activation(ActivationConfig::Relu)
///     .with_recurrent_init(RecurrentInit::Identity);
/// # #[cfg(feature = "ndarray")]
/// let rnn = config.init(&Default::default());
/// ```
#[derive(Config, Debug)]
pub struct RnnConfig {
    /// The width of one input step.
    pub d_input: usize,
    /// The width of the hidden state and, without an output map, of the output.
    pub d_hidden: usize,
    /// How many layers stand over one another, each reading the hidden states of the one below.
    #[config(default = 1)]
    pub num_layers: usize,
    /// Whether there are biases; two vectors are kept and added, as in PyTorch and cuDNN.
    #[config(default = true)]
    pub bias: bool,
    /// Whether every layer reads both ways; the output is then twice as wide and there is no `step`.
    #[config(default = false)]
    pub bidirectional: bool,
    /// Whether the one direction runs from the end of the sequence; there is no `step` then.
    #[config(default = false)]
    pub reverse: bool,
    /// The activation, any of Burn's without weights of its own. The fused kernels have tanh, ReLU,
    /// sigmoid, hard sigmoid (0.2, 0.5), softsign and the identity.
    #[config(default = "ActivationConfig::Tanh")]
    pub activation: ActivationConfig,
    /// The width of the outputs of Elman's network (Elman 1990), `y_t = W_hy h_t + b_y`, made by the last
    /// layer, in each direction by itself. Without it the hidden states are the outputs.
    pub d_output: Option<usize>,
    /// Whether the recurrent weights are elementwise, so that each unit sees its own past alone
    /// (IndRNN, Li et al. 2018, <https://arxiv.org/abs/1803.04831>); as a rule with ReLU.
    #[config(default = false)]
    pub independent: bool,
    /// Whether the input product and the recurrent product are layer-normalised (Ba et al. 2016,
    /// <https://arxiv.org/abs/1607.06450>).
    #[config(default = false)]
    pub layer_norm: bool,
    /// The hidden state is clipped to plus and minus this after every step.
    pub hidden_clip: Option<f64>,
    /// Dropout on the hidden states of every layer but the last, while training.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Dropout on the hidden state that enters the recurrent product, while training: one mask a
    /// sequence, the same at every step (Gal and Ghahramani 2016,
    /// <https://arxiv.org/abs/1512.05287>). Each call draws its own: so does every `step`, and every
    /// chunk of a stream.
    #[config(default = 0.0)]
    pub recurrent_dropout: f64,
    /// How the weights begin. By default uniform within 1/sqrt(d_hidden), as in PyTorch.
    pub initializer: Option<Initializer>,
    /// How the recurrent weights begin; for independent units like the others, or at one.
    #[config(default = "RecurrentInit::LikeInput")]
    pub recurrent_init: RecurrentInit,
}

recurrent_config!(RnnConfig, Rnn, RnnCell);

impl RecurrentConfig for RnnConfig {
    type Cell = RnnCell;

    fn options(&self) -> LayerOptions {
        self.layer_options(self.d_hidden)
    }

    fn fresh_cell(&self, d_input: usize, top: bool, device: &Device) -> RnnCell {
        let config = WeightsConfig {
            bias: self.bias,
            elementwise: self.independent,
            layer_norm: self.layer_norm,
            initializer: self.initializer.as_ref(),
            recurrent: self.recurrent_init,
            hidden_dropout: self.recurrent_dropout,
            ..WeightsConfig::new(&[1], d_input, self.d_hidden)
        };
        let d_output = self.d_output.filter(|_| top);
        RnnCell {
            weights: config.init(device),
            output: d_output.map(|width| {
                LinearConfig::new(self.d_hidden, width)
                    .with_bias(self.bias)
                    .init(device)
            }),
            activation: self.activation.init(device),
            hidden_clip: self.hidden_clip,
        }
    }

    /// ```
    /// use seq_rnn::{RecurrentConfig, RnnConfig};
    ///
    /// let error = RnnConfig::new(8, 0).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "d_hidden must be at least 1, is 0");
    /// ```
    fn validate(&self) -> Result<(), ConfigError> {
        self.options().validate()?;
        ConfigError::sizes([
            ("d_hidden", self.d_hidden),
            ("d_output", self.d_output.unwrap_or(self.d_hidden)),
        ])?;
        ConfigError::bounds([("hidden_clip", self.hidden_clip)])?;
        ConfigError::probabilities([("recurrent_dropout", self.recurrent_dropout)])?;
        ConfigError::unless(
            !matches!(
                self.activation,
                ActivationConfig::PRelu(_) | ActivationConfig::SwiGlu(_)
            ),
            "activation",
            "a function of one value without weights",
            &self.activation,
        )?;
        ConfigError::unless(
            !self.independent || self.recurrent_init != RecurrentInit::Orthogonal,
            "recurrent_init",
            "LikeInput or Identity for independent units",
            "Orthogonal",
        )
    }
}
