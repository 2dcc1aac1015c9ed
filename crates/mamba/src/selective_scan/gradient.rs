//! The gradient of [`SelectiveScanOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Element;
use seq_core::autodiff::{Gradient, Maybe, absent, track};
use seq_core::cpu::{CpuTensor, Real};

use super::cpu::{Incoming, Saved, backward};
use super::ops::{Inputs, Kept, Plan, Run, SelectiveScanOps, Slices};

/// An input's place among the parents of the node.
const PARENTS: usize = 9;

impl<B: SelectiveScanOps, C: CheckpointStrategy> SelectiveScanOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn selective_scan(inputs: Inputs<Self>, plan: Plan, _keep: bool) -> Run<Self> {
        let like = inputs.u.clone();
        let mut present = [true; PARENTS];
        let mut parent = |place: usize, tensor| match tensor {
            Maybe::Some(tensor) => tensor,
            Maybe::None => {
                present[place] = false;
                absent::<B, C>(&like)
            }
        };
        let parents = [
            inputs.u,
            inputs.delta,
            inputs.a,
            inputs.b,
            inputs.c,
            parent(5, inputs.d),
            parent(6, inputs.z),
            parent(7, inputs.delta_bias),
            parent(8, inputs.state),
        ];
        let gradient = ScanGradient {
            plan: plan.clone(),
            present,
        };
        let [y, state] = track::<B, C, _, PARENTS, _>(gradient, parents, |parents, keep| {
            let run = B::selective_scan(gather(parents, present), plan, keep);
            ([run.y, run.state], run.kept)
        });
        Run {
            y,
            state,
            kept: None,
        }
    }
}

fn gather<B: Backend>(parents: [FloatTensor<B>; PARENTS], present: [bool; PARENTS]) -> Inputs<B> {
    let optional = |place: usize, tensor| match present[place] {
        true => Maybe::Some(tensor),
        false => Maybe::None,
    };
    let [u, delta, a, b, c, d, z, delta_bias, state] = parents;
    Inputs {
        u,
        delta,
        a,
        b,
        c,
        d: optional(5, d),
        z: optional(6, z),
        delta_bias: optional(7, delta_bias),
        state: optional(8, state),
    }
}

#[derive(Debug, Clone)]
struct ScanGradient {
    plan: Plan,
    present: [bool; PARENTS],
}

impl<B: Backend> Gradient<B, PARENTS, 2> for ScanGradient
where
    FloatTensor<B>: CpuTensor,
{
    type Kept = Kept;

    fn backward(
        &self,
        inputs: [FloatTensor<B>; PARENTS],
        kept: Kept,
        outputs: [Option<FloatTensor<B>>; 2],
        wanted: [bool; PARENTS],
    ) -> [Option<FloatTensor<B>>; PARENTS] {
        let inputs = gather::<B>(inputs, self.present);
        let gradients = match kept {
            Kept::F32(saved) => backward_in::<B, f32>(&inputs, &self.plan, &saved, outputs),
            Kept::F64(saved) => backward_in::<B, f64>(&inputs, &self.plan, &saved, outputs),
        };
        let mut wanted = wanted.into_iter().zip(self.present);
        gradients.map(|gradient| {
            let wanted = wanted.next() == Some((true, true));
            wanted.then_some(gradient)
        })
    }
}

fn backward_in<B: Backend, R: Real + Element>(
    inputs: &Inputs<B>,
    plan: &Plan,
    saved: &Saved<R>,
    outputs: [Option<FloatTensor<B>>; 2],
) -> [FloatTensor<B>; PARENTS]
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
    let tensor = |values: Vec<R>, shape: &[usize]| FloatTensor::<B>::from_vec(values, shape);
    let channels = [problem.d_inner];
    let state = [problem.batch, problem.d_inner, problem.d_state];
    let u = inputs.u.shape();
    let z: &[usize] = if gradients.z.is_empty() { &[0] } else { &u };
    [
        tensor(gradients.u, &u),
        tensor(gradients.delta, &u),
        tensor(gradients.a, &inputs.a.shape()),
        tensor(gradients.b, &inputs.b.shape()),
        tensor(gradients.c, &inputs.c.shape()),
        tensor(gradients.d, &channels),
        tensor(gradients.z, z),
        tensor(gradients.delta_bias, &channels),
        tensor(gradients.state, &state),
    ]
}
