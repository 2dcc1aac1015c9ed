//! The selective scan as Burn dispatches it.

use std::fmt::Debug;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};
use seq_core::Lengths;
use seq_core::autodiff::Maybe;
use seq_core::cpu::{CpuTensor, Real, Slice};

use super::cpu::{self, Problem, Projected, Saved};
use super::{Projection, SelectiveScan};

/// Runs a scan that has kernels.
pub(super) fn run(scan: SelectiveScan) -> (Tensor<3>, Tensor<3>) {
    let projected = |projection: Projection| match projection {
        Projection::Constant(x) => (x.into_dispatch(), None),
        Projection::Varying(x) => {
            let [_, _, groups, _] = x.dims();
            (x.into_dispatch(), Some(groups))
        }
    };
    let ((b, b_groups), (c, c_groups)) = (projected(scan.b), projected(scan.c));
    let plan = Plan {
        b_groups,
        c_groups,
        delta_softplus: scan.delta_softplus,
        lengths: scan.lengths,
        resets: scan.resets,
    };
    let inputs = Inputs {
        u: scan.u.into_dispatch(),
        delta: scan.delta.into_dispatch(),
        a: scan.a.into_dispatch(),
        b,
        c,
        d: scan.d.map(Tensor::into_dispatch).into(),
        z: scan.z.map(Tensor::into_dispatch).into(),
        delta_bias: scan.delta_bias.map(Tensor::into_dispatch).into(),
        state: scan.state.map(Tensor::into_dispatch).into(),
    };
    let Run { y, state, .. } = Dispatch::selective_scan(inputs, plan, false);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(state))
}

/// [`SelectiveScan`] in a backend's own tensors.
#[derive(ExtensionType, Debug, Clone)]
pub struct Inputs<B: Backend> {
    pub u: FloatTensor<B>,
    pub delta: FloatTensor<B>,
    pub a: FloatTensor<B>,
    pub b: FloatTensor<B>,
    pub c: FloatTensor<B>,
    #[extension_type]
    pub d: Maybe<B>,
    #[extension_type]
    pub z: Maybe<B>,
    #[extension_type]
    pub delta_bias: Maybe<B>,
    #[extension_type]
    pub state: Maybe<B>,
}

/// What a run gives.
#[derive(ExtensionType, Debug, Clone)]
pub struct Run<B: Backend> {
    pub y: FloatTensor<B>,
    pub state: FloatTensor<B>,
    pub kept: Option<Kept>,
}

/// What a run is besides its tensors.
#[derive(Debug, Clone)]
pub struct Plan {
    b_groups: Option<usize>,
    c_groups: Option<usize>,
    delta_softplus: bool,
    lengths: Option<Lengths>,
    resets: Option<Vec<Vec<bool>>>,
}

/// What the forward pass keeps, of the element type it ran in.
#[derive(Clone)]
pub enum Kept {
    F32(Saved<f32>),
    F64(Saved<f64>),
}

impl Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Kept")
    }
}

/// The operation; backends without kernels are never asked, as `SelectiveScan::run` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait SelectiveScanOps: Backend {
    fn selective_scan(#[extension_type] inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self>;
}

#[cfg(feature = "ndarray")]
impl SelectiveScanOps for burn::backend::NdArray {
    fn selective_scan(inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self> {
        run_on(&inputs, &plan, keep)
    }
}

#[cfg(feature = "flex")]
impl SelectiveScanOps for burn::backend::Flex {
    fn selective_scan(inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self> {
        run_on(&inputs, &plan, keep)
    }
}

fn run_on<B: Backend>(inputs: &Inputs<B>, plan: &Plan, keep: bool) -> Run<B>
where
    FloatTensor<B>: CpuTensor,
{
    match inputs.u.dtype() {
        DType::F64 => run_in::<B, f64>(inputs, plan, keep, Kept::F64),
        _ => run_in::<B, f32>(inputs, plan, keep, Kept::F32),
    }
}

fn run_in<B: Backend, R: Real + Element>(
    inputs: &Inputs<B>,
    plan: &Plan,
    keep: bool,
    kept: fn(Saved<R>) -> Kept,
) -> Run<B>
where
    FloatTensor<B>: CpuTensor,
{
    let slices = Slices::of(inputs);
    let problem = slices.problem(inputs, plan);
    let outputs = cpu::forward(&problem, keep);
    let state = [problem.batch, problem.d_inner, problem.d_state];
    Run {
        y: FloatTensor::<B>::from_vec(outputs.y, &inputs.u.shape()),
        state: FloatTensor::<B>::from_vec(outputs.state, &state),
        kept: outputs.saved.map(kept),
    }
}

/// The elements of all inputs.
pub(super) struct Slices<'a, R: Real> {
    u: Slice<'a, R>,
    delta: Slice<'a, R>,
    a: Slice<'a, R>,
    b: Slice<'a, R>,
    c: Slice<'a, R>,
    d: Option<Slice<'a, R>>,
    z: Option<Slice<'a, R>>,
    delta_bias: Option<Slice<'a, R>>,
    state: Option<Slice<'a, R>>,
}

impl<'a, R: Real + Element> Slices<'a, R> {
    pub fn of<B: Backend>(inputs: &'a Inputs<B>) -> Self
    where
        FloatTensor<B>: CpuTensor,
    {
        Self {
            u: inputs.u.elements(),
            delta: inputs.delta.elements(),
            a: inputs.a.elements(),
            b: inputs.b.elements(),
            c: inputs.c.elements(),
            d: inputs.d.elements(),
            z: inputs.z.elements(),
            delta_bias: inputs.delta_bias.elements(),
            state: inputs.state.elements(),
        }
    }

    pub fn problem<'s, B: Backend>(&'s self, inputs: &Inputs<B>, plan: &'s Plan) -> Problem<'s, R> {
        let [batch, time, d_inner] = inputs.u.shape().dims();
        let [_, d_state] = inputs.a.shape().dims();
        Problem {
            batch,
            time,
            d_inner,
            d_state,
            u: &self.u,
            delta: &self.delta,
            a: &self.a,
            b: Projected {
                values: &self.b,
                groups: plan.b_groups,
            },
            c: Projected {
                values: &self.c,
                groups: plan.c_groups,
            },
            d: self.d.as_deref(),
            z: self.z.as_deref(),
            delta_bias: self.delta_bias.as_deref(),
            delta_softplus: plan.delta_softplus,
            state: self.state.as_deref(),
            lengths: plan.lengths.as_ref().map(Lengths::as_slice),
            resets: plan.resets.as_deref(),
        }
    }
}
