use std::f64::consts::PI;

use burn::config::Config;
use burn::module::Param;
use burn::nn::{Initializer, LinearConfig};
use burn::tensor::{Device, Tensor, TensorData};
use seq_core::ConfigError;
use serde::{Deserialize, Serialize};

use super::layer::S4d;
use crate::s4::{log_dt, step_sizes};
use crate::{Discretisation, Nplr};

/// Configuration of an [`S4d`] layer, made with [`init`](S4dConfig::init).
///
/// The defaults and the initial values are those of the reference code, `models/s4/s4d.py` of
/// <https://github.com/state-spaces/s4>, but for its mixing of the features, see
/// [`mixing`](Self::mixing).
///
/// ```
/// use seq_ssm::{S4dConfig, S4dInit};
///
/// # #[cfg(feature = "ndarray")]
/// let s4d = S4dConfig::new(64).with_initialisation(S4dInit::LegS).init(&seq_ssm::device());
/// ```
#[derive(Config, Debug)]
pub struct S4dConfig {
    /// The width of one step, of input and output alike.
    pub d_model: usize,
    /// How many real states a feature has: twice the conjugate pairs, so it is even.
    #[config(default = 64)]
    pub d_state: usize,
    /// How the diagonal begins.
    #[config(default = "S4dInit::Lin")]
    pub initialisation: S4dInit,
    /// How the system becomes one of steps.
    #[config(default = "Discretisation::Zoh")]
    pub discretisation: Discretisation,
    /// Whether a second kernel reads what comes after each step; there is no `step` then.
    #[config(default = false)]
    pub bidirectional: bool,
    /// Whether the outputs go through a GELU and a gated linear map of the features, as in the reference
    /// code; [`S4Block`](crate::S4Block) has that too, with a norm and a residual connection.
    #[config(default = false)]
    pub mixing: bool,
    /// The smallest initial step size.
    #[config(default = 0.001)]
    pub dt_min: f64,
    /// The largest initial step size; they are spread evenly on a logarithmic scale.
    #[config(default = 0.1)]
    pub dt_max: f64,
}

/// How the diagonal of an [`S4d`] begins (Gu et al. 2022, <https://arxiv.org/abs/2206.11893>), for
/// n = 0, 1, .. below `d_state / 2`. The example is at [`S4dConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum S4dInit {
    /// `-1/2 + i pi n`, equation 9.
    Lin,
    /// `-1/2 + i N / pi (N / (2 n + 1) - 1)`, equation 8.
    Inv,
    /// The diagonal of HiPPO-LegS' normal part.
    LegS,
    /// `-(n + 1)`.
    Real,
}

impl S4dInit {
    /// The real and the imaginary parts.
    fn diagonal(self, d_state: usize) -> (Vec<f64>, Vec<f64>) {
        let states = d_state as f64;
        let each =
            |entry: &dyn Fn(f64) -> (f64, f64)| (0..d_state / 2).map(|n| entry(n as f64)).unzip();
        match self {
            Self::Lin => each(&|n| (-0.5, PI * n)),
            Self::Inv => each(&|n| (-0.5, states / PI * (states / (2.0 * n + 1.0) - 1.0))),
            Self::LegS => {
                let lambda = Nplr::legs(d_state).half().lambda;
                lambda.iter().map(|z| (z.re, z.im)).unzip()
            }
            Self::Real => each(&|n| (-(n + 1.0), 0.0)),
        }
    }
}

impl S4dConfig {
    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_ssm::S4dConfig;
    ///
    /// let error = S4dConfig::new(8).with_d_state(3).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "d_state must be even, is 3");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([("d_model", self.d_model), ("d_state", self.d_state)])?;
        let even = self.d_state.is_multiple_of(2);
        ConfigError::unless(even, "d_state", "even", self.d_state)?;
        step_sizes(self.dt_min, self.dt_max)
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> S4d {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let (d_model, pairs) = (self.d_model, self.d_state / 2);
        let (real, imaginary) = self.initialisation.diagonal(self.d_state);
        let plane = |values: Vec<f64>| {
            let row = TensorData::new(values, [1, pairs]);
            let row = Tensor::<2>::from_data(row, device);
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
        let mixing = || LinearConfig::new(d_model, 2 * d_model).init(device);
        S4d {
            log_dt: Param::from_tensor(log_dt([d_model], self.dt_min, self.dt_max, device)),
            log_a_real: plane(real.into_iter().map(|re| (-re).ln()).collect()),
            a_imag: plane(imaginary),
            c: c.init([d_model, pairs, 2], device),
            c_backward: self
                .bidirectional
                .then(|| c.init([d_model, pairs, 2], device)),
            d: d.init([d_model], device),
            mixing: self.mixing.then(mixing),
            discretisation: self.discretisation,
            rate: 1.0,
        }
    }
}
