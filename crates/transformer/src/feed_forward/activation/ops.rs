//! The activations as Burn dispatches them.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};
use seq_core::autodiff::Maybe;
use seq_core::cpu::{CpuTensor, Real};

use super::{Activation, cpu};

/// Runs an activation that has kernels, of `up` times it if there is one.
pub(super) fn run<const D: usize>(
    x: Tensor<D>,
    up: Option<Tensor<D>>,
    activation: Activation,
) -> Tensor<D> {
    let up = up.map(Tensor::into_dispatch).into();
    Tensor::from_dispatch(Dispatch::activate(x.into_dispatch(), up, activation))
}

/// The operation; backends without kernels are never asked, as `Activation` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait ActivationOps: Backend {
    fn activate(
        x: FloatTensor<Self>,
        #[extension_type] up: Maybe<Self>,
        activation: Activation,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "ndarray")]
impl ActivationOps for burn::backend::NdArray {
    fn activate(
        x: FloatTensor<Self>,
        up: Maybe<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        run_on::<Self>(x, &up, activation)
    }
}

#[cfg(feature = "flex")]
impl ActivationOps for burn::backend::Flex {
    fn activate(
        x: FloatTensor<Self>,
        up: Maybe<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        run_on::<Self>(x, &up, activation)
    }
}

fn run_on<B: Backend>(x: FloatTensor<B>, up: &Maybe<B>, activation: Activation) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    match x.dtype() {
        DType::F64 => run_in::<B, f64>(x, up, activation),
        _ => run_in::<B, f32>(x, up, activation),
    }
}

fn run_in<B: Backend, R: Real + Element>(
    mut x: FloatTensor<B>,
    up: &Maybe<B>,
    activation: Activation,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    let up = up.elements::<R>();
    if let Some(elements) = x.elements_mut::<R>() {
        cpu::forward_in_place(elements, up.as_deref(), activation);
        return x;
    }
    let y = cpu::forward(&x.elements(), up.as_deref(), activation);
    FloatTensor::<B>::from_vec(y, &x.shape())
}
