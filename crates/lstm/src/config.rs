use burn::config::Config;
use burn::module::Param;
use burn::nn::{DropoutConfig, Initializer, LayerNormConfig};
use burn::tensor::{Device, Tensor, s};
use seq_core::recurrent::{
    Activation, LayerOptions, RecurrentConfig, RecurrentInit, WeightsConfig,
};
use seq_core::{ConfigError, recurrent_config};

use crate::layer::{Lstm, LstmCell};

/// Configuration of an [`Lstm`], made with [`init`](LstmConfig::init).
///
/// The defaults are those of PyTorch's `nn.LSTM`.
///
/// ```
/// use seq_lstm::LstmConfig;
///
/// let config = LstmConfig::new(64, 128)
///     .with_num_layers(2)
///     .with_dropout(0.1)
///     .with_forget_bias(Some(1.0));
/// # #[cfg(feature = "ndarray")]
/// let lstm = config.init(&Default::default());
/// ```
#[derive(Config, Debug)]
pub struct LstmConfig {
    /// The width of one input step.
    pub d_input: usize,
    /// The width of the cell state and, without a projection, of the hidden state.
    pub d_hidden: usize,
    /// How many layers stand over one another, each reading the outputs of the one below.
    #[config(default = 1)]
    pub num_layers: usize,
    /// Whether the gates have biases; two vectors are kept and added, as in PyTorch and cuDNN.
    #[config(default = true)]
    pub bias: bool,
    /// Whether every layer reads both ways; the output is then twice as wide and there is no `step`.
    #[config(default = false)]
    pub bidirectional: bool,
    /// Whether the one direction runs from the end of the sequence; there is no `step` then.
    #[config(default = false)]
    pub reverse: bool,
    /// The width of the hidden state if it is a projection of the cell's output (LSTMP, Sak et al.
    /// 2014, <https://arxiv.org/abs/1402.1128>).
    pub d_projection: Option<usize>,
    /// Whether the gates see the cell state through elementwise weights: input and forget gate the
    /// old one, the output gate the new one (Gers et al. 2002).
    #[config(default = false)]
    pub peephole: bool,
    /// Whether the input product, the recurrent product and the cell state are layer-normalised
    /// (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>, equations 20 to 22).
    #[config(default = false)]
    pub layer_norm: bool,
    /// What enters a gate's activation is clipped to plus and minus this, as ONNX's `clip`.
    pub clip: Option<f64>,
    /// The cell state is clipped to plus and minus this after every step.
    pub cell_clip: Option<f64>,
    /// The activation of the input, forget and output gates.
    #[config(default = "Activation::Sigmoid")]
    pub gate_activation: Activation,
    /// The activation of the candidate cell state.
    #[config(default = "Activation::Tanh")]
    pub cell_activation: Activation,
    /// The activation of the cell state on its way to the output.
    #[config(default = "Activation::Tanh")]
    pub hidden_activation: Activation,
    /// Dropout on the outputs of every layer but the last, while training.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// Dropout inside the recurrence, while training.
    #[config(default = "RecurrentDropout::new()")]
    pub recurrent_dropout: RecurrentDropout,
    /// Units that keep their old value, while training at random and afterwards in expectation.
    #[config(default = "Zoneout::new()")]
    pub zoneout: Zoneout,
    /// How the weights begin. By default uniform within 1/sqrt(d_hidden), as in PyTorch.
    pub initializer: Option<Initializer>,
    /// Whether each gate's recurrent weights begin as an orthogonal matrix, which keeps gradients
    /// from vanishing early in training.
    #[config(default = false)]
    pub orthogonal: bool,
    /// What the forget gate's bias begins at; 1 makes the cell remember from the start (Jozefowicz
    /// et al. 2015). Without it the bias begins like the weights. No effect without
    /// [`bias`](Self::bias).
    pub forget_bias: Option<f64>,
}

/// Dropout inside the recurrence: one mask a sequence, the same at every step (Gal and Ghahramani
/// 2016, <https://arxiv.org/abs/1512.05287>). Each call draws its own: so does every `step`, and
/// every chunk of a stream.
///
/// ```
/// use seq_lstm::{LstmConfig, RecurrentDropout};
///
/// let dropout = RecurrentDropout::new().with_hidden(0.25);
/// let config = LstmConfig::new(8, 16).with_recurrent_dropout(dropout);
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub struct RecurrentDropout {
    /// On the candidate cell state, which leaves the memory itself untouched (Semeniuta et al. 2016,
    /// <https://arxiv.org/abs/1603.05118>).
    #[config(default = 0.0)]
    pub gates: f64,
    /// On the hidden state that enters the recurrent product.
    #[config(default = 0.0)]
    pub hidden: f64,
    /// On the cell state (Moon et al. 2015).
    #[config(default = 0.0)]
    pub cell: f64,
}

