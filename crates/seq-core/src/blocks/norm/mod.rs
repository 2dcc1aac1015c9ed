//! Norms of the last axis.

#[cfg(feature = "cpu-kernels")]
mod cpu;
#[cfg(feature = "cpu-kernels")]
mod gradient;
#[cfg(feature = "cpu-kernels")]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;

use burn::module::{Content, DisplaySettings, Module, ModuleDisplay, Param};
use burn::nn::RmsNorm;
use burn::tensor::{DType, Tensor};

/// A norm of the features of a step, before a layer or after the last one; or of the last axis of any
/// tensor, as of the channels of each head of an attention.
///
/// On CPU backends, in `f32` and `f64`, it and its gradient are one operation each.
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

/// The parameters of [`burn::nn::LayerNorm`], which keeps its epsilon to itself.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::nn::LayerNormConfig;
/// use seq_core::blocks::LayerNorm;
///
/// let norm = LayerNormConfig::new(4).with_epsilon(1e-12).init(&seq_core::device());
/// assert_eq!(LayerNorm::from(norm).epsilon, 1e-12);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// `[width]`, by which the normalised features are multiplied.
    pub gamma: Param<Tensor<1>>,
    /// `[width]`, added to them at last.
    pub beta: Option<Param<Tensor<1>>>,
    /// Added to the variance, which is the biased one.
    pub epsilon: f64,
}

impl From<burn::nn::LayerNorm> for LayerNorm {
    fn from(norm: burn::nn::LayerNorm) -> Self {
        // The only place where Burn shows the number; it is written out in full.
        let content = norm.custom_content(Content::new(DisplaySettings::new()));
        let attributes = content.map_or_else(Vec::new, |content| content.attributes);
        let epsilon = attributes.iter().find(|shown| shown.name == "epsilon");
        Self {
            epsilon: epsilon
                .and_then(|shown| shown.value.parse().ok())
                .expect("Burn shows the epsilon of a norm"),
            gamma: norm.gamma,
            beta: norm.beta,
        }
    }
}

/// What a norm is besides its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Whether the mean is taken off.
    centred: bool,
    epsilon: f64,
}

impl Norm {
    /// How many features there are.
    pub fn width(&self) -> usize {
        self.gamma().dims()[0]
    }

    fn gamma(&self) -> Tensor<1> {
        match self {
            Self::Layer(norm) => norm.gamma.val(),
            Self::Rms(norm) => norm.gamma.val(),
        }
    }

    fn beta(&self) -> Option<Tensor<1>> {
        match self {
            Self::Layer(norm) => norm.beta.as_ref().map(Param::val),
            Self::Rms(_) => None,
        }
    }

    fn options(&self) -> Options {
        match self {
            Self::Layer(norm) => Options {
                centred: true,
                epsilon: norm.epsilon,
            },
            Self::Rms(norm) => Options {
                centred: false,
                epsilon: norm.epsilon,
            },
        }
    }

    /// `[.., width]` to the same shape.
    ///
    /// # Panics
    ///
    /// When `x` has another width.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.check(&x);
        #[cfg(feature = "cpu-kernels")]
        {
            let (gamma, beta) = (self.gamma(), self.beta());
            if ops::has_kernel(&x, &gamma, beta.as_ref()) {
                return ops::run(x, gamma, beta, self.options());
            }
        }
        self.reference(x)
    }

    /// The specification of [`forward`](Self::forward), in plain tensor operations.
    ///
    /// # Panics
    ///
    /// When `x` has another width.
    pub fn reference<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.check(&x);
        let (options, dtype) = (self.options(), x.dtype());
        // The squares of a row may be too large for half a float.
        let wide = match dtype {
            DType::F16 => DType::F32,
            other => other,
        };
        let mut x = x.cast(wide);
        if options.centred {
            x = x.clone() - x.mean_dim(D - 1);
        }
        let squares = (x.clone() * x.clone()).mean_dim(D - 1);
        let y = x / (squares + options.epsilon).sqrt() * self.gamma().cast(wide).unsqueeze();
        let y = match self.beta() {
            Some(beta) => y + beta.cast(wide).unsqueeze(),
            None => y,
        };
        y.cast(dtype)
    }

    fn check<const D: usize>(&self, x: &Tensor<D>) {
        let (shape, width) = (x.dims(), self.width());
        assert_eq!(
            shape[D - 1],
            width,
            "the input has shape {shape:?}, the norm a width of {width}"
        );
    }
}

impl From<burn::nn::LayerNorm> for Norm {
    fn from(norm: burn::nn::LayerNorm) -> Self {
        Self::Layer(norm.into())
    }
}

impl From<RmsNorm> for Norm {
    fn from(norm: RmsNorm) -> Self {
        Self::Rms(norm)
    }
}
