//! The linear map as Burn dispatches it.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};

use crate::autodiff::Maybe;
use crate::cpu::{CpuTensor, Matrix, Real, product_of};

/// Whether the kernels run on these tensors.
pub(super) fn has_kernel<const D: usize>(
    x: &Tensor<D>,
    weight: &Tensor<2>,
    bias: Option<&Tensor<1>>,
) -> bool {
    let dtype = x.dtype();
    matches!(dtype, DType::F32 | DType::F64)
        && weight.dtype() == dtype
        && bias.is_none_or(|bias| bias.dtype() == dtype)
        && crate::is_cpu(&x.device())
}

/// Runs a map that has kernels.
pub(super) fn run<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    transposed: bool,
) -> Tensor<D> {
    let bias = bias.map(Tensor::into_dispatch).into();
    let y = Dispatch::linear_map(x.into_dispatch(), weight.into_dispatch(), bias, transposed);
    Tensor::from_dispatch(y)
}

/// The operation; backends without kernels are never asked, as `linear` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait LinearOps: Backend {
    fn linear_map(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        transposed: bool,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "ndarray")]
impl LinearOps for burn::backend::NdArray {
    fn linear_map(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        transposed: bool,
    ) -> FloatTensor<Self> {
        run_on::<Self>(&x, &weight, &bias, transposed)
    }
}

#[cfg(feature = "flex")]
impl LinearOps for burn::backend::Flex {
    fn linear_map(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        transposed: bool,
    ) -> FloatTensor<Self> {
        run_on::<Self>(&x, &weight, &bias, transposed)
    }
}

fn run_on<B: Backend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    bias: &Maybe<B>,
    transposed: bool,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    match x.dtype() {
        DType::F64 => run_in::<B, f64>(x, weight, bias, transposed),
        _ => run_in::<B, f32>(x, weight, bias, transposed),
    }
}

fn run_in<B: Backend, R: Real + Element>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    bias: &Maybe<B>,
    transposed: bool,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    let [rows, columns] = weight.shape().dims();
    let elements = weight.elements::<R>();
    let matrix = Matrix::rows(&elements, columns);
    let ([d_input, d_output], matrix) = match transposed {
        true => ([columns, rows], matrix.transposed()),
        false => ([rows, columns], matrix),
    };
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("an axis") = d_output;
    let rows = shape[..shape.len() - 1].iter().product();
    let size = [rows, d_input, d_output];
    let x = x.elements();
    let x = Matrix::rows(&x, d_input);
    let y = product_of(size, x, matrix, bias.elements().as_deref());
    FloatTensor::<B>::from_vec(y, &shape)
}
