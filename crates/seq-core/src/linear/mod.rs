//! The linear map of the last axis.

#[cfg(feature = "cpu-kernels")]
mod gradient;
#[cfg(feature = "cpu-kernels")]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;

use burn::tensor::Tensor;

use crate::PackedWeights;

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
    run(x, weight, bias, None)
}

/// As [`linear`], whose weight a module has: where the program keeps memory (`cpu::keep_memory`), its map of many
/// rows without a gradient keeps the weight as the kernels read it in `packed`, which is for this weight alone.
///
/// # Panics
///
/// As [`linear`].
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::{PackedWeights, linear_packed};
///
/// let device = seq_core::device();
/// let (weight, packed) = (Tensor::<2>::ones([3, 4], &device), PackedWeights::default());
/// for _ in 0..2 {
///     let x = Tensor::<3>::ones([2, 50, 3], &device);
///     let y = linear_packed(x, weight.clone(), None, &packed);
///     assert_eq!(y.dims(), [2, 50, 4]);
/// }
/// # }
/// ```
pub fn linear_packed<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    packed: &PackedWeights,
) -> Tensor<D> {
    run(x, weight, bias, Some(packed))
}

fn run<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    packed: Option<&PackedWeights>,
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
        let side = ops::Side {
            transposed: false,
            packed: packed.map(PackedWeights::share),
        };
        return ops::run(x, weight, bias, side);
    }
    #[cfg(not(feature = "cpu-kernels"))]
    let _ = packed;
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
        let side = ops::Side {
            transposed: true,
            packed: None,
        };
        return ops::run(x, weight, None, side);
    }
    x.matmul(weight.transpose().unsqueeze())
}