/// The probability that a unit keeps its old value at a step (Krueger et al. 2017,
/// <https://arxiv.org/abs/1606.01305>). Drawn anew for every step while training; afterwards the
/// state is the expected mixture of old and new.
///
/// ```
/// use seq_lstm::{LstmConfig, Zoneout};
///
/// let config = LstmConfig::new(8, 16).with_zoneout(Zoneout::new().with_cell(0.5).with_hidden(0.05));
/// ```
#[derive(Config, Debug, Copy, PartialEq)]
pub struct Zoneout {
    /// Of the hidden state.
    #[config(default = 0.0)]
    pub hidden: f64,
    /// Of the cell state.
    #[config(default = 0.0)]
    pub cell: f64,
}

recurrent_config!(LstmConfig, Lstm, LstmCell);

impl LstmConfig {
    /// The width of the hidden state.
    fn d_output(&self) -> usize {
        self.d_projection.unwrap_or(self.d_hidden)
    }
}

impl RecurrentConfig for LstmConfig {
    type Cell = LstmCell;

    fn options(&self) -> LayerOptions {
        self.layer_options(self.d_output())
    }

    fn fresh_cell(&self, d_input: usize, _: bool, device: &Device) -> LstmCell {
        let (hidden, output) = (self.d_hidden, self.d_output());
        let config = WeightsConfig {
            d_output: output,
            bias: self.bias,
            layer_norm: self.layer_norm,
            initializer: self.initializer.as_ref(),
            recurrent: match self.orthogonal {
                true => RecurrentInit::Orthogonal,
                false => RecurrentInit::LikeInput,
            },
            hidden_dropout: self.recurrent_dropout.hidden,
            ..WeightsConfig::new(&[4], d_input, hidden)
        };
        let mut weights = config.init(device);
        if let Some(value) = self.forget_bias {
            let begin = |bias: Param<Tensor<1>>, value: f64| {
                let bias = bias.into_value();
                let forget = Tensor::full([hidden], value, (&bias.device(), bias.dtype()));
                let bias = bias.slice_assign(s![hidden..2 * hidden], forget);
                Param::from_tensor(bias.detach())
            };
            weights.bias_ih = weights.bias_ih.map(|bias| begin(bias, value));
            weights.bias_hh = weights.bias_hh.map(|bias| begin(bias, 0.0));
        }
        LstmCell {
            weights,
            weight_hr: self
                .d_projection
                .map(|projection| config.matrix(projection, hidden, device)),
            peephole: self.peephole.then(|| config.vector(3 * hidden, device)),
            cell_norm: self
                .layer_norm
                .then(|| LayerNormConfig::new(hidden).init(device)),
            gates_dropout: DropoutConfig::new(self.recurrent_dropout.gates).init(),
            cell_dropout: DropoutConfig::new(self.recurrent_dropout.cell).init(),
            zoneout: self.zoneout,
            clip: self.clip,
            cell_clip: self.cell_clip,
            gate_activation: self.gate_activation,
            cell_activation: self.cell_activation,
            hidden_activation: self.hidden_activation,
        }
    }

    /// ```
    /// use seq_lstm::{LstmConfig, RecurrentConfig};
    ///
    /// let error = LstmConfig::new(8, 0).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "d_hidden must be at least 1, is 0");
    /// ```
    fn validate(&self) -> Result<(), ConfigError> {
        self.options().validate()?;
        ConfigError::sizes([
            ("d_hidden", self.d_hidden),
            ("d_projection", self.d_output()),
        ])?;
        ConfigError::bounds([("clip", self.clip), ("cell_clip", self.cell_clip)])?;
        ConfigError::probabilities([
            ("recurrent_dropout.gates", self.recurrent_dropout.gates),
            ("recurrent_dropout.hidden", self.recurrent_dropout.hidden),
            ("recurrent_dropout.cell", self.recurrent_dropout.cell),
            ("zoneout.hidden", self.zoneout.hidden),
            ("zoneout.cell", self.zoneout.cell),
        ])
    }
}
