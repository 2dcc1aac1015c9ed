//! The norm with a gate as Burn dispatches it.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};
use seq_core::cpu::{CpuTensor, Real};

use super::cpu::{Problem, forward};
use super::{GatedNorm, Options};

/// Runs a norm that has kernels.
pub(super) fn run(norm: GatedNorm) -> Tensor<3> {
    let y = Dispatch::gated_norm(
        norm.y.into_dispatch(),
        norm.z.into_dispatch(),
        norm.weight.into_dispatch(),
        norm.options,
    );
    Tensor::from_dispatch(y)
}

/// The operation; backends without kernels are never asked, as `GatedNorm::run` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait GatedNormOps: Backend {
    fn gated_norm(
        y: FloatTensor<Self>,
        z: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Options,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "ndarray")]
impl GatedNormOps for burn::backend::NdArray {
    fn gated_norm(
        y: FloatTensor<Self>,
        z: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Options,
    ) -> FloatTensor<Self> {
        run_on::<Self>(&y, &z, &weight, options)
    }
}

#[cfg(feature = "flex")]
impl GatedNormOps for burn::backend::Flex {
    fn gated_norm(
        y: FloatTensor<Self>,
        z: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Options,
    ) -> FloatTensor<Self> {
        run_on::<Self>(&y, &z, &weight, options)
    }
}

fn run_on<B: Backend>(
    y: &FloatTensor<B>,
    z: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    options: Options,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    match y.dtype() {
        DType::F64 => run_in::<B, f64>(y, z, weight, options),
        _ => run_in::<B, f32>(y, z, weight, options),
    }
}

fn run_in<B: Backend, R: Real + Element>(
    y: &FloatTensor<B>,
    z: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    options: Options,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    let problem = Problem::<R> {
        y: &y.elements(),
        z: &z.elements(),
        weight: &weight.elements(),
        options,
    };
    FloatTensor::<B>::from_vec(forward(&problem), &y.shape())
}
