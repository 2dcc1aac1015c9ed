//! The gradient of [`SsdOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Element;
use seq_core::autodiff::{Gradient, Maybe, track};
use seq_core::cpu::{CpuTensor, Real};

use super::cpu::{Incoming, Saved, backward};
use super::ops::{Inputs, Kept, Plan, Run, Slices, SsdOps};

/// How many inputs there are.
const PARENTS: usize = 7;

impl<B: SsdOps, C: CheckpointStrategy> SsdOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn ssd(inputs: Inputs<Self>, plan: Plan, _keep: bool) -> Run<Self> {
        let parents = [
            Maybe::Some(inputs.x),
            Maybe::Some(inputs.log_decay),
            Maybe::Some(inputs.b),
            Maybe::Some(inputs.c),
            inputs.dt,
            inputs.d,
            inputs.state,
        ];
        let gradient = SsdGradient { plan: plan.clone() };
        let [y, state] = track::<B, C, _, PARENTS, _>(gradient, parents, |parents, keep| {
            let run = B::ssd(gather(parents), plan, keep);
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
        Maybe::Some(x),
        Maybe::Some(log_decay),
        Maybe::Some(b),
        Maybe::Some(c),
        dt,
        d,
        state,
    ] = parents
    else {
        unreachable!("the parents are those that were given")
    };
    Inputs {
        x,
        log_decay,
        b,
        c,
        dt,
        d,
        state,
    }
}

#[derive(Debug, Clone)]
struct SsdGradient {
    plan: Plan,
}

impl<B: Backend> Gradient<B, PARENTS, 2> for SsdGradient
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
        tensor(gradients.x, &inputs.x),
        tensor(gradients.log_decay, &inputs.log_decay),
        tensor(gradients.b, &inputs.b),
        tensor(gradients.c, &inputs.c),
        optional(gradients.dt, &inputs.dt),
        optional(gradients.d, &inputs.d),
        optional(gradients.state, &inputs.state),
    ]
}
