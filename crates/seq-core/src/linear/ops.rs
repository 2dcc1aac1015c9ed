//! The linear map as Burn dispatches it.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};

use crate::PackedWeights;
use crate::autodiff::Maybe;
use crate::cpu::{CpuTensor, Matrix, Panels, Real, keeps_memory, product_of, product_with};

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

/// What the right side of a map is besides its tensors.
#[derive(Debug)]
pub struct Side {
    /// Whether the weight is `[d_output, d_input]`.
    pub transposed: bool,
    /// Where its panels are kept.
    pub packed: Option<PackedWeights>,
}

/// Fewer rows read the weights where they lie or pack them in passing, and leave the memory to others.
const WORTH_KEEPING: usize = 64;

/// Runs a map that has kernels.
pub(super) fn run<const D: usize>(
    x: Tensor<D>,
    weight: Tensor<2>,
    bias: Option<Tensor<1>>,
    side: Side,
) -> Tensor<D> {
    let bias = bias.map(Tensor::into_dispatch).into();
    let y = Dispatch::linear_map(x.into_dispatch(), weight.into_dispatch(), bias, side);
    Tensor::from_dispatch(y)
}

/// The operation; backends without kernels are never asked, as `linear` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait LinearOps: Backend {
    fn linear_map(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        #[extension_type] bias: Maybe<Self>,
        side: Side,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "ndarray")]
impl LinearOps for burn::backend::NdArray {
    fn linear_map(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        side: Side,
    ) -> FloatTensor<Self> {
        run_on::<Self>(&x, &weight, &bias, &side)
    }
}

#[cfg(feature = "flex")]
impl LinearOps for burn::backend::Flex {
    fn linear_map(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        side: Side,
    ) -> FloatTensor<Self> {
        run_on::<Self>(&x, &weight, &bias, &side)
    }
}

fn run_on<B: Backend>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    bias: &Maybe<B>,
    side: &Side,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    match x.dtype() {
        DType::F64 => run_in::<B, f64>(x, weight, bias, side),
        _ => run_in::<B, f32>(x, weight, bias, side),
    }
}

fn run_in<B: Backend, R: Real + Element>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    bias: &Maybe<B>,
    side: &Side,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    let [rows, columns] = weight.shape().dims();
    let elements = weight.elements::<R>();
    let matrix = Matrix::rows(&elements, columns);
    let ([d_input, d_output], matrix) = match side.transposed {
        true => ([columns, rows], matrix.transposed()),
        false => ([rows, columns], matrix),
    };
    let mut shape = x.shape().to_vec();
    *shape.last_mut().expect("an axis") = d_output;
    let rows = shape[..shape.len() - 1].iter().product();
    let size = [rows, d_input, d_output];
    let x = x.elements();
    let x = Matrix::rows(&x, d_input);
    let bias = bias.elements();
    let y = match &side.packed {
        Some(packed) if rows >= WORTH_KEEPING && keeps_memory() => {
            let pack = || Panels::new(matrix, [d_input, d_output]);
            let panels = packed.get::<B, R, _, 1>([weight], true, pack);
            product_with(size, x, matrix, &panels, bias.as_deref())
        }
        _ => product_of(size, x, matrix, bias.as_deref()),
    };
    FloatTensor::<B>::from_vec(y, &shape)
}
