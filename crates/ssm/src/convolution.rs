//! The convolution that every feature has with a kernel of its own.

use burn::tensor::{Int, Tensor, TensorData};
use seq_core::convolution::long_convolution;

/// Up to how many steps a product with the kernel at every shift is less work than the Fourier transform.
pub(crate) const DIRECT: usize = 64;

/// `x` `[batch, time, d_model]` with `kernel` `[d_model, time]`.
pub(crate) fn convolve(x: Tensor<3>, kernel: Tensor<2>) -> Tensor<3> {
    let [_, time, _] = x.dims();
    match time <= DIRECT {
        true => directly(x, kernel),
        false => long_convolution(x, kernel),
    }
}

/// By one product with the kernel at every shift: no later step has a part in an output, be it by rounding.
fn directly(x: Tensor<3>, kernel: Tensor<2>) -> Tensor<3> {
    let [d_model, time] = kernel.dims();
    let device = x.device();
    let lags = (0..time).flat_map(|from| (0..time).map(move |to| to.checked_sub(from)));
    let lags: Vec<i64> = lags.map(|lag| lag.unwrap_or(time) as i64).collect();
    let lags = Tensor::<1, Int>::from_data(TensorData::new(lags, [time * time]), &device);
    let zero = Tensor::zeros([d_model, 1], (&device, x.dtype()));
    let shifted = Tensor::cat(vec![kernel, zero], 1).select(1, lags);
    let y = x
        .permute([2, 0, 1])
        .matmul(shifted.reshape([d_model, time, time]));
    y.permute([1, 2, 0])
}
