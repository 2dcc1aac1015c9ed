use burn::config::Config;
use burn::module::Param;
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use seq_core::ConfigError;
use serde::{Deserialize, Serialize};

use super::layer::Mamba;
use crate::mixer;

/// Configuration of a [`Mamba`] layer, made with [`init`](MambaConfig::init).
///
/// The defaults and the initial values are those of the reference code, `Mamba` of
/// <https://github.com/state-spaces/mamba>.
///
/// ```
/// use seq_mamba::MambaConfig;
///
/// let config = MambaConfig::new(64).with_d_state(8);
/// assert_eq!((config.d_inner(), config.dt_rank()), (128, 4));
/// # #[cfg(feature = "ndarray")]
/// let mamba = config.init(&seq_mamba::device());
/// ```
#[derive(Config, Debug)]
pub struct MambaConfig {
    /// The width of one step, of input and output alike.
    pub d_model: usize,
    /// How many states a channel has.
    #[config(default = 16)]
    pub d_state: usize,
    /// How many steps the causal convolution sees, at least 2.
    #[config(default = 4)]
    pub d_conv: usize,
    /// How many channels the scan has, in units of `d_model`.
    #[config(default = 2)]
    pub expand: usize,
    /// How many channels the scan has where that is no multiple of `d_model`; `expand` is of no effect
    /// then.
    pub d_channels: Option<usize>,
    /// The width that the step sizes are made of; by default `d_model / 16`, rounded up.
    pub dt_low_rank: Option<usize>,
    /// Whether the projections in and out have a bias.
    #[config(default = false)]
    pub bias: bool,
    /// Whether the convolution has a bias.
    #[config(default = true)]
    pub conv_bias: bool,
    /// The smallest initial step size.
    #[config(default = 0.001)]
    pub dt_min: f64,
    /// The largest initial step size; they are spread evenly on a logarithmic scale.
    #[config(default = 0.1)]
    pub dt_max: f64,
    /// No step size begins below this.
    #[config(default = 1e-4)]
    pub dt_init_floor: f64,
    /// How the weights of the step size begin.
    #[config(default = "DtInit::Random")]
    pub dt_init: DtInit,
    /// Multiplies the initial weights of the step size.
    #[config(default = 1.0)]
    pub dt_scale: f64,
    /// The bounds that step sizes are clipped to, `[smallest, largest]`; by default none.
    pub dt_limit: Option<[f64; 2]>,
    /// The epsilon of root mean square norms, without weights, on the step size before its last
    /// projection, on B and on C, as FalconMamba has them; by default there are none.
    pub dt_b_c_norm_eps: Option<f64>,
}

/// How the weights that make the step size begin, within `scale = dt_scale / sqrt(dt_rank)`.
///
/// The example is at [`MambaConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DtInit {
    /// All `scale`.
    Constant,
    /// Uniform in `[-scale, scale]`.
    Random,
}

impl MambaConfig {
    /// How many channels the scan has.
    pub fn d_inner(&self) -> usize {
        self.d_channels.unwrap_or(self.expand * self.d_model)
    }

    /// The width that the step sizes are made of.
    pub fn dt_rank(&self) -> usize {
        self.dt_low_rank.unwrap_or(self.d_model.div_ceil(16))
    }

    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_mamba::MambaConfig;
    ///
    /// let error = MambaConfig::new(8).with_d_conv(1).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "d_conv must be at least 2, is 1");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([
            ("d_model", self.d_model),
            ("d_state", self.d_state),
            ("expand", self.expand),
            ("d_channels", self.d_inner()),
            ("dt_low_rank", self.dt_rank()),
        ])?;
        ConfigError::unless(self.d_conv > 1, "d_conv", "at least 2", self.d_conv)?;
        ConfigError::bounds([
            ("dt_min", Some(self.dt_min)),
            ("dt_init_floor", Some(self.dt_init_floor)),
            ("dt_scale", Some(self.dt_scale)),
            ("dt_b_c_norm_eps", self.dt_b_c_norm_eps),
        ])?;
        mixer::validate_dt([self.dt_min, self.dt_max], self.dt_limit)
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> Mamba {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let (d_inner, d_state, dt_rank) = (self.d_inner(), self.d_state, self.dt_rank());
        let linear = |d_input, d_output, bias| {
            let config = LinearConfig::new(d_input, d_output).with_bias(bias);
            config.init(device)
        };
        let conv = mixer::conv_initializer(self.d_conv);
        let dt_range = [self.dt_min, self.dt_max];
        let dt_bias = mixer::dt_bias(d_inner, dt_range, self.dt_init_floor, device);
        let mut dt_proj = linear(dt_rank, d_inner, false);
        dt_proj.weight = self.dt_weight(device);
        dt_proj.bias = Some(Param::from_tensor(dt_bias));
        Mamba {
            in_proj: linear(self.d_model, 2 * d_inner, self.bias),
            conv_weight: conv.init([d_inner, self.d_conv], device),
            conv_bias: self.conv_bias.then(|| conv.init([d_inner], device)),
            x_proj: linear(d_inner, dt_rank + 2 * d_state, false),
            dt_proj,
            a_log: Param::from_tensor(real_a_log(d_inner, d_state, device)),
            d: Initializer::Ones.init([d_inner], device),
            out_proj: linear(d_inner, self.d_model, self.bias),
            dt_limit: self.dt_limit,
            dt_b_c_norm_eps: self.dt_b_c_norm_eps,
        }
    }

    fn dt_weight(&self, device: &Device) -> Param<Tensor<2>> {
        let scale = self.dt_scale / (self.dt_rank() as f64).sqrt();
        let initializer = match self.dt_init {
            DtInit::Constant => Initializer::Constant { value: scale },
            DtInit::Random => Initializer::Uniform {
                min: -scale,
                max: scale,
            },
        };
        initializer.init([self.dt_rank(), self.d_inner()], device)
    }
}

/// The logarithms of 1, 2, .. `d_state` for each channel: S4D-Real (Gu et al. 2022,
/// <https://arxiv.org/abs/2206.11893>).
fn real_a_log(d_inner: usize, d_state: usize, device: &Device) -> Tensor<2> {
    let row: Vec<f64> = (1..=d_state).map(|n| (n as f64).ln()).collect();
    Tensor::<1>::from_data(TensorData::new(row, [d_state]), device)
        .unsqueeze::<2>()
        .repeat_dim(0, d_inner)
}
