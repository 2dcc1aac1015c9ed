//! The gradient of [`NormOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Element};

use super::Options;
use super::cpu::{Problem, backward};
use super::ops::NormOps;
use crate::autodiff::{Gradient, Maybe, track};
use crate::cpu::{CpuTensor, Real};

impl<B: NormOps, C: CheckpointStrategy> NormOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn norm(
        x: FloatTensor<Self>,
        gamma: FloatTensor<Self>,
        beta: Maybe<Self>,
        options: Options,
    ) -> FloatTensor<Self> {
        let parents = [Maybe::Some(x), Maybe::Some(gamma), beta];
        let [y] = track::<B, C, _, 3, 1>(NormGradient(options), parents, |parents, _| {
            let (x, gamma, beta) = gather(parents);
            ([B::norm(x, gamma, beta, options)], Some(()))
        });
        y
    }
}

fn gather<B: Backend>(parents: [Maybe<B>; 3]) -> (FloatTensor<B>, FloatTensor<B>, Maybe<B>) {
    let [Maybe::Some(x), Maybe::Some(gamma), beta] = parents else {
        unreachable!("the parents are those that were given")
    };
    (x, gamma, beta)
}

#[derive(Debug, Clone)]
struct NormGradient(Options);

impl<B: Backend> Gradient<B, 3, 1> for NormGradient
where
    FloatTensor<B>: CpuTensor,
{
    type Kept = ();

    fn needed(&self) -> [bool; 3] {
        [true, true, false]
    }

    fn backward(
        &self,
        inputs: [Maybe<B>; 3],
        (): (),
        [y]: [Option<FloatTensor<B>>; 1],
        _wanted: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let Some(y) = y else {
            return [None, None, None];
        };
        let (x, gamma, _) = gather(inputs);
        match x.dtype() {
            DType::F64 => backward_in::<B, f64>(&x, &gamma, &y, self.0),
            _ => backward_in::<B, f32>(&x, &gamma, &y, self.0),
        }
    }
}

/// The gradients of x, gamma and beta, given that of y.
fn backward_in<B: Backend, R: Real + Element>(
    x: &FloatTensor<B>,
    gamma: &FloatTensor<B>,
    y: &FloatTensor<B>,
    options: Options,
) -> [Option<FloatTensor<B>>; 3]
where
    FloatTensor<B>: CpuTensor,
{
    let problem = Problem::<R> {
        x: &x.elements(),
        gamma: &gamma.elements(),
        options,
    };
    let [dx, dgamma, dbeta] = backward(&problem, &y.elements());
    // Beta is as wide as gamma.
    [(dx, x), (dgamma, gamma), (dbeta, gamma)]
        .map(|(values, like)| Some(FloatTensor::<B>::from_vec(values, &like.shape())))
}
