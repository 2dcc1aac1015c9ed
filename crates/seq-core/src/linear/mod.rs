//! The linear map of the last axis.

#[cfg(feature = "cpu-kernels")]
mod gradient;
#[cfg(feature = "cpu-kernels")]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;

use burn::tensor::Tensor;

/// `y = x weight + bias` over the last axis: `x` `[.., d_input]`, `weight` `[d_input, d_output]`, `bias`
/// `[d_output]`, `y` `[.., d_output]`; what [`Linear`](burn::nn::Linear) computes from its parameters.
///
/// On CPU backends, in `f32` and `f64`, the products of it and of its gradient run on the threads of the
/// kernels; elsewhere, it is Burn's product.
///
/// # Panics
///
/// When the shapes do not fit one another, naming both.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
///
/// let device = seq_core::device();
/// let x = Tensor::<3>::ones([2, 5, 3], &device);
/// let y = seq_core::linear(x, Tensor::ones([3, 4], &device), None);
/// assert_eq!(y.dims(), [2, 5, 4]);
/// # }
/// ```
pub fn linear<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
) -> Tensor<D> {
    let ([d_input, d_output], shape) = (weight.dims(), x.dims());
    assert_eq!(
        shape[D - 1],
        d_input,
        "the input has shape {shape:?}, the weight [{d_input}, {d_output}]"
    );
    if let Some(bias) = &bias {
        assert_eq!(
            bias.dims(),
            [d_output],
            "the bias has shape {:?}, the weight [{d_input}, {d_output}]",
            bias.dims()
        );
    }
    #[cfg(feature = "cpu-kernels")]
    if ops::has_kernel(&x, &weight, bias.as_ref()) {
        return ops::run(x, weight, bias, false);
    }
    let y = x.matmul(weight.unsqueeze());
    match bias {
        Some(bias) => y + bias.unsqueeze(),
        None => y,
    }
}

/// `y = x weight^T` over the last axis: `x` `[.., d_input]`, `weight` `[d_output, d_input]`, `y`
/// `[.., d_output]`; the weight is read as it lies, where `linear` of its transpose would copy it.
///
/// It runs as [`linear`] does.
///
/// # Panics
///
/// When the shapes do not fit one another, naming both.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
///
/// let device = seq_core::device();
/// let x = Tensor::<3>::ones([2, 5, 3], &device);
/// let y = seq_core::linear_transposed(x, Tensor::ones([4, 3], &device));
/// assert_eq!(y.dims(), [2, 5, 4]);
/// # }
/// ```
pub fn linear_transposed<const D: usize>(x: Tensor<D>, weight: Tensor<2>) -> Tensor<D> {
    let ([d_output, d_input], shape) = (weight.dims(), x.dims());
    assert_eq!(
        shape[D - 1],
        d_input,
        "the input has shape {shape:?}, the weight [{d_output}, {d_input}]"
    );
    #[cfg(feature = "cpu-kernels")]
    if ops::has_kernel(&x, &weight, None) {
        return ops::run(x, weight, None, true);
    }
    x.matmul(weight.transpose().unsqueeze())
}
