//! The convolution as Burn dispatches it.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};

use super::CausalConv;
use super::cpu::{self, Problem};
use crate::Lengths;
use crate::autodiff::Maybe;
use crate::cpu::{CpuTensor, Real, Slice};

/// Whether the kernels run on these tensors.
pub(super) fn has_kernel(conv: &CausalConv) -> bool {
    let dtype = conv.x.dtype();
    matches!(dtype, DType::F32 | DType::F64)
        && conv.weight.dtype() == dtype
        && conv.bias.as_ref().is_none_or(|bias| bias.dtype() == dtype)
        && conv
            .state
            .as_ref()
            .is_none_or(|state| state.dtype() == dtype)
        && crate::is_cpu(&conv.x.device())
}

/// Runs a convolution that has kernels.
pub(super) fn run(conv: CausalConv) -> (Tensor<3>, Tensor<3>) {
    let plan = Plan {
        silu: conv.silu,
        lengths: conv.lengths,
        resets: conv.resets,
    };
    let inputs = Inputs {
        x: conv.x.into_dispatch(),
        weight: conv.weight.into_dispatch(),
        bias: conv.bias.map(Tensor::into_dispatch).into(),
        state: conv.state.map(Tensor::into_dispatch).into(),
    };
    let Outputs { y, state } = Dispatch::causal_conv(inputs, plan);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(state))
}

/// [`CausalConv`] in a backend's own tensors.
#[derive(ExtensionType, Debug, Clone)]
pub struct Inputs<B: Backend> {
    pub x: FloatTensor<B>,
    pub weight: FloatTensor<B>,
    #[extension_type]
    pub bias: Maybe<B>,
    #[extension_type]
    pub state: Maybe<B>,
}

/// What a run gives.
#[derive(ExtensionType, Debug, Clone)]
pub struct Outputs<B: Backend> {
    pub y: FloatTensor<B>,
    pub state: FloatTensor<B>,
}

/// What a convolution is besides its tensors.
#[derive(Debug, Clone)]
pub struct Plan {
    silu: bool,
    lengths: Option<Lengths>,
    resets: Option<Vec<Vec<bool>>>,
}

/// The operation; backends without kernels are never asked, as `CausalConv::run` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait CausalConvOps: Backend {
    fn causal_conv(#[extension_type] inputs: Inputs<Self>, plan: Plan) -> Outputs<Self>;
}

#[cfg(feature = "ndarray")]
impl CausalConvOps for burn::backend::NdArray {
    fn causal_conv(inputs: Inputs<Self>, plan: Plan) -> Outputs<Self> {
        run_on(&inputs, &plan)
    }
}

#[cfg(feature = "flex")]
impl CausalConvOps for burn::backend::Flex {
    fn causal_conv(inputs: Inputs<Self>, plan: Plan) -> Outputs<Self> {
        run_on(&inputs, &plan)
    }
}

fn run_on<B: Backend>(inputs: &Inputs<B>, plan: &Plan) -> Outputs<B>
where
    FloatTensor<B>: CpuTensor,
{
    match inputs.x.dtype() {
        DType::F64 => run_in::<B, f64>(inputs, plan),
        _ => run_in::<B, f32>(inputs, plan),
    }
}

fn run_in<B: Backend, R: Real + Element>(inputs: &Inputs<B>, plan: &Plan) -> Outputs<B>
where
    FloatTensor<B>: CpuTensor,
{
    let slices = Slices::<R>::of(inputs);
    let problem = slices.problem(inputs, plan);
    let (y, state) = cpu::forward(&problem);
    let kept = [problem.batch, problem.width, problem.d_conv - 1];
    Outputs {
        y: FloatTensor::<B>::from_vec(y, &inputs.x.shape()),
        state: FloatTensor::<B>::from_vec(state, &kept),
    }
}

/// The elements of all inputs.
pub(super) struct Slices<'a, R: Real> {
    x: Slice<'a, R>,
    weight: Slice<'a, R>,
    bias: Option<Slice<'a, R>>,
    state: Option<Slice<'a, R>>,
}

impl<'a, R: Real + Element> Slices<'a, R> {
    pub fn of<B: Backend>(inputs: &'a Inputs<B>) -> Self
    where
        FloatTensor<B>: CpuTensor,
    {
        Self {
            x: inputs.x.elements(),
            weight: inputs.weight.elements(),
            bias: inputs.bias.elements(),
            state: inputs.state.elements(),
        }
    }

    pub fn problem<'s, B: Backend>(&'s self, inputs: &Inputs<B>, plan: &'s Plan) -> Problem<'s, R> {
        let [batch, time, width] = inputs.x.shape().dims();
        let [_, d_conv] = inputs.weight.shape().dims();
        Problem {
            batch,
            time,
            width,
            d_conv,
            x: &self.x,
            weight: &self.weight,
            bias: self.bias.as_deref(),
            silu: plan.silu,
            state: self.state.as_deref(),
            lengths: plan.lengths.as_ref().map(Lengths::as_slice),
            resets: plan.resets.as_deref(),
        }
    }
}
