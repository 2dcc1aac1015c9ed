//! Convolutions with a kernel as long as the sequence.

#[cfg(feature = "cpu-kernels")]
mod cpu;
#[cfg(feature = "cpu-kernels")]
mod gradient;
#[cfg(feature = "cpu-kernels")]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;
mod reference;

use burn::tensor::Tensor;

/// The causal convolution of every channel with a kernel of its own, by the fast Fourier transform:
///
/// ```text
/// y_t = sum_{j <= t} kernel_j x_{t - j}
/// ```
///
/// `x` is `[batch, time, width]`, `kernel` `[width, length]` with the tap of the newest step first; a
/// kernel longer than the sequence is cut, and a shorter one stands for zeros after it. Answers
/// `[batch, time, width]`. Any time and any length are fast, primes too.
///
/// On CPU backends, in `f32` and `f64`, it runs by kernels, forward and backward; elsewhere by products
/// with small Fourier matrices. A transform mixes all steps: an input changes the outputs before it by
/// rounding errors, of the size of those of the largest output, and one that is not finite spoils its
/// channel.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::convolution::long_convolution;
///
/// let device = seq_core::device();
/// let x = Tensor::<3>::from_data([[[1.0], [2.0], [3.0]]], &device);
/// let kernel = Tensor::<2>::from_data([[1.0, 10.0, 100.0]], &device);
/// let y = long_convolution(x, kernel).round().into_data();
/// assert_eq!(y.as_slice::<f32>().unwrap(), [1.0, 12.0, 123.0]);
/// # }
/// ```
///
/// # Panics
///
/// When the widths differ, naming both shapes, and when there is no step or no tap.
pub fn long_convolution(x: Tensor<3>, kernel: Tensor<2>) -> Tensor<3> {
    let kernel = cut(&x, kernel);
    run(x, kernel, None)
}

/// The convolution of every channel with a kernel for the steps up to the present one and another for
/// those after it, as a bidirectional S4 has them (Gu et al. 2022, <https://arxiv.org/abs/2111.00396>):
///
/// ```text
/// y_t = sum_{j <= t} kernel_{t - j} x_j + sum_{j > t} ahead_{j - t - 1} x_j
/// ```
///
/// `x` is `[batch, time, width]`, `kernel` `[width, length]` and `ahead` `[width, another length]`, with
/// the taps of the present step and of the next one first; either may be longer or shorter than the
/// sequence. Answers `[batch, time, width]`. On CPU backends, it takes as long as [`long_convolution`].
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::convolution::two_sided_convolution;
///
/// let device = seq_core::device();
/// let x = Tensor::<3>::from_data([[[1.0], [2.0], [3.0]]], &device);
/// let kernel = Tensor::<2>::from_data([[1.0, 10.0, 100.0]], &device);
/// let ahead = Tensor::<2>::from_data([[1000.0]], &device);
/// let y = two_sided_convolution(x, kernel, ahead).round().into_data();
/// assert_eq!(y.as_slice::<f32>().unwrap(), [2001.0, 3012.0, 123.0]);
/// # }
/// ```
///
/// # Panics
///
/// As [`long_convolution`].
pub fn two_sided_convolution(x: Tensor<3>, kernel: Tensor<2>, ahead: Tensor<2>) -> Tensor<3> {
    let (kernel, ahead) = (cut(&x, kernel), cut(&x, ahead));
    let [_, time, _] = x.dims();
    let [_, length] = ahead.dims();
    match length.min(time - 1) {
        0 => run(x, kernel, None),
        length => run(x, kernel, Some(ahead.narrow(1, 0, length))),
    }
}

/// A kernel that is no longer than the input.
fn cut(x: &Tensor<3>, kernel: Tensor<2>) -> Tensor<2> {
    let ([_, time, width], [channels, length]) = (x.dims(), kernel.dims());
    assert!(
        channels == width && time > 0 && length > 0,
        "a kernel {:?} does not fit an input {:?}: it must be [{width}, length], with at least one tap and one step",
        kernel.dims(),
        x.dims()
    );
    match length > time {
        true => kernel.narrow(1, 0, time),
        false => kernel,
    }
}

fn run(x: Tensor<3>, kernel: Tensor<2>, ahead: Option<Tensor<2>>) -> Tensor<3> {
    #[cfg(feature = "cpu-kernels")]
    if ops::has_kernel(&x, &kernel, ahead.as_ref()) {
        return ops::run(x, kernel, ahead);
    }
    reference::run(x, kernel, ahead)
}
