use burn::config::Config;
use burn::module::Param;
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::{Device, Distribution, Tensor};
use seq_core::ConfigError;

use super::layer::Mamba2;
use crate::mixer;

/// Configuration of a [`Mamba2`] layer, made with [`init`](Mamba2Config::init).
///
/// The defaults and the initial values are those of the reference code, `Mamba2` of
/// <https://github.com/state-spaces/mamba>, but for the chunk size.
///
/// ```
/// use seq_mamba::Mamba2Config;
///
/// let config = Mamba2Config::new(64).with_head_dim(16).with_d_state(32);
/// assert_eq!((config.d_inner(), config.heads()), (128, 8));
/// # #[cfg(feature = "ndarray")]
/// let mamba = config.init(&seq_mamba::device());
/// ```
#[derive(Config, Debug)]
pub struct Mamba2Config {
    /// The width of one step, of input and output alike.
    pub d_model: usize,
    /// How many states a channel has.
    #[config(default = 128)]
    pub d_state: usize,
    /// How many steps the causal convolution sees, at least 2.
    #[config(default = 4)]
    pub d_conv: usize,
    /// How many channels the scan has, in units of `d_model`.
    #[config(default = 2)]
    pub expand: usize,
    /// How many channels a head has; it must divide `expand * d_model`.
    #[config(default = 64)]
    pub head_dim: usize,
    /// How many groups of heads have a B and a C of their own; it must divide the number of heads.
    #[config(default = 1)]
    pub n_groups: usize,
    /// The bounds between which the rates of decay begin, evenly spread.
    #[config(default = "[1.0, 16.0]")]
    pub a_init_range: [f64; 2],
    /// Whether D is one number for each channel instead of one for each head.
    #[config(default = false)]
    pub d_per_channel: bool,
    /// Whether the scan's output is normalised. Without the norm it is only gated.
    #[config(default = true)]
    pub norm: bool,
    /// Whether the gate comes after the norm instead of before it.
    #[config(default = false)]
    pub norm_before_gate: bool,
    /// How many groups of channels are normalised apart; by default `n_groups`, as by the reference code and
    /// in its checkpoints. With 1 the whole is normalised.
    pub norm_groups: Option<usize>,
    /// The epsilon of the norm.
    #[config(default = 1e-5)]
    pub norm_eps: f64,
    /// The smallest initial step size.
    #[config(default = 0.001)]
    pub dt_min: f64,
    /// The largest initial step size; they are spread evenly on a logarithmic scale.
    #[config(default = 0.1)]
    pub dt_max: f64,
    /// No step size begins below this.
    #[config(default = 1e-4)]
    pub dt_init_floor: f64,
    /// The bounds that step sizes are clipped to, `[smallest, largest]`; by default none.
    pub dt_limit: Option<[f64; 2]>,
    /// Whether the projections in and out have a bias.
    #[config(default = false)]
    pub bias: bool,
    /// Whether the convolution has a bias.
    #[config(default = true)]
    pub conv_bias: bool,
    /// The taps of the convolution begin within this of zero; by default within `1 / sqrt(d_conv)`.
    pub conv_init: Option<f64>,
    /// How many steps are done at once, see [`Ssd`](crate::Ssd); it does not change what the layer
    /// computes. The reference code's 256 is for GPUs.
    #[config(default = 64)]
    pub chunk_size: usize,
}

impl Mamba2Config {
    /// How many channels the scan has.
    pub fn d_inner(&self) -> usize {
        self.expand * self.d_model
    }

    /// How many heads the scan has.
    pub fn heads(&self) -> usize {
        self.d_inner() / self.head_dim
    }

    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_mamba::Mamba2Config;
    ///
    /// let error = Mamba2Config::new(8).with_head_dim(5).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "head_dim must be a divisor of expand * d_model, is 5");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        let norm_groups = self.norm_groups.unwrap_or(self.n_groups);
        ConfigError::sizes([
            ("d_model", self.d_model),
            ("d_state", self.d_state),
            ("expand", self.expand),
            ("head_dim", self.head_dim),
            ("n_groups", self.n_groups),
            ("norm_groups", norm_groups),
            ("chunk_size", self.chunk_size),
        ])?;
        let d_inner = self.d_inner();
        let divides = |option, size, whole: usize, expected| {
            ConfigError::unless(whole.is_multiple_of(size), option, expected, size)
        };
        let all = "a divisor of expand * d_model";
        divides("head_dim", self.head_dim, d_inner, all)?;
        let heads = "a divisor of the number of heads";
        divides("n_groups", self.n_groups, self.heads(), heads)?;
        divides("norm_groups", norm_groups, d_inner, all)?;
        ConfigError::unless(self.d_conv > 1, "d_conv", "at least 2", self.d_conv)?;
        let [low, high] = self.a_init_range;
        ConfigError::bounds([
            ("dt_min", Some(self.dt_min)),
            ("dt_init_floor", Some(self.dt_init_floor)),
            ("norm_eps", Some(self.norm_eps)),
            ("a_init_range", Some(low)),
            ("conv_init", self.conv_init),
        ])?;
        let found = format!("[{low}, {high}]");
        let fits = low <= high && high.is_finite();
        ConfigError::unless(fits, "a_init_range", "[smallest, largest], above 0", found)?;
        mixer::validate_dt([self.dt_min, self.dt_max], self.dt_limit)
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> Mamba2 {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let (d_inner, heads) = (self.d_inner(), self.heads());
        let d_conv = d_inner + 2 * self.n_groups * self.d_state;
        let linear = |d_input, d_output| {
            let config = LinearConfig::new(d_input, d_output).with_bias(self.bias);
            config.init(device)
        };
        let conv = mixer::conv_initializer(self.d_conv);
        let taps = match self.conv_init {
            Some(bound) => Initializer::Uniform {
                min: -bound,
                max: bound,
            },
            None => conv.clone(),
        };
        let [low, high] = self.a_init_range;
        let rates = Tensor::<1>::random([heads], Distribution::Uniform(low, high), device);
        let dt_range = [self.dt_min, self.dt_max];
        let dt_bias = mixer::dt_bias(heads, dt_range, self.dt_init_floor, device);
        let d_width = if self.d_per_channel { self.head_dim } else { 1 };
        Mamba2 {
            in_proj: linear(self.d_model, d_inner + d_conv + heads),
            conv_weight: taps.init([d_conv, self.d_conv], device),
            conv_bias: self.conv_bias.then(|| conv.init([d_conv], device)),
            dt_bias: Param::from_tensor(dt_bias),
            a_log: Param::from_tensor(rates.log()),
            d: Initializer::Ones.init([heads, d_width], device),
            norm_weight: self.norm.then(|| Initializer::Ones.init([d_inner], device)),
            out_proj: linear(d_inner, self.d_model),
            n_groups: self.n_groups,
            norm_groups: self.norm_groups.unwrap_or(self.n_groups),
            norm_before_gate: self.norm_before_gate,
            norm_eps: self.norm_eps,
            dt_limit: self.dt_limit,
            chunk_size: self.chunk_size,
        }
    }
}
