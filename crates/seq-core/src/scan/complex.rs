use std::ops::{Add, Mul, Sub};

use burn::tensor::{Bool, Tensor};

use super::forms::{Numbers, Scan};
use super::{CHUNK, check};
use crate::Lengths;

/// Complex numbers as two planes.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::scan::Complex;
///
/// let device = seq_core::device();
/// let plane = |values: [f32; 2]| Tensor::<1>::from_data(values, &device);
/// // 1 + 2i and -i, each times itself.
/// let z = Complex::new(plane([1.0, 0.0]), plane([2.0, -1.0]));
/// let square = z.clone() * z;
/// assert_eq!(square.re.into_data().as_slice::<f32>().unwrap(), [-3.0, -1.0]);
/// assert_eq!(square.im.into_data().as_slice::<f32>().unwrap(), [4.0, 0.0]);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Complex<const D: usize> {
    /// The real parts.
    pub re: Tensor<D>,
    /// The imaginary parts, of the same shape.
    pub im: Tensor<D>,
}

impl<const D: usize> Complex<D> {
    /// Of real and imaginary parts.
    ///
    /// # Panics
    ///
    /// When their shapes differ, naming both.
    pub fn new(re: Tensor<D>, im: Tensor<D>) -> Self {
        let (found, expected) = (im.dims(), re.dims());
        assert_eq!(
            found, expected,
            "the imaginary parts have shape {found:?}, the real parts {expected:?}"
        );
        Self { re, im }
    }

    /// Of real numbers.
    pub fn from_real(re: Tensor<D>) -> Self {
        let im = re.zeros_like();
        Self { re, im }
    }

    /// The shape.
    pub fn dims(&self) -> [usize; D] {
        self.re.dims()
    }

    /// Both planes after `f`, which is to be linear: a change of shape or a product with real numbers.
    pub fn map<const E: usize>(self, f: impl Fn(Tensor<D>) -> Tensor<E>) -> Complex<E> {
        Complex {
            re: f(self.re),
            im: f(self.im),
        }
    }

    /// Joins along a dimension.
    pub fn cat(parts: Vec<Self>, dim: usize) -> Self {
        let (re, im) = parts.into_iter().map(|part| (part.re, part.im)).unzip();
        Self {
            re: Tensor::cat(re, dim),
            im: Tensor::cat(im, dim),
        }
    }

    /// The conjugate.
    pub fn conj(self) -> Self {
        Self {
            re: self.re,
            im: -self.im,
        }
    }

    /// The square of the magnitude.
    pub fn abs2(self) -> Tensor<D> {
        self.re.clone() * self.re + self.im.clone() * self.im
    }

    /// e to the power of the numbers.
    pub fn exp(self) -> Self {
        let scale = self.re.exp();
        Self {
            re: scale.clone() * self.im.clone().cos(),
            im: scale * self.im.sin(),
        }
    }

    /// One divided by the numbers, whose squares must be in the range of the type.
    pub fn recip(self) -> Self {
        let scale = self.clone().abs2().recip();
        self.conj().map(|plane| plane * scale.clone())
    }
}

impl<const D: usize> Add for Complex<D> {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            re: self.re + other.re,
            im: self.im + other.im,
        }
    }
}

impl<const D: usize> Sub for Complex<D> {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            re: self.re - other.re,
            im: self.im - other.im,
        }
    }
}

impl<const D: usize> Mul for Complex<D> {
    type Output = Self;

    fn mul(self, other: Self) -> Self {
        Self {
            re: self.re.clone() * other.re.clone() - self.im.clone() * other.im.clone(),
            im: self.re * other.im + self.im * other.re,
        }
    }
}

/// The linear recurrence `h_t = a_t h_{t-1} + x_t` of complex numbers, element by element.
///
/// Its fields, forms and kernels are those of [`LinearScan`](super::LinearScan). The gradient of a
/// complex number is that of its two planes.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::scan::{Complex, ComplexDecay, ComplexScan};
///
/// let device = seq_core::device();
/// // Batch 1, time 3, width 1: one, turned by i at every step.
/// let x = Tensor::from_data([[[1.0], [0.0], [0.0]]], &device);
/// let i = Complex::new(Tensor::zeros([1], &device), Tensor::ones([1], &device));
/// let (states, last) = ComplexScan::new(ComplexDecay::Constant(i), Complex::from_real(x)).run();
/// assert_eq!(states.re.into_data().as_slice::<f32>().unwrap(), [1.0, 0.0, -1.0]);
/// assert_eq!(states.im.into_data().as_slice::<f32>().unwrap(), [0.0, 1.0, 0.0]);
/// assert_eq!(last.dims(), [1, 1]);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct ComplexScan {
    /// What a step leaves of the state before it, the `a` of the recurrence.
    pub decay: ComplexDecay,
    /// What a step adds, `[batch, time, width]`.
    pub x: Complex<3>,
    /// The state before the first step, `[batch, width]`; by default zeros.
    pub state: Option<Complex<2>>,
    /// As in [`LinearScan`](super::LinearScan).
    pub lengths: Option<Lengths>,
    /// As in [`LinearScan`](super::LinearScan).
    pub resets: Option<Vec<Vec<bool>>>,
}

