//! The gradient of [`GatedNormOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Element};
use seq_core::autodiff::{Gradient, Maybe, track};
use seq_core::cpu::{CpuTensor, Real};

use super::Options;
use super::cpu::{Problem, backward};
use super::ops::GatedNormOps;

impl<B: GatedNormOps, C: CheckpointStrategy> GatedNormOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn gated_norm(
        y: FloatTensor<Self>,
        z: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        options: Options,
    ) -> FloatTensor<Self> {
        let parents = [y, z, weight].map(Maybe::Some);
        let [y] = track::<B, C, _, 3, 1>(NormGradient(options), parents, |parents, _| {
            let [y, z, weight] = present(parents);
            ([B::gated_norm(y, z, weight, options)], Some(()))
        });
        y
    }
}

fn present<B: Backend>(parents: [Maybe<B>; 3]) -> [FloatTensor<B>; 3] {
    parents.map(|parent| match parent {
        Maybe::Some(tensor) => tensor,
        Maybe::None => unreachable!("all inputs are there"),
    })
}

#[derive(Debug, Clone)]
struct NormGradient(Options);

impl<B: Backend> Gradient<B, 3, 1> for NormGradient
where
    FloatTensor<B>: CpuTensor,
{
    type Kept = ();

    fn backward(
        &self,
        inputs: [Maybe<B>; 3],
        (): (),
        [output]: [Option<FloatTensor<B>>; 1],
        _wanted: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let Some(output) = output else {
            return [None, None, None];
        };
        let inputs = present(inputs);
        match output.dtype() {
            DType::F64 => backward_in::<B, f64>(&inputs, &output, self.0),
            _ => backward_in::<B, f32>(&inputs, &output, self.0),
        }
    }
}

fn backward_in<B: Backend, R: Real + Element>(
    [y, z, weight]: &[FloatTensor<B>; 3],
    output: &FloatTensor<B>,
    options: Options,
) -> [Option<FloatTensor<B>>; 3]
where
    FloatTensor<B>: CpuTensor,
{
    let problem = Problem::<R> {
        y: &y.elements(),
        z: &z.elements(),
        weight: &weight.elements(),
        options,
    };
    let [d_y, d_z, d_weight] = backward(&problem, &output.elements());
    [(d_y, y), (d_z, z), (d_weight, weight)]
        .map(|(values, like)| Some(FloatTensor::<B>::from_vec(values, &like.shape())))
}
