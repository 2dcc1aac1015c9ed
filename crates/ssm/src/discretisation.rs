use burn::tensor::Tensor;
use seq_core::scan::Complex;
use serde::{Deserialize, Serialize};

/// How a system in continuous time, `s' = A s + B x`, becomes one of steps, `s_t = Ad s_{t-1} + Bd x_t`.
///
/// ```
/// use seq_ssm::{Discretisation, S5Config};
///
/// let config = S5Config::new(8).with_discretisation(Discretisation::Bilinear);
/// assert!(config.validate().is_ok());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Discretisation {
    /// Zero-order hold, exact where the input is constant during a step: `Ad = exp(dt A)` and
    /// `Bd = A^-1 (Ad - I) B`.
    Zoh,
    /// The bilinear rule, also named after Tustin: `Ad = (I - dt/2 A)^-1 (I + dt/2 A)` and
    /// `Bd = (I - dt/2 A)^-1 dt B`.
    Bilinear,
}

impl Discretisation {
    /// Of a diagonal A: the diagonal of `Ad - I`, which near zero says more than Ad rounded does, and what B
    /// is multiplied with.
    pub(crate) fn diagonal<const D: usize>(
        self,
        a: Complex<D>,
        dt: Tensor<D>,
    ) -> (Complex<D>, Complex<D>) {
        match self {
            Self::Zoh => {
                let change = exp_m1(a.clone().map(|plane| plane * dt.clone()));
                (change.clone(), change * a.recip())
            }
            Self::Bilinear => {
                let half = a.clone().map(|plane| plane * dt.clone() * 0.5);
                let one = Complex::from_real(half.re.ones_like());
                let scale = (one - half).recip().map(|plane| plane * dt.clone());
                (scale.clone() * a, scale)
            }
        }
    }
}

/// `exp(z) - 1`, without a difference of nearly equal numbers.
fn exp_m1<const D: usize>(z: Complex<D>) -> Complex<D> {
    let grown = z.re.clone().exp();
    let real = (z.re * 0.5).tanh() * (grown.clone() + 1.0);
    let sin = (z.im.clone() * 0.5).sin();
    Complex {
        re: real * z.im.clone().cos() - sin.clone() * sin * 2.0,
        im: grown * z.im.sin(),
    }
}
