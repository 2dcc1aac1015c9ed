use burn::module::Module;
use burn::nn::{LayerNorm, RmsNorm};
use burn::tensor::Tensor;

/// A norm of the features of a step, before a layer or after the last one.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::nn::RmsNormConfig;
/// use burn::tensor::Tensor;
/// use seq_core::blocks::Norm;
///
/// let device = seq_core::device();
/// let norm = Norm::from(RmsNormConfig::new(2).init(&device));
/// let y = norm.forward(Tensor::<2>::from_data([[3.0, -3.0]], &device)).round();
/// assert_eq!(y.into_data().as_slice::<f32>().unwrap(), [1.0, -1.0]);
/// # }
/// ```
#[derive(Module, Debug)]
pub enum Norm {
    /// To mean zero and variance one (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>).
    Layer(LayerNorm),
    /// To a root mean square of one (Zhang and Sennrich 2019, <https://arxiv.org/abs/1910.07467>).
    Rms(RmsNorm),
}

impl Norm {
    /// How many features there are.
    pub fn width(&self) -> usize {
        match self {
            Self::Layer(norm) => norm.gamma.dims()[0],
            Self::Rms(norm) => norm.gamma.dims()[0],
        }
    }

    /// `[.., width]` to the same shape.
    ///
    /// # Panics
    ///
    /// When `x` has another width.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Layer(norm) => norm.forward(x),
            // Burn's own goes by way of f32.
            Self::Rms(norm) => {
                let squares = (x.clone() * x.clone()).mean_dim(D - 1);
                x / (squares + norm.epsilon).sqrt() * norm.gamma.val().unsqueeze()
            }
        }
    }
}

impl From<LayerNorm> for Norm {
    fn from(norm: LayerNorm) -> Self {
        Self::Layer(norm)
    }
}

impl From<RmsNorm> for Norm {
    fn from(norm: RmsNorm) -> Self {
        Self::Rms(norm)
    }
}
