use burn::config::Config;
use burn::nn::Initializer;
use burn::tensor::Device;
use seq_core::recurrent::{
    Activation, LayerOptions, RecurrentConfig, RecurrentInit, WeightsConfig,
};
use seq_core::{ConfigError, recurrent_config};
use serde::{Deserialize, Serialize};

use crate::layer::{Gru, GruCell};

/// The gates whose products stay apart: reset and update, and the candidate, of which the reset gate
/// takes a share of the recurrent product alone.
pub(crate) const GROUPS: &[usize] = &[2, 1];

/// Configuration of a [`Gru`], made with [`init`](GruConfig::init).
///
/// The defaults are those of PyTorch's `nn.GRU`.
///
/// ```
/// use seq_gru::GruConfig;
///
/// let config = GruConfig::new(64, 128).with_num_layers(2).with_dropout(0.1);
/// # #[cfg(feature = "ndarray")]
/// let gru = config.init(&Default::default());
/// ```
#[derive(Config, Debug)]
pub struct GruConfig {
    /// The width of one input step.
    pub d_input: usize,
    /// The width of the hidden state, which is the output.
    pub d_hidden: usize,
    /// How many layers stand over one another, each reading the outputs of the one below.
    #[config(default = 1)]
    pub num_layers: usize,
    /// Whether the gates have biases, one for each product, as in PyTorch and cuDNN.
    #[config(default = true)]
    pub bias: bool,
    /// Whether every layer reads both ways; the output is then twice as wide and there is no `step`.
    #[config(default = false)]
    pub bidirectional: bool,
    /// Whether the one direction runs from the end of the sequence; there is no `step` then.
    #[config(default = false)]
    pub reverse: bool,
    /// Whether the reset gate acts on the recurrent product, as in the paper's first version (Cho et
    /// al. 2014, <https://arxiv.org/abs/1406.1078v1>), PyTorch and cuDNN, or, if not, on the hidden
    /// state before it, as in its later ones, in ONNX's default and in Keras' old one: threads then
    /// meet twice a step.
    #[config(default = true)]
    pub reset_after: bool,
    /// What an open update gate does.
    #[config(default = "UpdateGate::Keep")]
    pub update_gate: UpdateGate,
    /// Whether the recurrent and the input product are layer-normalised, the gates together and the
    /// candidate by itself (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>, equations 23 to 25).
    #[config(default = false)]
    pub layer_norm: bool,
    /// What enters an activation is clipped to plus and minus this, as ONNX's `clip`.
    pub clip: Option<f64>,
    /// The hidden state is clipped to plus and minus this after every step.
    pub hidden_clip: Option<f64>,
    /// The activation of the reset and update gates.
    #[config(default = "Activation::Sigmoid")]
    pub gate_activation: Activation,
    /// The activation of the candidate hidden state.
    #[config(default = "Activation::Tanh")]
    pub hidden_activation: Activation,
    /// Dropout on the outputs of every layer but the last, while training.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Dropout on the hidden state that enters the recurrent product, while training: one mask a
    /// sequence, the same at every step (Gal and Ghahramani 2016,
    /// <https://arxiv.org/abs/1512.05287>). Each call draws its own: so does every `step`, and every
    /// chunk of a stream.
    #[config(default = 0.0)]
    pub recurrent_dropout: f64,
    /// The probability that a unit keeps its old value at a step (Krueger et al. 2017,
    /// <https://arxiv.org/abs/1606.01305>), drawn anew for every step while training; afterwards the
    /// state is the expected mixture of old and new.
    #[config(default = 0.0)]
    pub zoneout: f64,
    /// Whether sequences begin at a state that is trained, instead of zeros. It begins at zeros.
    #[config(default = false)]
    pub trained_state: bool,
    /// How the weights begin. By default uniform within 1/sqrt(d_hidden), as in PyTorch.
    pub initializer: Option<Initializer>,
    /// How the recurrent weights of each gate begin.
    #[config(default = "RecurrentInit::LikeInput")]
    pub recurrent_init: RecurrentInit,
}

/// What an open update gate `z` does: the two conventions differ by the sign of everything that enters
/// the gate, and [`GruCell::into_update_gate`] goes from one to the other.
///
/// ```
/// use seq_gru::{GruConfig, UpdateGate};
///
/// let config = GruConfig::new(3, 4).with_update_gate(UpdateGate::Write);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum UpdateGate {
    /// Keeps the old state: `h = (1 - z) * n + z * h`, as in PyTorch, Keras and ONNX.
    Keep,
    /// Writes the candidate: `h = (1 - z) * h + z * n`, as in Chung et al. 2014
    /// (<https://arxiv.org/abs/1412.3555>).
    Write,
}

recurrent_config!(GruConfig, Gru, GruCell);

impl RecurrentConfig for GruConfig {
    type Cell = GruCell;

    fn options(&self) -> LayerOptions {
        self.layer_options(self.d_hidden)
    }

    fn fresh_cell(&self, d_input: usize, _: bool, device: &Device) -> GruCell {
        let config = WeightsConfig {
            bias: self.bias,
            layer_norm: self.layer_norm,
            initializer: self.initializer.as_ref(),
            recurrent: self.recurrent_init,
            hidden_dropout: self.recurrent_dropout,
            ..WeightsConfig::new(GROUPS, d_input, self.d_hidden)
        };
        let zeros = || Initializer::Zeros.init([self.d_hidden], device);
        GruCell {
            weights: config.init(device),
            initial_hidden: self.trained_state.then(zeros),
            reset_after: self.reset_after,
            update_gate: self.update_gate,
            zoneout: self.zoneout,
            clip: self.clip,
            hidden_clip: self.hidden_clip,
            gate_activation: self.gate_activation,
            hidden_activation: self.hidden_activation,
        }
    }

    /// ```
    /// use seq_gru::{GruConfig, RecurrentConfig};
    ///
    /// let error = GruConfig::new(8, 0).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "d_hidden must be at least 1, is 0");
    /// ```
    fn validate(&self) -> Result<(), ConfigError> {
        self.options().validate()?;
        ConfigError::sizes([("d_hidden", self.d_hidden)])?;
        ConfigError::bounds([("clip", self.clip), ("hidden_clip", self.hidden_clip)])?;
        ConfigError::probabilities([
            ("recurrent_dropout", self.recurrent_dropout),
            ("zoneout", self.zoneout),
        ])
    }
}
