use std::f64::consts::FRAC_1_SQRT_2;

use burn::config::Config;
use burn::module::{Module, ModuleDisplay, Param};
use burn::nn::{Dropout, DropoutConfig, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};
use seq_core::recurrent::Activation;
use seq_core::{ConfigError, Lengths, SequenceLayer, linear};
use serde::{Deserialize, Serialize};

/// Configuration of an [`S4Block`], made with [`init`](S4BlockConfig::init).
///
/// ```
/// use seq_ssm::{S4BlockConfig, S4Config};
///
/// # #[cfg(feature = "ndarray")] {
/// let device = seq_ssm::device();
/// let s4 = S4Config::new(64).init(&device);
/// let block = S4BlockConfig::new().with_dropout(0.1).init(s4, &device);
/// # }
/// ```
#[derive(Config, Debug)]
pub struct S4BlockConfig {
    /// Whether the norm comes first, inside the residual connection, which trains deep stacks more
    /// readily; otherwise it comes last, outside, as in the long-range experiments of the papers.
    #[config(default = true)]
    pub prenorm: bool,
    /// How the features are mixed.
    #[config(default = "Mixing::Glu")]
    pub mixing: Mixing,
    /// The probability that a value is dropped while training, before the features are mixed and after.
    #[config(default = 0.0)]
    pub dropout: f64,
    /// The epsilon of the layer norm.
    #[config(default = 1e-5)]
    pub norm_eps: f64,
}

/// How an [`S4Block`] mixes features, where the example is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mixing {
    /// A linear map to twice the width, whose second half gates the first (Dauphin et al. 2016,
    /// <https://arxiv.org/abs/1612.08083>).
    Glu,
    /// A linear map.
    Linear,
}

impl S4BlockConfig {
    /// Makes sure that a block can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::probabilities([("dropout", self.dropout)])?;
        ConfigError::bounds([("norm_eps", Some(self.norm_eps))])
    }

    /// Makes the block around a layer, as wide as the layer's input, with fresh weights.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init<L: SequenceLayer + ModuleDisplay>(&self, layer: L, device: &Device) -> S4Block<L> {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let d_model = layer.d_input();
        let d_mixed = match self.mixing {
            Mixing::Glu => 2 * d_model,
            Mixing::Linear => d_model,
        };
        S4Block {
            norm: LayerNormConfig::new(d_model)
                .with_epsilon(self.norm_eps)
                .init(device),
            output: LinearConfig::new(layer.d_output(), d_mixed).init(device),
            layer,
            dropout: DropoutConfig::new(self.dropout).init(),
            prenorm: self.prenorm,
        }
    }
}

/// The residual block of the S4 papers (Gu et al. 2021, <https://arxiv.org/abs/2111.00396>, and 2022,
/// <https://arxiv.org/abs/2206.11893>) around a layer of any kind, made by [`S4BlockConfig`]:
///
/// ```text
/// y = x + dropout(mix(dropout(gelu(layer(norm(x))))))          with the norm first
/// y = norm(x + dropout(mix(dropout(gelu(layer(x))))))          with the norm last
/// mix(u) = a * sigmoid(b),  a, b = split(output u)             or  output u
/// ```
///
/// It is a layer itself, whose state is that of the layer inside;
/// [`Stack`](crate::Stack) makes a deep model of several.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_ssm::{Mixing, S4BlockConfig, S4Config, SequenceLayer, Stack};
///
/// let device = seq_ssm::device();
/// let config = S4BlockConfig::new().with_mixing(Mixing::Linear);
/// let block = || config.init(S4Config::new(8).with_d_state(16).init(&device), &device);
/// let model = Stack::new(vec![block(), block()]);
/// let x = Tensor::<3>::random([2, 10, 8], Distribution::Default, &device);
/// let (y, _state) = model.forward(x, None);
/// assert_eq!(y.dims(), [2, 10, 8]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct S4Block<L: Module> {
    /// Of `d_model` features.
    pub norm: LayerNorm,
    /// From `d_model` to its own width.
    pub layer: L,
    /// From the layer's width to `d_model`, or twice that with a gate.
    pub output: Linear,
    /// While training.
    pub dropout: Dropout,
    /// Whether the norm comes first.
    #[module(skip)]
    pub prenorm: bool,
}

impl<L: SequenceLayer + ModuleDisplay> S4Block<L> {
    fn before<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self.prenorm {
            true => self.norm.forward(x),
            false => x,
        }
    }

    /// Of the block's input and what the layer made of it.
    fn after<const D: usize>(&self, x: Tensor<D>, y: Tensor<D>) -> Tensor<D> {
        let bias = self.output.bias.as_ref().map(Param::val);
        let y = self.dropout.forward(gelu(y));
        let mixed = linear(y, self.output.weight.val(), bias);
        let d_model = self.d_input();
        let mixed = match mixed.dims()[D - 1] == d_model {
            true => mixed,
            false => {
                let gate = mixed.clone().narrow(D - 1, d_model, d_model);
                mixed.narrow(D - 1, 0, d_model) * Activation::Sigmoid.forward(gate)
            }
        };
        let y = x + self.dropout.forward(mixed);
        match self.prenorm {
            true => y,
            false => self.norm.forward(y),
        }
    }

    fn check(&self, shape: &[usize]) {
        let (width, d_model) = (shape[shape.len() - 1], self.d_input());
        assert_eq!(
            width, d_model,
            "the input has shape {shape:?}, the block d_model {d_model}"
        );
    }
}

/// `x` times the normal distribution function. Burn's own has the gradient of an approximation.
pub(crate) fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * ((x * FRAC_1_SQRT_2).erf() * 0.5 + 0.5)
}

impl<L: SequenceLayer + ModuleDisplay> SequenceLayer for S4Block<L> {
    type State = L::State;

    fn d_input(&self) -> usize {
        self.norm.gamma.dims()[0]
    }

    fn d_output(&self) -> usize {
        self.d_input()
    }

    fn initial_state(&self, batch: usize, device: &Device) -> L::State {
        self.layer.initial_state(batch, device)
    }

    fn forward(&self, x: Tensor<3>, state: Option<L::State>) -> (Tensor<3>, L::State) {
        self.check(&x.dims());
        let (y, state) = self.layer.forward(self.before(x.clone()), state);
        (self.after(x, y), state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<L::State>,
    ) -> (Tensor<3>, L::State) {
        self.check(&x.dims());
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let x = lengths.clear(x);
        let (y, state) = self
            .layer
            .forward_padded(self.before(x.clone()), lengths, state);
        (lengths.clear(self.after(x, y)), state)
    }

    fn step(&self, x: Tensor<2>, state: L::State) -> (Tensor<2>, L::State) {
        self.check(&x.dims());
        let (y, state) = self.layer.step(self.before(x.clone()), state);
        (self.after(x, y), state)
    }
}
