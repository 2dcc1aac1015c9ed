//! The pointwise function between the two maps of a feed-forward layer, with or without a gate.

#[cfg(any(feature = "ndarray", feature = "flex"))]
mod cpu;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod gradient;
#[cfg(any(feature = "ndarray", feature = "flex"))]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;

use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI};

#[cfg(any(feature = "ndarray", feature = "flex"))]
use burn::tensor::DType;
use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

/// The nonlinearity of a feed-forward layer.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_transformer::Activation;
///
/// let x = Tensor::<1>::from_data([-2.0, 0.5], &seq_transformer::device());
/// let y = Activation::Relu.forward(x).into_data();
/// assert_eq!(y.as_slice::<f32>().unwrap(), [0.0, 0.5]);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// max(0, x); its derivative at 0 is 0.
    Relu,
    /// x (1 + erf(x / sqrt 2)) / 2 (Hendrycks and Gimpel 2016, <https://arxiv.org/abs/1606.08415>); `gelu` of
    /// PyTorch and of published models.
    Gelu,
    /// x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x³))) / 2, which differs from [`Gelu`](Self::Gelu) by up to
    /// 5e-4; `gelu_new` and `gelu_pytorch_tanh` of published models.
    GeluTanh,
    /// x / (1 + e^-x), also known as swish.
    Silu,
}

/// The cubic term of [`Activation::GeluTanh`].
const CUBIC: f64 = 0.044_715;

/// sqrt(2 / pi)
const SQRT_2_OVER_PI: f64 = FRAC_2_SQRT_PI * FRAC_1_SQRT_2;

impl Activation {
    /// The function of every element, of any shape.
    ///
    /// On CPU backends, in `f32` and `f64`, by a kernel, which writes where `x` lies when nothing else needs
    /// it. There, both kinds of GELU have the digits of their negative values, too, which `1 + erf` and
    /// `1 + tanh` elsewhere lose below -3 or so, of values smaller than 0.005.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        if has_kernel(&x, None) {
            return ops::run(x, None, self);
        }
        self.reference(x)
    }

    /// `act(gate) * up`, both of one shape: a gated linear unit (Shazeer 2020,
    /// <https://arxiv.org/abs/2002.05202>), SwiGLU with [`Silu`](Self::Silu) and GEGLU with
    /// [`Gelu`](Self::Gelu). It runs as [`forward`](Self::forward) does.
    ///
    /// # Panics
    ///
    /// When the shapes differ, naming both.
    ///
    /// ```
    /// # #[cfg(feature = "ndarray")] {
    /// use burn::tensor::Tensor;
    /// use seq_transformer::Activation;
    ///
    /// let device = seq_transformer::device();
    /// let (gate, up) = (Tensor::<2>::ones([2, 3], &device), Tensor::ones([2, 3], &device) * 4.0);
    /// let y: f32 = Activation::Silu.forward_gated(gate, up).max().into_scalar();
    /// assert!((y - 2.924).abs() < 1e-3);
    /// # }
    /// ```
    pub fn forward_gated<const D: usize>(self, gate: Tensor<D>, up: Tensor<D>) -> Tensor<D> {
        let shapes = (gate.dims(), up.dims());
        assert_eq!(
            shapes.0, shapes.1,
            "the gate has shape {:?}, what it multiplies {:?}",
            shapes.0, shapes.1
        );
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        if has_kernel(&gate, Some(&up)) {
            return ops::run(gate, Some(up), self);
        }
        self.reference(gate) * up
    }

    /// The specification of [`forward`](Self::forward), in plain tensor operations.
    pub fn reference<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        let half = x.clone() * 0.5;
        match self {
            Self::Relu => burn::tensor::activation::relu(x),
            Self::Gelu => half * ((x * FRAC_1_SQRT_2).erf() + 1.0),
            Self::GeluTanh => {
                let cube = x.clone() * x.clone() * x.clone();
                half * (((x + cube * CUBIC) * SQRT_2_OVER_PI).tanh() + 1.0)
            }
            // Burn's sigmoid goes by way of f32.
            Self::Silu => half.clone() * (half.tanh() + 1.0),
        }
    }
}

/// Whether the kernels run on these tensors.
#[cfg(any(feature = "ndarray", feature = "flex"))]
fn has_kernel<const D: usize>(x: &Tensor<D>, up: Option<&Tensor<D>>) -> bool {
    let dtype = x.dtype();
    matches!(dtype, DType::F32 | DType::F64)
        && up.is_none_or(|up| up.dtype() == dtype)
        && seq_core::is_cpu(&x.device())
}
