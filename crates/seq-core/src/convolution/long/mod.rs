//! Convolutions with a kernel as long as the sequence.

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
/// with small Fourier matrices.
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
    let ([_, time, width], [channels, length]) = (x.dims(), kernel.dims());
    assert!(
        channels == width && time > 0 && length > 0,
        "a kernel {:?} does not fit an input {:?}: it must be [{width}, length], with at least one tap and one step",
        kernel.dims(),
        x.dims()
    );
    reference::run(x, kernel.narrow(1, 0, length.min(time)))
}
