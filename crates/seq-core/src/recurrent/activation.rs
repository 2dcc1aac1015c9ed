use burn::tensor::{Tensor, activation};
use serde::{Deserialize, Serialize};

/// A pointwise function of a recurrent cell. All of them are monotonic, and their derivatives are
/// functions of their value.
///
/// ```
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::Activation;
///
/// # #[cfg(feature = "ndarray")] {
/// let x = Tensor::<1>::from_data([-4.0, 0.0, 1.0], &seq_core::device());
/// let y = Activation::HardSigmoid.forward(x).into_data();
/// y.assert_eq(&burn::tensor::TensorData::from([0.0f32, 0.5, 0.7]), true);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// 1 / (1 + e^-x)
    Sigmoid,
    /// tanh x
    Tanh,
    /// max(0, x)
    Relu,
    /// min(1, max(0, 0.2 x + 0.5)), as in ONNX and in Keras before its third version.
    HardSigmoid,
    /// x / (1 + |x|)
    Softsign,
    /// x
    Identity,
}

/// Clips to plus and minus `bound`, if there is one.
///
/// ```
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::clip;
///
/// # #[cfg(feature = "ndarray")] {
/// let x = Tensor::<1>::from_data([-4.0, 0.5], &seq_core::device());
/// assert_eq!(clip(x, Some(1.0)).into_data().as_slice::<f32>().unwrap(), [-1.0, 0.5]);
/// # }
/// ```
pub fn clip<const D: usize>(x: Tensor<D>, bound: Option<f64>) -> Tensor<D> {
    match bound {
        Some(bound) => x.clamp(-bound, bound),
        None => x,
    }
}

impl Activation {
    /// Applies the function to every element.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            // Burn's default sigmoid goes by way of f32, and on GPUs in six kernels.
            Self::Sigmoid => (x * 0.5).tanh() * 0.5 + 0.5,
            Self::Tanh => activation::tanh(x),
            Self::Relu => activation::relu(x),
            Self::HardSigmoid => (x * 0.2 + 0.5).clamp(0.0, 1.0),
            Self::Softsign => x.clone() / (x.abs() + 1.0),
            Self::Identity => x,
        }
    }
}

#[cfg(feature = "cpu-kernels")]
pub use lanes::{clip_gradient, clip_lanes};

#[cfg(feature = "cpu-kernels")]
mod lanes {
    use super::Activation;
    use crate::cpu::{Real, Simd};

    impl Activation {
        /// Applies the function to a register.
        #[inline(always)]
        pub fn lanes<R: Real, S: Simd>(self, s: S, x: R::V<S>) -> R::V<S> {
            let (zero, one) = (R::splat(s, R::ZERO), R::splat(s, R::ONE));
            match self {
                Self::Sigmoid => R::sigmoid(s, x),
                Self::Tanh => R::tanh(s, x),
                // The constant is the first operand so that NaN stays NaN.
                Self::Relu => R::max(s, zero, x),
                Self::HardSigmoid => {
                    let slope = R::splat(s, R::from_f64(0.2));
                    let line = R::mul_add(s, x, slope, R::splat(s, R::from_f64(0.5)));
                    R::min(s, one, R::max(s, zero, line))
                }
                Self::Softsign => R::vdiv(s, x, R::vadd(s, one, R::abs(s, x))),
                Self::Identity => x,
            }
        }

        /// Applies the function to a register clipped to plus and minus `clip`.
        #[inline(always)]
        pub fn lanes_of_clipped<R: Real, S: Simd>(
            self,
            s: S,
            x: R::V<S>,
            clip: Option<f64>,
        ) -> R::V<S> {
            self.lanes::<R, S>(s, clip_lanes::<R, S>(s, x, clip))
        }

        /// The derivative of [`lanes_of_clipped`](Self::lanes_of_clipped) where its value is `y`: zero
        /// where the argument was clipped.
        #[inline(always)]
        pub fn slope_of_clipped<R: Real, S: Simd>(
            self,
            s: S,
            y: R::V<S>,
            clip: Option<f64>,
        ) -> R::V<S> {
            let slope = self.slope::<R, S>(s, y);
            let Some(clip) = clip else { return slope };
            let zero = R::splat(s, R::ZERO);
            let bound = |sign: f64| self.lanes::<R, S>(s, R::splat(s, R::from_f64(sign * clip)));
            let slope = R::select_lt(s, y, bound(1.0), slope, zero);
            R::select_lt(s, bound(-1.0), y, slope, zero)
        }

        /// The derivative where the function's value is `y`.
        #[inline(always)]
        pub fn slope<R: Real, S: Simd>(self, s: S, y: R::V<S>) -> R::V<S> {
            let (zero, one) = (R::splat(s, R::ZERO), R::splat(s, R::ONE));
            match self {
                Self::Sigmoid => R::neg_mul_add(s, y, y, y),
                Self::Tanh => R::neg_mul_add(s, y, y, one),
                Self::Relu => R::select_lt(s, zero, y, one, zero),
                Self::HardSigmoid => {
                    let slope = R::splat(s, R::from_f64(0.2));
                    let below_one = R::select_lt(s, y, one, slope, zero);
                    R::select_lt(s, zero, y, below_one, zero)
                }
                Self::Softsign => {
                    let rest = R::vsub(s, one, R::abs(s, y));
                    R::vmul(s, rest, rest)
                }
                Self::Identity => one,
            }
        }
    }

    /// A register clipped to plus and minus `bound`, if there is one. NaN stays NaN, as the bounds are
    /// the first operands.
    #[inline(always)]
    pub fn clip_lanes<R: Real, S: Simd>(s: S, x: R::V<S>, bound: Option<f64>) -> R::V<S> {
        let Some(bound) = bound else { return x };
        let (low, high) = (
            R::splat(s, R::from_f64(-bound)),
            R::splat(s, R::from_f64(bound)),
        );
        R::min(s, high, R::max(s, low, x))
    }

    /// The gradient of [`clip_lanes`] where its value is `y`: zero where it clipped.
    #[inline(always)]
    pub fn clip_gradient<R: Real, S: Simd>(
        s: S,
        gradient: R::V<S>,
        y: R::V<S>,
        bound: Option<f64>,
    ) -> R::V<S> {
        let Some(bound) = bound else { return gradient };
        let (bound, zero) = (R::splat(s, R::from_f64(bound)), R::splat(s, R::ZERO));
        R::select_lt(s, R::abs(s, y), bound, gradient, zero)
    }
}
