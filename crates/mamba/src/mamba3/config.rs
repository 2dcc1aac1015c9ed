use burn::config::Config;
use burn::module::Param;
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::Device;
use seq_core::ConfigError;
use serde::{Deserialize, Serialize};

use super::layer::Mamba3;
use crate::mixer;

/// How many of a state's pairs turn, see [`Mamba3Config::rotary`], where the example is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rotary {
    /// The first half of the pairs, the reference code's `rope_fraction` of 0.5.
    Half,
    /// All pairs, its 1.0.
    Full,
}

/// Configuration of a [`Mamba3`] layer, made with [`init`](Mamba3Config::init).
///
/// The defaults and the initial values are those of the reference code, `Mamba3` of
/// <https://github.com/state-spaces/mamba> with `is_mimo` off.
///
/// ```
/// use seq_mamba::{Mamba3Config, Rotary};
///
/// let config = Mamba3Config::new(64).with_head_dim(16).with_d_state(32).with_rotary(Rotary::Full);
/// assert_eq!((config.heads(), config.angles()), (8, 16));
/// # #[cfg(feature = "ndarray")]
/// let mamba = config.init(&seq_mamba::device());
/// ```
#[derive(Config, Debug)]
pub struct Mamba3Config {
    /// The width of one step, of input and output alike.
    pub d_model: usize,
    /// How many states a channel has; even, as they turn in pairs.
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
    /// How many of the pairs of states turn.
    #[config(default = "Rotary::Half")]
    pub rotary: Rotary,
    /// The smallest initial step size.
    #[config(default = 0.001)]
    pub dt_min: f64,
    /// The largest initial step size; they are spread evenly on a logarithmic scale.
    #[config(default = 0.1)]
    pub dt_max: f64,
    /// No step size begins below this.
    #[config(default = 1e-4)]
    pub dt_init_floor: f64,
    /// No rate of decay is below this, so that every state is forgotten at last.
    #[config(default = 1e-4)]
    pub a_floor: f64,
    /// Whether each head's output is normalised before it is gated.
    #[config(default = false)]
    pub norm: bool,
    /// The epsilon of that norm, and of those of B and C.
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

    /// How many pairs of states turn.
    pub fn angles(&self) -> usize {
        match self.rotary {
            Rotary::Half => self.d_state / 4,
            Rotary::Full => self.d_state / 2,
        }
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
    /// let error = Mamba3Config::new(64).with_d_state(7).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "d_state must be even, and 4 or more if half of the pairs turn, is 7");
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
        let turns = self.d_state.is_multiple_of(2) && self.angles() > 0;
        let even = "even, and 4 or more if half of the pairs turn";
        ConfigError::unless(turns, "d_state", even, self.d_state)?;
        let fits = self.d_inner().is_multiple_of(self.head_dim);
        let all = "a divisor of expand * d_model";
        ConfigError::unless(fits, "head_dim", all, self.head_dim)?;
        let fits = self.heads().is_multiple_of(self.n_groups);
        let heads = "a divisor of the number of heads";
        ConfigError::unless(fits, "n_groups", heads, self.n_groups)?;
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
        let (d_inner, heads, d_state) = (self.d_inner(), self.heads(), self.d_state);
        let width = 2 * d_inner + 2 * self.n_groups * d_state + 3 * heads + self.angles();
        let linear = |d_input, d_output| {
            LinearConfig::new(d_input, d_output)
                .with_bias(false)
                .init(device)
        };
        let dt_range = [self.dt_min, self.dt_max];
        let dt_bias = mixer::dt_bias(heads, dt_range, self.dt_init_floor, device);
        let ones = Initializer::Ones;
        Mamba3 {
            in_proj: linear(self.d_model, width),
            dt_bias: Param::from_tensor(dt_bias),
            b_bias: ones.init([heads, d_state], device),
            c_bias: ones.init([heads, d_state], device),
            b_norm_weight: ones.init([d_state], device),
            c_norm_weight: ones.init([d_state], device),
            d: ones.init([heads], device),
            norm_weight: self.norm.then(|| ones.init([d_inner], device)),
            out_proj: linear(d_inner, self.d_model),
            n_groups: self.n_groups,
            angles: self.angles(),
            a_floor: self.a_floor,
            norm_eps: self.norm_eps,
            chunk_size: self.chunk_size,
        }
    }
}
