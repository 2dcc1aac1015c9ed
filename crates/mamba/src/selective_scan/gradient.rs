//! The gradient of [`SelectiveScanOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Element;
use seq_core::autodiff::{Gradient, Maybe, track};
use seq_core::cpu::{CpuTensor, Real};

use super::cpu::{Incoming, Saved, backward};
use super::ops::{Inputs, Kept, Plan, Run, SelectiveScanOps, Slices};

/// How many inputs there are.
const PARENTS: usize = 9;

impl<B: SelectiveScanOps, C: CheckpointStrategy> SelectiveScanOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn selective_scan(inputs: Inputs<Self>, plan: Plan, _keep: bool) -> Run<Self> {
        let parents = [
            Maybe::Some(inputs.u),
            Maybe::Some(inputs.delta),
            Maybe::Some(inputs.a),
            Maybe::Some(inputs.b),
            Maybe::Some(inputs.c),
            inputs.d,
            inputs.z,
            inputs.delta_bias,
            inputs.state,
        ];
        let gradient = ScanGradient { plan: plan.clone() };
        let [y, state] = track::<B, C, _, PARENTS, _>(gradient, parents, |parents, keep| {
            let run = B::selective_scan(gather(parents), plan, keep);
            ([run.y, run.state], run.kept)
        });
        Run {
            y,
            state,
            kept: None,
        }
    }
}

fn gather<B: Backend>(parents: [Maybe<B>; PARENTS]) -> Inputs<B> {
    let [
        Maybe::Some(u),
        Maybe::Some(delta),
        Maybe::Some(a),
        Maybe::Some(b),
        Maybe::Some(c),
        d,
        z,
        delta_bias,
        state,
    ] = parents
    else {
        unreachable!("the parents are those that were given")
    };
    Inputs {
        u,
        delta,
        a,
        b,
        c,
        d,
        z,
        delta_bias,
        state,
    }
}

#[derive(Debug, Clone)]
struct ScanGradient {
    plan: Plan,
}

impl<B: Backend> Gradient<B, PARENTS, 2> for ScanGradient
where
    FloatTensor<B>: CpuTensor,
{
    type Kept = Kept;

    fn backward(
        &self,
        inputs: [Maybe<B>; PARENTS],
        kept: Kept,
        outputs: [Option<FloatTensor<B>>; 2],
        _wanted: [bool; PARENTS],
    ) -> [Option<FloatTensor<B>>; PARENTS] {
        let inputs = gather(inputs);
        match kept {
            Kept::F32(saved) => backward_in::<B, f32>(&inputs, &self.plan, &saved, outputs),
            Kept::F64(saved) => backward_in::<B, f64>(&inputs, &self.plan, &saved, outputs),
        }
    }
}

fn backward_in<B: Backend, R: Real + Element>(
    inputs: &Inputs<B>,
    plan: &Plan,
    saved: &Saved<R>,
    outputs: [Option<FloatTensor<B>>; 2],
) -> [Option<FloatTensor<B>>; PARENTS]
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
    let gradients = backward(&problem, saved, &incoming);
    let tensor = |values: Vec<R>, like: &FloatTensor<B>| {
        Some(FloatTensor::<B>::from_vec(values, &like.shape()))
    };
    let optional = |values: Vec<R>, like: &Maybe<B>| match like {
        Maybe::Some(like) => tensor(values, like),
        Maybe::None => None,
    };
    [
        tensor(gradients.u, &inputs.u),
        tensor(gradients.delta, &inputs.delta),
        tensor(gradients.a, &inputs.a),
        tensor(gradients.b, &inputs.b),
        tensor(gradients.c, &inputs.c),
        optional(gradients.d, &inputs.d),
        optional(gradients.z, &inputs.z),
        optional(gradients.delta_bias, &inputs.delta_bias),
        optional(gradients.state, &inputs.state),
    ]
}
