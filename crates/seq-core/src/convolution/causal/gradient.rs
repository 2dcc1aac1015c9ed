//! The gradient of [`CausalConvOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Element};

use super::cpu::{Incoming, backward};
use super::ops::{CausalConvOps, Inputs, Outputs, Plan, Slices};
use crate::autodiff::{Gradient, Maybe, track};
use crate::cpu::{CpuTensor, Real};

impl<B: CausalConvOps, C: CheckpointStrategy> CausalConvOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn causal_conv(inputs: Inputs<Self>, plan: Plan) -> Outputs<Self> {
        let parents = [
            Maybe::Some(inputs.x),
            Maybe::Some(inputs.weight),
            inputs.bias,
            inputs.state,
        ];
        let gradient = ConvGradient { plan: plan.clone() };
        let [y, state] = track::<B, C, _, 4, 2>(gradient, parents, |parents, _| {
            let Outputs { y, state } = B::causal_conv(gather(parents), plan);
            ([y, state], Some(()))
        });
        Outputs { y, state }
    }
}

fn gather<B: Backend>(parents: [Maybe<B>; 4]) -> Inputs<B> {
    let [Maybe::Some(x), Maybe::Some(weight), bias, state] = parents else {
        unreachable!("the parents are those that were given")
    };
    Inputs {
        x,
        weight,
        bias,
        state,
    }
}

#[derive(Debug, Clone)]
struct ConvGradient {
    plan: Plan,
}

impl<B: Backend> Gradient<B, 4, 2> for ConvGradient
where
    FloatTensor<B>: CpuTensor,
{
    /// The sums before the SiLU are made again.
    type Kept = ();

    fn backward(
        &self,
        inputs: [Maybe<B>; 4],
        (): (),
        outputs: [Option<FloatTensor<B>>; 2],
        _wanted: [bool; 4],
    ) -> [Option<FloatTensor<B>>; 4] {
        let inputs = gather(inputs);
        match inputs.x.dtype() {
            DType::F64 => backward_in::<B, f64>(&inputs, &self.plan, outputs),
            _ => backward_in::<B, f32>(&inputs, &self.plan, outputs),
        }
    }
}

fn backward_in<B: Backend, R: Real + Element>(
    inputs: &Inputs<B>,
    plan: &Plan,
    outputs: [Option<FloatTensor<B>>; 2],
) -> [Option<FloatTensor<B>>; 4]
where
    FloatTensor<B>: CpuTensor,
{
    let slices = Slices::<R>::of(inputs);
    let problem = slices.problem(inputs, plan);
    let [y, state] = outputs
        .each_ref()
        .map(|output| output.as_ref().map(|output| output.elements::<R>()));
    let incoming = Incoming {
        y: y.as_deref(),
        state: state.as_deref(),
    };
    let gradients = backward(&problem, &incoming);
    let tensor = |values: Vec<R>, like: &FloatTensor<B>| {
        Some(FloatTensor::<B>::from_vec(values, &like.shape()))
    };
    let optional = |values: Vec<R>, like: &Maybe<B>| match like {
        Maybe::Some(like) => tensor(values, like),
        Maybe::None => None,
    };
    [
        tensor(gradients.x, &inputs.x),
        tensor(gradients.weight, &inputs.weight),
        optional(gradients.bias, &inputs.bias),
        optional(gradients.state, &inputs.state),
    ]
}
