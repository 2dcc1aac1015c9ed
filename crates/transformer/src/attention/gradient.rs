//! The gradient of [`AttentionOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::Element;
use seq_core::autodiff::{Gradient, Maybe, track};
use seq_core::cpu::{CpuTensor, Real};

use super::cpu::{Given, backward};
use super::ops::{AttentionOps, Inputs, Kept, Plan, Run, Slices};

/// How many inputs there are.
const PARENTS: usize = 5;

impl<B: AttentionOps, C: CheckpointStrategy> AttentionOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn attention_map(inputs: Inputs<Self>, plan: Plan, _keep: bool) -> Run<Self> {
        let parents = [
            Maybe::Some(inputs.query),
            Maybe::Some(inputs.key),
            Maybe::Some(inputs.value),
            inputs.bias,
            inputs.mask,
        ];
        let gradient = AttentionGradient { plan: plan.clone() };
        let [y] = track::<B, C, _, PARENTS, 1>(gradient, parents, |parents, keep| {
            let run = B::attention_map(gather(parents), plan, keep);
            let kept = run.kept.map(|log_sums| (run.y.clone(), log_sums));
            ([run.y], kept)
        });
        Run { y, kept: None }
    }
}

fn gather<B: Backend>(parents: [Maybe<B>; PARENTS]) -> Inputs<B> {
    let [
        Maybe::Some(query),
        Maybe::Some(key),
        Maybe::Some(value),
        bias,
        mask,
    ] = parents
    else {
        unreachable!("the parents are those that were given")
    };
    Inputs {
        query,
        key,
        value,
        bias,
        mask,
    }
}

#[derive(Debug, Clone)]
struct AttentionGradient {
    plan: Plan,
}

impl<B: Backend> Gradient<B, PARENTS, 1> for AttentionGradient
where
    FloatTensor<B>: CpuTensor,
{
    /// The output, and the logarithms of the sums.
    type Kept = (FloatTensor<B>, Kept);

    fn backward(
        &self,
        inputs: [Maybe<B>; PARENTS],
        (y, kept): Self::Kept,
        [gradient]: [Option<FloatTensor<B>>; 1],
        _wanted: [bool; PARENTS],
    ) -> [Option<FloatTensor<B>>; PARENTS] {
        let Some(gradient) = gradient else {
            return [None, None, None, None, None];
        };
        let inputs = gather(inputs);
        let plan = &self.plan;
        match kept {
            Kept::F32(log_sums) => backward_in::<B, f32>(&inputs, plan, &log_sums, &y, &gradient),
            Kept::F64(log_sums) => backward_in::<B, f64>(&inputs, plan, &log_sums, &y, &gradient),
        }
    }
}

fn backward_in<B: Backend, R: Real + Element>(
    inputs: &Inputs<B>,
    plan: &Plan,
    log_sums: &[R],
    y: &FloatTensor<B>,
    gradient: &FloatTensor<B>,
) -> [Option<FloatTensor<B>>; PARENTS]
where
    FloatTensor<B>: CpuTensor,
{
    let slices = Slices::<R>::of(inputs);
    let problem = slices.problem(inputs, plan);
    let given = Given {
        y: &y.elements::<R>(),
        gradient: &gradient.elements::<R>(),
        log_sums,
    };
    let gradients = backward(&problem, &given);
    let tensor = |values: Vec<R>, like: &FloatTensor<B>| {
        Some(FloatTensor::<B>::from_vec(values, &like.shape()))
    };
    let bias = match &inputs.bias {
        Maybe::Some(bias) => tensor(gradients.bias, bias),
        Maybe::None => None,
    };
    [
        tensor(gradients.query, &inputs.query),
        tensor(gradients.key, &inputs.key),
        tensor(gradients.value, &inputs.value),
        bias,
        None,
    ]
}
