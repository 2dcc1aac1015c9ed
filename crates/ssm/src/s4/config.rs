use burn::config::Config;
use burn::module::Param;
use burn::nn::Initializer;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use nalgebra::{Complex, DVector};
use seq_core::ConfigError;

use super::layer::S4;
use crate::Nplr;

/// Configuration of an [`S4`] layer, made with [`init`](S4Config::init).
///
/// The defaults and the initial values are those of the paper's code,
/// <https://github.com/state-spaces/s4>.
///
/// ```
/// use seq_ssm::S4Config;
///
/// # #[cfg(feature = "ndarray")]
/// let s4 = S4Config::new(64).with_d_state(32).init(&seq_ssm::device());
/// ```
#[derive(Config, Debug)]
pub struct S4Config {
    /// The width of one step, of input and output alike.
    pub d_model: usize,
    /// How many real states a feature has: twice the conjugate pairs, so it is even.
    #[config(default = 64)]
    pub d_state: usize,
    /// The smallest initial step size.
    #[config(default = 0.001)]
    pub dt_min: f64,
    /// The largest initial step size; they are spread evenly on a logarithmic scale.
    #[config(default = 0.1)]
    pub dt_max: f64,
}

impl S4Config {
    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_ssm::S4Config;
    ///
    /// let error = S4Config::new(8).with_d_state(3).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "d_state must be even, is 3");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([("d_model", self.d_model), ("d_state", self.d_state)])?;
        let even = self.d_state.is_multiple_of(2);
        ConfigError::unless(even, "d_state", "even", self.d_state)?;
        step_sizes(self.dt_min, self.dt_max)
    }

    /// Makes the layer: HiPPO-LegS for every feature, C and D random.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> S4 {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let (d_model, pairs) = (self.d_model, self.d_state / 2);
        let legs = Nplr::legs(self.d_state).half();
        let plane = |values: Vec<f64>| {
            let row = TensorData::new(values, [1, pairs]);
            let row = Tensor::<2>::from_data(row, device);
            Param::from_tensor(row.repeat_dim(0, d_model))
        };
        let complex = |values: &DVector<Complex<f64>>| {
            let values: Vec<f64> = values.iter().flat_map(|z| [z.re, z.im]).collect();
            let row = TensorData::new(values, [1, pairs, 2]);
            let row = Tensor::<3>::from_data(row, device);
            Param::from_tensor(row.repeat_dim(0, d_model))
        };
        // Complex numbers of variance 1.
        let c = Initializer::Normal {
            mean: 0.0,
            std: 0.5f64.sqrt(),
        };
        let d = Initializer::Normal {
            mean: 0.0,
            std: 1.0,
        };
        S4 {
            log_dt: Param::from_tensor(log_dt([d_model], self.dt_min, self.dt_max, device)),
            log_a_real: plane(legs.lambda.iter().map(|z| (-z.re).ln()).collect()),
            a_imag: plane(legs.lambda.iter().map(|z| z.im).collect()),
            p: complex(&legs.p),
            b: complex(&legs.b),
            c: c.init([d_model, pairs, 2], device),
            d: d.init([d_model], device),
            rate: 1.0,
        }
    }
}

/// Makes sure that step sizes can be drawn between these.
pub(crate) fn step_sizes(dt_min: f64, dt_max: f64) -> Result<(), ConfigError> {
    ConfigError::bounds([("dt_min", Some(dt_min))])?;
    let fits = dt_min <= dt_max && dt_max.is_finite();
    ConfigError::unless(fits, "dt_max", "at least dt_min, and finite", dt_max)
}

/// Logarithms of step sizes, spread evenly between those of the smallest and the largest.
pub(crate) fn log_dt<const D: usize>(
    shape: [usize; D],
    dt_min: f64,
    dt_max: f64,
    device: &Device,
) -> Tensor<D> {
    let unit = Tensor::random(shape, Distribution::Uniform(0.0, 1.0), device);
    unit * (dt_max.ln() - dt_min.ln()) + dt_min.ln()
}
