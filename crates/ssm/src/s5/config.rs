use burn::config::Config;
use burn::module::Param;
use burn::nn::Initializer;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use seq_core::ConfigError;
use seq_core::scan::Complex;

use super::layer::S5;
use crate::s4::{log_dt, step_sizes};
use crate::{Discretisation, Nplr};

/// Configuration of an [`S5`] layer, made with [`init`](S5Config::init).
///
/// The defaults and the initial values are those of the paper's code,
/// <https://github.com/lindermanlab/S5>.
///
/// ```
/// use seq_ssm::{Discretisation, S5Config};
///
/// let config = S5Config::new(64).with_d_state(32).with_num_blocks(4);
/// # #[cfg(feature = "ndarray")]
/// let s5 = config.with_discretisation(Discretisation::Bilinear).init(&seq_ssm::device());
/// ```
#[derive(Config, Debug)]
pub struct S5Config {
    /// The width of one step, of input and output alike.
    pub d_model: usize,
    /// How many real states there are in all: twice the conjugate pairs, so it is even.
    #[config(default = 64)]
    pub d_state: usize,
    /// How many systems of HiPPO-N the states begin with, side by side. Several small ones, of an even
    /// number of states each, were found to learn better than one.
    #[config(default = 1)]
    pub num_blocks: usize,
    /// How the system becomes one of steps.
    #[config(default = "Discretisation::Zoh")]
    pub discretisation: Discretisation,
    /// The smallest initial step size.
    #[config(default = 0.001)]
    pub dt_min: f64,
    /// The largest initial step size; they are spread evenly on a logarithmic scale.
    #[config(default = 0.1)]
    pub dt_max: f64,
}

impl S5Config {
    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_ssm::S5Config;
    ///
    /// let error = S5Config::new(8).with_d_state(6).with_num_blocks(2).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "d_state must be a multiple of 2 num_blocks, is 6");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([
            ("d_model", self.d_model),
            ("d_state", self.d_state),
            ("num_blocks", self.num_blocks),
        ])?;
        ConfigError::unless(
            self.d_state.is_multiple_of(2 * self.num_blocks),
            "d_state",
            "a multiple of 2 num_blocks",
            self.d_state,
        )?;
        step_sizes(self.dt_min, self.dt_max)
    }

    /// Makes the layer: the diagonal of HiPPO-N, B and C random in the basis of the real states.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> S5 {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let (d_model, d_state, blocks) = (self.d_model, self.d_state, self.num_blocks);
        let (size, pairs) = (d_state / blocks, d_state / 2);
        let legs = Nplr::legs(size).half();
        let lambda = |part: fn(&nalgebra::Complex<f64>) -> f64| {
            let block: Vec<f64> = legs.lambda.iter().map(part).collect();
            let data = TensorData::new(block, [size / 2]);
            Tensor::<1>::from_data(data, device).repeat_dim(0, blocks)
        };
        let normal = |shape: [usize; 3], fan_in: usize| {
            let std = 1.0 / (fan_in as f64).sqrt();
            Tensor::<3>::random(shape, Distribution::Normal(0.0, std), device)
        };
        // The eigenvectors of a block, `[1, size, size / 2]`.
        let plane = |part: fn(&nalgebra::Complex<f64>) -> f64| {
            let rows = legs.v.transpose();
            let data = TensorData::new(rows.iter().map(part).collect(), [1, size, size / 2]);
            Tensor::<3>::from_data::<TensorData>(data, device)
        };
        let v = Complex::new(plane(|z| z.re), plane(|z| z.im));

        let b = normal([blocks, size, d_model], d_model);
        let b = v
            .clone()
            .conj()
            .map(|plane| plane.swap_dims(1, 2).matmul(b.clone()))
            .map(|plane| plane.reshape([pairs, d_model]));
        let c = [0; 2].map(|_| normal([blocks, d_model, size], d_state));
        let [re, im] = c.map(|c| v.clone().map(|plane| c.clone().matmul(plane)));
        let c = Complex::new(re.re - im.im, re.im + im.re);
        let c = c.map(|plane| plane.swap_dims(0, 1).reshape([d_model, pairs]));
        let stored = |z: Complex<2>| Param::from_tensor(Tensor::stack::<3>(vec![z.re, z.im], 2));
        let d = Initializer::Normal {
            mean: 0.0,
            std: 1.0,
        };
        S5 {
            log_dt: Param::from_tensor(log_dt([pairs], self.dt_min, self.dt_max, device)),
            log_a_real: Param::from_tensor(lambda(|z| (-z.re).ln())),
            a_imag: Param::from_tensor(lambda(|z| z.im)),
            b: stored(b),
            c: stored(c),
            d: d.init([d_model], device),
            discretisation: self.discretisation,
            rate: 1.0,
        }
    }
}
