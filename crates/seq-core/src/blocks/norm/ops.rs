//! The norm as Burn dispatches it.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};

use super::Options;
use super::cpu::{Problem, forward};
use crate::autodiff::Maybe;
use crate::cpu::{CpuTensor, Real};

/// Whether the kernels run on these tensors.
pub(super) fn has_kernel<const D: usize>(
    x: &Tensor<D>,
    gamma: &Tensor<1>,
    beta: Option<&Tensor<1>>,
) -> bool {
    let dtype = x.dtype();
    matches!(dtype, DType::F32 | DType::F64)
        && gamma.dtype() == dtype
        && beta.is_none_or(|beta| beta.dtype() == dtype)
        && crate::is_cpu(&x.device())
}

/// Runs a norm that has kernels.
pub(super) fn run<const D: usize>(
    x: Tensor<D>,
    gamma: Tensor<1>,
    beta: Option<Tensor<1>>,
    options: Options,
) -> Tensor<D> {
    let beta = beta.map(Tensor::into_dispatch).into();
    let y = Dispatch::norm(x.into_dispatch(), gamma.into_dispatch(), beta, options);
    Tensor::from_dispatch(y)
}

/// The operation; backends without kernels are never asked, as `Norm::forward` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait NormOps: Backend {
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        #[extension_type] beta: Maybe<Self>,
        options: Options,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "ndarray")]
impl NormOps for burn::backend::NdArray {
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: Maybe<Self>,
        options: Options,
    ) -> FloatTensor<Self> {
        run_on::<Self>(&x, &gamma, &beta, options)
    }
}

#[cfg(feature = "flex")]
impl NormOps for burn::backend::Flex {
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: Maybe<Self>,
        options: Options,
    ) -> FloatTensor<Self> {
        run_on::<Self>(&x, &gamma, &beta, options)
    }
}

fn run_on<B: Backend>(
    x: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    beta: &Maybe<B>,
    options: Options,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    match x.dtype() {
        DType::F64 => run_in::<B, f64>(x, gamma, beta, options),
        _ => run_in::<B, f32>(x, gamma, beta, options),
    }
}

fn run_in<B: Backend, R: Real + Element>(
    x: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    beta: &Maybe<B>,
    options: Options,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    let problem = Problem::<R> {
        x: &x.elements(),
        gamma: &gamma.elements(),
        options,
    };
    let y = forward(&problem, beta.elements().as_deref());
    FloatTensor::<B>::from_vec(y, &x.shape())
}
