//! The gradient of [`RecurrenceOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Element;

use super::cpu::{Incoming, Saved};
use super::ops::{AnyKernel, Inputs, Kept, Plan, RecurrenceOps, Run, Slices, Typed};
use crate::autodiff::{Gradient, Maybe, track};
use crate::cpu::{CpuTensor, Real};

/// How many inputs there are.
const PARENTS: usize = 8;

impl<B: RecurrenceOps, C: CheckpointStrategy> RecurrenceOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn recurrence(inputs: Inputs<Self>, plan: Plan, _keep: bool) -> Run<Self> {
        let has_memory = matches!(inputs.cell, Maybe::Some(_));
        let parents = [
            Maybe::Some(inputs.x),
            Maybe::Some(inputs.weight_ih),
            Maybe::Some(inputs.weight_hh),
            inputs.bias_ih,
            inputs.bias_hh,
            inputs.weights,
            Maybe::Some(inputs.hidden),
            inputs.cell,
        ];
        let gradient = RecurrenceGradient { plan: plan.clone() };
        if has_memory {
            let [y, hidden, cell] =
                track::<B, C, _, PARENTS, _>(gradient, parents, |parents, keep| {
                    let run = B::recurrence(gather(parents), plan, keep);
                    let Maybe::Some(cell) = run.cell else {
                        unreachable!("a cell state was given")
                    };
                    ([run.y, run.hidden, cell], run.kept)
                });
            Run {
                y,
                hidden,
                cell: Maybe::Some(cell),
                kept: None,
            }
        } else {
            let [y, hidden] = track::<B, C, _, PARENTS, _>(gradient, parents, |parents, keep| {
                let run = B::recurrence(gather(parents), plan, keep);
                ([run.y, run.hidden], run.kept)
            });
            Run {
                y,
                hidden,
                cell: Maybe::None,
                kept: None,
            }
        }
    }
}

fn gather<B: Backend>(parents: [Maybe<B>; PARENTS]) -> Inputs<B> {
    let [
        Maybe::Some(x),
        Maybe::Some(weight_ih),
        Maybe::Some(weight_hh),
        bias_ih,
        bias_hh,
        weights,
        Maybe::Some(hidden),
        cell,
    ] = parents
    else {
        unreachable!("the parents are those that were given")
    };
    Inputs {
        x,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        weights,
        hidden,
        cell,
    }
}

#[derive(Debug, Clone)]
struct RecurrenceGradient {
    plan: Plan,
}

impl<B: Backend, const M: usize> Gradient<B, PARENTS, M> for RecurrenceGradient
where
    FloatTensor<B>: CpuTensor,
{
    type Kept = Kept;

    fn backward(
        &self,
        inputs: [Maybe<B>; PARENTS],
        kept: Kept,
        outputs: [Option<FloatTensor<B>>; M],
        wanted: [bool; PARENTS],
    ) -> [Option<FloatTensor<B>>; PARENTS] {
        let inputs = gather(inputs);
        let first = [wanted[0], wanted[1], wanted[2]];
        match kept {
            Kept::F32(saved) => {
                backward_in::<B, f32, M>(&inputs, &self.plan, saved, outputs, first)
            }
            Kept::F64(saved) => {
                backward_in::<B, f64, M>(&inputs, &self.plan, saved, outputs, first)
            }
        }
    }
}

fn backward_in<B: Backend, R: Real + Element, const M: usize>(
    inputs: &Inputs<B>,
    plan: &Plan,
    saved: Saved<R>,
    outputs: [Option<FloatTensor<B>>; M],
    wanted: [bool; 3],
) -> [Option<FloatTensor<B>>; PARENTS]
where
    FloatTensor<B>: CpuTensor,
    dyn AnyKernel: Typed<R>,
{
    let slices = Slices::<R>::of(inputs);
    let problem = slices.problem(inputs, plan);
    let mut outputs = outputs
        .iter()
        .map(|output| output.as_ref().map(|output| output.elements::<R>()));
    let mut output = || outputs.next().flatten();
    let (y, hidden, cell) = (output(), output(), output());
    let incoming = Incoming {
        y: y.as_deref(),
        hidden: hidden.as_deref(),
        cell: cell.as_deref(),
    };
    let gradients = Typed::<R>::backward(&*plan.kernel, &problem, saved, incoming, wanted);
    let tensor =
        |values: Vec<R>, like: &FloatTensor<B>| FloatTensor::<B>::from_vec(values, &like.shape());
    let optional = |values: Vec<R>, like: &Maybe<B>| match like {
        Maybe::Some(like) => Some(tensor(values, like)),
        Maybe::None => None,
    };
    [
        gradients.x.map(|x| tensor(x, &inputs.x)),
        gradients
            .weight_ih
            .map(|weight| tensor(weight, &inputs.weight_ih)),
        gradients
            .weight_hh
            .map(|weight| tensor(weight, &inputs.weight_hh)),
        optional(gradients.bias_ih, &inputs.bias_ih),
        optional(gradients.bias_hh, &inputs.bias_hh),
        optional(gradients.weights, &inputs.weights),
        Some(tensor(gradients.hidden, &inputs.hidden)),
        optional(gradients.cell, &inputs.cell),
    ]
}
