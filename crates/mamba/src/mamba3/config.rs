use burn::config::Config;
use burn::module::Param;
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::Device;
use seq_core::ConfigError;

use super::layer::Mamba3;
use crate::mixer;

/// Configuration of a [`Mamba3`] layer, made with [`init`](Mamba3Config::init).
///
/// The defaults and the initial values are those of the reference code, `Mamba3` of
/// <https://github.com/state-spaces/mamba>, with `is_mimo` off.
///
/// ```
/// use seq_mamba::Mamba3Config;
///
/// let config = Mamba3Config::new(64).with_head_dim(16).with_d_state(32);
/// assert_eq!((config.d_inner(), config.heads(), config.angles()), (128, 8, 8));
/// # #[cfg(feature = "ndarray")]
/// let mamba = config.init(&seq_mamba::device());
/// ```
#[derive(Config, Debug)]
pub struct Mamba3Config {
    /// The width of one step, of input and output alike.
    pub d_model: usize,
    /// How many states a channel has.
    #[config(default = 128)]
    pub d_state: usize,
    /// How many channels the scan has, in units of `d_model`.
    #[config(default = 2)]
    pub expand: usize,
    /// How many channels a head has; it must divide `expand * d_model`.
    #[config(default = 64)]
    pub head_dim: usize,
    /// How many groups of heads have a B and a C of their own; it must divide the number of heads.
    #[config(default = 1)]
    pub n_groups: usize,
    /// How much of a state turns; the reference code has 0.5 and 1.
    #[config(default = 0.5)]
    pub rope_fraction: f64,
    /// The smallest initial step size.
    #[config(default = 0.001)]
    pub dt_min: f64,
    /// The largest initial step size; they are spread evenly on a logarithmic scale.
    #[config(default = 0.1)]
    pub dt_max: f64,
    /// No step size begins below this.
    #[config(default = 1e-4)]
    pub dt_init_floor: f64,
    /// No rate of decay is below this.
    #[config(default = 1e-4)]
    pub a_floor: f64,
    /// Whether each head's output is normalised before the gate. Without the norm it is only gated.
    #[config(default = false)]
    pub out_proj_norm: bool,
    /// The epsilon of all norms.
    #[config(default = 1e-5)]
    pub norm_eps: f64,
    /// How many steps are done at once, see [`Ssd`](crate::Ssd); it does not change what the layer
    /// computes.
    #[config(default = 64)]
    pub chunk_size: usize,
}

impl Mamba3Config {
    /// How many channels the scan has.
    pub fn d_inner(&self) -> usize {
        self.expand * self.d_model
    }

    /// How many heads the scan has.
    pub fn heads(&self) -> usize {
        self.d_inner() / self.head_dim
    }

    /// By how many angles the state of a head is turned, each of which turns a pair of numbers.
    pub fn angles(&self) -> usize {
        (self.d_state as f64 * self.rope_fraction) as usize / 2
    }

    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_mamba::Mamba3Config;
    ///
    /// let error = Mamba3Config::new(32).with_rope_fraction(2.0).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "rope_fraction must be above 0, at most 1, is 2");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([
            ("d_model", self.d_model),
            ("d_state", self.d_state),
            ("expand", self.expand),
            ("head_dim", self.head_dim),
            ("n_groups", self.n_groups),
            ("chunk_size", self.chunk_size),
        ])?;
        let divides = |option, size, whole: usize, expected| {
            ConfigError::unless(whole.is_multiple_of(size), option, expected, size)
        };
        let all = "a divisor of expand * d_model";
        divides("head_dim", self.head_dim, self.d_inner(), all)?;
        let heads = "a divisor of the number of heads";
        divides("n_groups", self.n_groups, self.heads(), heads)?;
        let fraction = self.rope_fraction;
        let fits = fraction > 0.0 && fraction <= 1.0;
        ConfigError::unless(fits, "rope_fraction", "above 0, at most 1", fraction)?;
        let turns = self.angles() > 0;
        let expected = "at least 2 / rope_fraction, as something has to turn";
        ConfigError::unless(turns, "d_state", expected, self.d_state)?;
        ConfigError::bounds([
            ("dt_min", Some(self.dt_min)),
            ("dt_init_floor", Some(self.dt_init_floor)),
            ("a_floor", Some(self.a_floor)),
            ("norm_eps", Some(self.norm_eps)),
        ])?;
        mixer::validate_dt([self.dt_min, self.dt_max], None)
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> Mamba3 {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let (d_inner, heads) = (self.d_inner(), self.heads());
        let linear = |d_input, d_output| {
            let config = LinearConfig::new(d_input, d_output).with_bias(false);
            config.init(device)
        };
        let projected = 2 * self.n_groups * self.d_state + 3 * heads + self.angles();
        let dt_range = [self.dt_min, self.dt_max];
        let dt_bias = mixer::dt_bias(heads, dt_range, self.dt_init_floor, device);
        let ones = Initializer::Ones;
        Mamba3 {
            in_proj: linear(self.d_model, 2 * d_inner + projected),
            dt_bias: Param::from_tensor(dt_bias),
            b_bias: ones.init([heads, self.d_state], device),
            c_bias: ones.init([heads, self.d_state], device),
            b_norm_weight: ones.init([self.d_state], device),
            c_norm_weight: ones.init([self.d_state], device),
            d: ones.init([heads], device),
            norm_weight: self.out_proj_norm.then(|| ones.init([d_inner], device)),
            out_proj: linear(d_inner, self.d_model),
            n_groups: self.n_groups,
            a_floor: self.a_floor,
            norm_eps: self.norm_eps,
            chunk_size: self.chunk_size,
        }
    }
}