/// The decay of a [`ComplexScan`], where the example is.
#[derive(Debug, Clone)]
pub enum ComplexDecay {
    /// The same at all steps, `[width]`.
    Constant(Complex<1>),
    /// One for each step, `[batch, time, width]`.
    Varying(Complex<3>),
}

impl ComplexScan {
    /// A scan of whole sequences that begins at zero.
    pub fn new(decay: ComplexDecay, x: Complex<3>) -> Self {
        Self {
            decay,
            x,
            state: None,
            lengths: None,
            resets: None,
        }
    }

    /// The states after all steps `[batch, time, width]`, and after the last one `[batch, width]`.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn run(self) -> (Complex<3>, Complex<2>) {
        self.check();
        #[cfg(feature = "cpu-kernels")]
        if self.has_kernel() {
            return super::ops::complex(self);
        }
        self.chunked(CHUNK)
    }

    /// As [`LinearScan::sequential`](super::LinearScan::sequential).
    pub fn sequential(self) -> (Complex<3>, Complex<2>) {
        self.chunked(1)
    }

    /// As [`LinearScan::chunked`](super::LinearScan::chunked).
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run), and when `chunk` is zero.
    pub fn chunked(self, chunk: usize) -> (Complex<3>, Complex<2>) {
        self.check();
        let scan = Scan {
            decay: match self.decay {
                ComplexDecay::Constant(decay) => decay.map(Tensor::unsqueeze),
                ComplexDecay::Varying(decay) => decay,
            },
            x: self.x,
            state: self
                .state
                .map(|state| state.map(|plane| plane.unsqueeze_dim(1))),
            lengths: self.lengths,
            resets: self.resets,
        };
        let (states, last) = scan.run(chunk);
        (states, last.map(|plane| plane.squeeze_dim(1)))
    }

    /// As [`LinearScan::associative`](super::LinearScan::associative).
    pub fn associative(self) -> (Complex<3>, Complex<2>) {
        let [_, time, _] = self.x.dims();
        self.chunked(time.max(1))
    }

    #[cfg(feature = "cpu-kernels")]
    fn has_kernel(&self) -> bool {
        let decay = match &self.decay {
            ComplexDecay::Constant(decay) => [decay.re.dtype(), decay.im.dtype()],
            ComplexDecay::Varying(decay) => [decay.re.dtype(), decay.im.dtype()],
        };
        let state = self.state.iter();
        let state = state.flat_map(|state| [state.re.dtype(), state.im.dtype()]);
        let others = [self.x.im.dtype()].into_iter().chain(decay).chain(state);
        super::ops::has_kernel(&self.x.re, others)
    }

    fn check(&self) {
        let decay = match &self.decay {
            ComplexDecay::Constant(decay) => decay.dims().to_vec(),
            ComplexDecay::Varying(decay) => decay.dims().to_vec(),
        };
        let state = self.state.as_ref().map(Complex::dims);
        let sequences = (self.lengths.as_ref(), self.resets.as_deref());
        check(self.x.dims(), &decay, state, sequences);
    }
}

impl Numbers for Complex<3> {
    fn plane(&self) -> &Tensor<3> {
        &self.re
    }

    fn map(self, f: impl Fn(Tensor<3>) -> Tensor<3>) -> Self {
        Complex::map(self, f)
    }

    fn cat(parts: Vec<Self>) -> Self {
        Complex::cat(parts, 1)
    }

    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn times(self, other: Self) -> Self {
        self * other
    }

    fn fill(self, mask: Tensor<3, Bool>, value: f64) -> Self {
        Self {
            re: self.re.mask_fill(mask.clone(), value),
            im: self.im.mask_fill(mask, 0.0),
        }
    }
}
