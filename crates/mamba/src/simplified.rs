use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::{Initializer, LayerNorm, LayerNormConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use seq_core::recurrent::Activation;
use seq_core::scan::{Decay, LinearScan};
use seq_core::{ConfigError, Lengths, SequenceLayer, SequenceState, StateMapper, linear};

/// Configuration of a [`SimplifiedSsm`], made with [`init`](SimplifiedSsmConfig::init).
///
/// ```
/// use seq_mamba::SimplifiedSsmConfig;
///
/// # #[cfg(feature = "ndarray")]
/// let layer = SimplifiedSsmConfig::new(32).init(&seq_mamba::device());
/// ```
#[derive(Config, Debug)]
pub struct SimplifiedSsmConfig {
    /// The width of one step, of input, state and output alike.
    pub d_model: usize,
    /// The epsilon of the layer norm.
    #[config(default = 1e-5)]
    pub norm_eps: f64,
    /// The shortest and the longest time, in steps, over which a channel forgets at first; the channels
    /// are spread between them evenly on a logarithmic scale.
    #[config(default = "[2.0, 1000.0]")]
    pub memory: [f64; 2],
}

impl SimplifiedSsmConfig {
    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([("d_model", self.d_model)])?;
        ConfigError::bounds([("norm_eps", Some(self.norm_eps))])?;
        let [shortest, longest] = self.memory;
        let fits = 0.0 < shortest && shortest <= longest && longest.is_finite();
        let found = format!("[{shortest}, {longest}]");
        ConfigError::unless(fits, "memory", "[shortest, longest], above 0", found)
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> SimplifiedSsm {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let linear = || LinearConfig::new(self.d_model, self.d_model).init(device);
        let mut a_proj = linear();
        a_proj.bias = Some(Param::from_tensor(self.decay_bias(device)));
        SimplifiedSsm {
            norm: LayerNormConfig::new(self.d_model)
                .with_epsilon(self.norm_eps)
                .init(device),
            a_proj,
            b_proj: linear(),
            c_proj: linear(),
            d: Initializer::Ones.init([self.d_model], device),
        }
    }

    /// What the sigmoid of is `exp(-1 / steps)`.
    fn decay_bias(&self, device: &Device) -> Tensor<1> {
        let [shortest, longest] = self.memory;
        let last = self.d_model.saturating_sub(1).max(1) as f64;
        let bias = |channel: usize| {
            let steps = shortest * (longest / shortest).powf(channel as f64 / last);
            // logit(e^-x) = -log(e^x - 1)
            -(1.0 / steps).exp_m1().ln()
        };
        let biases: Vec<f64> = (0..self.d_model).map(bias).collect();
        Tensor::from_data(TensorData::new(biases, [self.d_model]), device)
    }
}

/// The simplified selective state-space layer: one state a channel, and a decay that is selected by the
/// input directly, without a step size:
///
/// ```text
/// u = layer_norm(x_t)
/// a = sigmoid(a_proj u),  b = b_proj u,  c = c_proj u
/// s_t = a * s_{t-1} + b * x_t
/// y_t = c * s_t + d * x_t
/// ```
///
/// It is the shortest layer that chooses what to keep: of gated linear recurrences (Martin and Cundy 2018,
/// <https://arxiv.org/abs/1709.04057>) with Mamba's selection.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_mamba::{SequenceLayer, SimplifiedSsmConfig};
///
/// let device = seq_mamba::device();
/// let layer = SimplifiedSsmConfig::new(8).init(&device);
/// let x = Tensor::<3>::random([2, 10, 8], Distribution::Default, &device);
/// let (y, state) = layer.forward(x, None);
/// assert_eq!((y.dims(), state.hidden.dims()), ([2, 10, 8], [2, 8]));
/// # }
/// ```
#[derive(Module, Debug)]
pub struct SimplifiedSsm {
    /// Of what the selection sees.
    pub norm: LayerNorm,
    /// `[d_model, d_model]`: the decay, before its sigmoid.
    pub a_proj: Linear,
    /// `[d_model, d_model]`: what the input writes to the state.
    pub b_proj: Linear,
    /// `[d_model, d_model]`: what the output reads of the state.
    pub c_proj: Linear,
    /// `[d_model]`: the share of the input in the output.
    pub d: Param<Tensor<1>>,
}

/// What a [`SimplifiedSsm`] remembers. The example is there.
#[derive(Debug, Clone)]
pub struct SimplifiedState {
    /// `[batch, d_model]`
    pub hidden: Tensor<2>,
}

impl SequenceState for SimplifiedState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            hidden: mapper.tensor("hidden", self.hidden),
        }
    }
}

impl SimplifiedSsm {
    fn run(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<SimplifiedState>,
    ) -> (Tensor<3>, SimplifiedState) {
        let shape @ [batch, _, width] = x.dims();
        let d_model = self.d_input();
        assert_eq!(
            width, d_model,
            "the input has shape {shape:?}, the layer d_model {d_model}"
        );
        Lengths::check_input(lengths, shape);
        if let Some(state) = &state {
            let found = state.hidden.dims();
            assert_eq!(
                found,
                [batch, d_model],
                "the state has shape {found:?}, the layer and the batch need [{batch}, {d_model}]"
            );
        }
        let clear = |x: Tensor<3>| match lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        };
        let x = clear(x);
        let u = self.norm.forward(x.clone());
        let select = |projection: &Linear| {
            let bias = projection.bias.as_ref().map(Param::val);
            linear(u.clone(), projection.weight.val(), bias)
        };
        let decay = Activation::Sigmoid.forward(select(&self.a_proj));
        let scan = LinearScan {
            state: state.map(|state| state.hidden),
            lengths: lengths.cloned(),
            ..LinearScan::new(Decay::Varying(decay), select(&self.b_proj) * x.clone())
        };
        let (states, hidden) = scan.run();
        let y = select(&self.c_proj) * states + x * self.d.val().unsqueeze();
        (y, SimplifiedState { hidden })
    }
}

impl SequenceLayer for SimplifiedSsm {
    type State = SimplifiedState;

    fn d_input(&self) -> usize {
        self.d.dims()[0]
    }

    fn d_output(&self) -> usize {
        self.d.dims()[0]
    }

    fn initial_state(&self, batch: usize, device: &Device) -> SimplifiedState {
        SimplifiedState {
            hidden: Tensor::zeros([batch, self.d_input()], (device, self.d.val().dtype())),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        state: Option<SimplifiedState>,
    ) -> (Tensor<3>, SimplifiedState) {
        self.run(x, None, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<SimplifiedState>,
    ) -> (Tensor<3>, SimplifiedState) {
        self.run(x, Some(lengths), state)
    }

    fn step(&self, x: Tensor<2>, state: SimplifiedState) -> (Tensor<2>, SimplifiedState) {
        let (y, state) = self.forward(x.unsqueeze_dim(1), Some(state));
        (y.squeeze_dim(1), state)
    }
}
