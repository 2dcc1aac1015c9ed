//! Attention as Burn dispatches it.

use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};
use seq_core::autodiff::Maybe;
use seq_core::cpu::{CpuTensor, Real, Slice};

use super::cpu::{self, Problem, Spread};
use super::reach::Reach;
use super::{Attention, AttentionDropout};

/// Runs attention that has kernels.
pub(super) fn run(attention: Attention) -> Tensor<4> {
    let plan = Plan {
        reach: Arc::new(attention.reach()),
        scale: attention.scale(),
        softcap: attention.softcap,
        slopes: attention.alibi.map(Arc::from),
        dropout: attention.dropout.filter(|dropout| dropout.prob > 0.0),
    };
    let (device, dtype) = (attention.query.device(), attention.query.dtype());
    let mask = attention.mask.map(|mask| {
        let visible = Tensor::<4>::zeros(mask.dims(), (&device.inner(), dtype));
        visible.mask_fill(mask.bool_not(), f64::NEG_INFINITY)
    });
    let inputs = Inputs {
        query: attention.query.into_dispatch(),
        key: attention.key.into_dispatch(),
        value: attention.value.into_dispatch(),
        bias: attention.bias.map(Tensor::into_dispatch).into(),
        mask: mask.map(Tensor::into_dispatch).into(),
    };
    let Run { y, .. } = Dispatch::attention_map(inputs, plan, false);
    Tensor::from_dispatch(y)
}

/// [`Attention`] in a backend's own tensors.
#[derive(ExtensionType, Debug, Clone)]
pub struct Inputs<B: Backend> {
    pub query: FloatTensor<B>,
    pub key: FloatTensor<B>,
    pub value: FloatTensor<B>,
    #[extension_type]
    pub bias: Maybe<B>,
    /// Minus infinity where a key is hidden, zero elsewhere.
    #[extension_type]
    pub mask: Maybe<B>,
}

/// What a run gives.
#[derive(ExtensionType, Debug, Clone)]
pub struct Run<B: Backend> {
    pub y: FloatTensor<B>,
    pub kept: Option<Kept>,
}

/// What attention is besides its tensors.
#[derive(Debug, Clone)]
pub struct Plan {
    reach: Arc<Reach>,
    scale: f64,
    softcap: Option<f64>,
    slopes: Option<Arc<[f64]>>,
    dropout: Option<AttentionDropout>,
}

/// The logarithms of the sums of exponentials, of the element type that the forward pass ran in.
#[derive(Debug, Clone)]
pub enum Kept {
    F32(Arc<Vec<f32>>),
    F64(Arc<Vec<f64>>),
}

/// The operation; backends without kernels are never asked, as `Attention::run` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait AttentionOps: Backend {
    fn attention_map(#[extension_type] inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self>;
}

#[cfg(feature = "ndarray")]
impl AttentionOps for burn::backend::NdArray {
    fn attention_map(inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self> {
        run_on(&inputs, &plan, keep)
    }
}

#[cfg(feature = "flex")]
impl AttentionOps for burn::backend::Flex {
    fn attention_map(inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self> {
        run_on(&inputs, &plan, keep)
    }
}

fn run_on<B: Backend>(inputs: &Inputs<B>, plan: &Plan, keep: bool) -> Run<B>
where
    FloatTensor<B>: CpuTensor,
{
    match inputs.query.dtype() {
        DType::F64 => run_in::<B, f64>(inputs, plan, keep, |kept| Kept::F64(Arc::new(kept))),
        _ => run_in::<B, f32>(inputs, plan, keep, |kept| Kept::F32(Arc::new(kept))),
    }
}

fn run_in<B: Backend, R: Real + Element>(
    inputs: &Inputs<B>,
    plan: &Plan,
    keep: bool,
    kept: fn(Vec<R>) -> Kept,
) -> Run<B>
where
    FloatTensor<B>: CpuTensor,
{
    let slices = Slices::of(inputs);
    let problem = slices.problem(inputs, plan);
    let outputs = cpu::forward(&problem, keep);
    let shape = [
        problem.batch,
        problem.time_query,
        problem.heads,
        problem.d_value,
    ];
    Run {
        y: FloatTensor::<B>::from_vec(outputs.y, &shape),
        kept: keep.then(|| kept(outputs.log_sums)),
    }
}

/// The elements of all inputs.
pub(super) struct Slices<'a, R: Real> {
    query: Slice<'a, R>,
    key: Slice<'a, R>,
    value: Slice<'a, R>,
    bias: Option<Slice<'a, R>>,
    mask: Option<Slice<'a, R>>,
}

impl<'a, R: Real + Element> Slices<'a, R> {
    pub fn of<B: Backend>(inputs: &'a Inputs<B>) -> Self
    where
        FloatTensor<B>: CpuTensor,
    {
        Self {
            query: inputs.query.elements(),
            key: inputs.key.elements(),
            value: inputs.value.elements(),
            bias: inputs.bias.elements(),
            mask: inputs.mask.elements(),
        }
    }

    pub fn problem<'s, B: Backend>(&'s self, inputs: &Inputs<B>, plan: &'s Plan) -> Problem<'s, R> {
        let [batch, time_query, heads, d_head] = inputs.query.shape().dims();
        let [_, time_key, kv_heads, d_value] = inputs.value.shape().dims();
        let spread = |values: &'s Option<Slice<'a, R>>, tensor: &Maybe<B>| match tensor {
            Maybe::Some(tensor) => values.as_deref().map(|values| Spread {
                values,
                shape: tensor.shape().dims(),
            }),
            Maybe::None => None,
        };
        Problem {
            batch,
            time_query,
            time_key,
            heads,
            kv_heads,
            d_head,
            d_value,
            query: &self.query,
            key: &self.key,
            value: &self.value,
            scale: plan.scale,
            softcap: plan.softcap,
            slopes: plan.slopes.as_deref(),
            mask: spread(&self.mask, &inputs.mask),
            bias: spread(&self.bias, &inputs.bias),
            reach: &plan.reach,
            dropout: plan.dropout,
        }
    }
}
