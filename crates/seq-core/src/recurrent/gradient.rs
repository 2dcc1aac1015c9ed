//! The gradient of [`RecurrenceOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Element;

use super::cpu::{Incoming, Saved};
use super::ops::{AnyKernel, Inputs, Kept, Plan, RecurrenceOps, Run, Slices, Typed};
use crate::autodiff::{Gradient, Maybe, absent, track};
use crate::cpu::{CpuTensor, Real};

/// An input's place among the parents of the node.
const PARENTS: usize = 8;

impl<B: RecurrenceOps, C: CheckpointStrategy> RecurrenceOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn recurrence(inputs: Inputs<Self>, plan: Plan, _keep: bool) -> Run<Self> {
        let like = inputs.x.clone();
        let mut present = [true; PARENTS];
        let mut parent = |place: usize, tensor| match tensor {
            Maybe::Some(tensor) => tensor,
            Maybe::None => {
                present[place] = false;
                absent::<B, C>(&like)
            }
        };
        let parents = [
            inputs.x,
            inputs.weight_ih,
            inputs.weight_hh,
            parent(3, inputs.bias_ih),
            parent(4, inputs.bias_hh),
            parent(5, inputs.weights),
            inputs.hidden,
            parent(7, inputs.cell),
        ];
        let gradient = RecurrenceGradient {
            plan: plan.clone(),
            present,
        };
        if present[7] {
            let [y, hidden, cell] =
                track::<B, C, _, PARENTS, _>(gradient, parents, |parents, keep| {
                    let run = B::recurrence(gather(parents, present), plan, keep);
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
                let run = B::recurrence(gather(parents, present), plan, keep);
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

fn gather<B: Backend>(parents: [FloatTensor<B>; PARENTS], present: [bool; PARENTS]) -> Inputs<B> {
    let optional = |place: usize, tensor| match present[place] {
        true => Maybe::Some(tensor),
        false => Maybe::None,
    };
    let [
        x,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        weights,
        hidden,
        cell,
    ] = parents;
    Inputs {
        x,
        weight_ih,
        weight_hh,
        bias_ih: optional(3, bias_ih),
        bias_hh: optional(4, bias_hh),
        weights: optional(5, weights),
        hidden,
        cell: optional(7, cell),
    }
}

#[derive(Debug, Clone)]
struct RecurrenceGradient {
    plan: Plan,
    present: [bool; PARENTS],
}

impl<B: Backend, const M: usize> Gradient<B, PARENTS, M> for RecurrenceGradient
where
    FloatTensor<B>: CpuTensor,
{
    type Kept = Kept;

    fn backward(
        &self,
        inputs: [FloatTensor<B>; PARENTS],
        kept: Kept,
        outputs: [Option<FloatTensor<B>>; M],
        wanted: [bool; PARENTS],
    ) -> [Option<FloatTensor<B>>; PARENTS] {
        let inputs = gather::<B>(inputs, self.present);
        let first = [wanted[0], wanted[1], wanted[2]];
        let gradients = match kept {
            Kept::F32(saved) => {
                backward_in::<B, f32, M>(&inputs, &self.plan, saved, outputs, first)
            }
            Kept::F64(saved) => {
                backward_in::<B, f64, M>(&inputs, &self.plan, saved, outputs, first)
            }
        };
        let mut wanted = wanted.into_iter();
        gradients.map(|gradient| {
            let wanted = wanted.next() == Some(true);
            gradient.filter(|_| wanted)
        })
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
