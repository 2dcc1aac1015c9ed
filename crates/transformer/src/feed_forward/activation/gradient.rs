//! The gradient of [`ActivationOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Element};
use seq_core::autodiff::{Gradient, Maybe, track};
use seq_core::cpu::{CpuTensor, Real};

use super::ops::ActivationOps;
use super::{Activation, cpu};

impl<B: ActivationOps, C: CheckpointStrategy> ActivationOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn activate(
        x: FloatTensor<Self>,
        up: Maybe<Self>,
        activation: Activation,
    ) -> FloatTensor<Self> {
        let parents = [Maybe::Some(x), up];
        let [y] = track::<B, C, _, 2, 1>(ActivationGradient(activation), parents, |parents, _| {
            let (x, up) = gather(parents);
            ([B::activate(x, up, activation)], Some(()))
        });
        y
    }
}

fn gather<B: Backend>(parents: [Maybe<B>; 2]) -> (FloatTensor<B>, Maybe<B>) {
    let [Maybe::Some(x), up] = parents else {
        unreachable!("the parents are those that were given")
    };
    (x, up)
}

#[derive(Debug, Clone)]
struct ActivationGradient(Activation);

impl<B: Backend> Gradient<B, 2, 1> for ActivationGradient
where
    FloatTensor<B>: CpuTensor,
{
    type Kept = ();

    fn backward(
        &self,
        inputs: [Maybe<B>; 2],
        (): (),
        [y]: [Option<FloatTensor<B>>; 1],
        _wanted: [bool; 2],
    ) -> [Option<FloatTensor<B>>; 2] {
        let Some(y) = y else {
            return [None, None];
        };
        let (x, up) = gather(inputs);
        match x.dtype() {
            DType::F64 => backward_in::<B, f64>(&x, &up, &y, self.0),
            _ => backward_in::<B, f32>(&x, &up, &y, self.0),
        }
    }
}

fn backward_in<B: Backend, R: Real + Element>(
    x: &FloatTensor<B>,
    up: &Maybe<B>,
    y: &FloatTensor<B>,
    activation: Activation,
) -> [Option<FloatTensor<B>>; 2]
where
    FloatTensor<B>: CpuTensor,
{
    let up = up.elements::<R>();
    let (d_x, d_up) = cpu::backward(&x.elements(), up.as_deref(), &y.elements(), activation);
    let tensor = |values| FloatTensor::<B>::from_vec(values, &x.shape());
    [Some(tensor(d_x)), d_up.map(tensor)]
}
