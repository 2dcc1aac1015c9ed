//! The rotation as Burn dispatches it.

use std::borrow::Cow;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};
use seq_core::cpu::{CpuTensor, Real};

use super::Turn;
use super::cpu::Problem;
use crate::positions::Rows;

/// Whether the kernels run on this tensor.
pub(super) fn has_kernel(x: &Tensor<4>) -> bool {
    matches!(x.dtype(), DType::F32 | DType::F64) && seq_core::is_cpu(&x.device())
}

/// Runs a rotation that has kernels.
pub(super) fn run(x: Tensor<4>, turn: &Turn<'_>) -> Tensor<4> {
    Tensor::from_dispatch(Dispatch::rotate(x.into_dispatch(), turn))
}

/// The operation; backends without kernels are never asked, as `Rotary::forward` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait RotaryOps: Backend {
    fn rotate(x: FloatTensor<Self>, turn: &Turn<'_>) -> FloatTensor<Self>;
}

#[cfg(feature = "ndarray")]
impl RotaryOps for burn::backend::NdArray {
    fn rotate(x: FloatTensor<Self>, turn: &Turn<'_>) -> FloatTensor<Self> {
        run_on::<Self>(x, turn)
    }
}

#[cfg(feature = "flex")]
impl RotaryOps for burn::backend::Flex {
    fn rotate(x: FloatTensor<Self>, turn: &Turn<'_>) -> FloatTensor<Self> {
        run_on::<Self>(x, turn)
    }
}

fn run_on<B: Backend>(x: FloatTensor<B>, turn: &Turn<'_>) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    match &turn.rows {
        Rows::F64(rows) => run_in::<B, f64>(x, rows, turn),
        Rows::F32(rows) => run_in::<B, f32>(x, rows, turn),
    }
}

fn run_in<B: Backend, R: Real + Element>(
    mut x: FloatTensor<B>,
    rows: &[R],
    turn: &Turn<'_>,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    let shape = x.shape();
    let problem = Problem {
        shape: shape.dims(),
        rows,
        turn,
    };
    if let Some(elements) = x.elements_mut() {
        problem.in_place(elements);
        return x;
    }
    let turned = match x.elements() {
        Cow::Borrowed(elements) => problem.copied(elements),
        Cow::Owned(mut elements) => {
            problem.in_place(&mut elements);
            elements
        }
    };
    FloatTensor::<B>::from_vec(turned, &shape)
}
