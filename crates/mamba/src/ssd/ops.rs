//! The state-space dual scan as Burn dispatches it.

use std::fmt::Debug;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};
use seq_core::Lengths;
use seq_core::autodiff::Maybe;
use seq_core::cpu::{CpuTensor, Real, Slice};

use super::Scan;
use super::cpu::{self, Problem, Saved};

/// Runs a scan that has kernels.
pub(super) fn run(scan: Scan) -> (Tensor<4>, Tensor<4>) {
    let plan = Plan {
        chunk_size: scan.chunk_size,
        lengths: scan.lengths,
        resets: scan.resets,
    };
    let inputs = Inputs {
        x: scan.x.into_dispatch(),
        log_decay: scan.log_decay.into_dispatch(),
        b: scan.b.into_dispatch(),
        c: scan.c.into_dispatch(),
        dt: scan.dt.map(Tensor::into_dispatch).into(),
        d: scan.d.map(Tensor::into_dispatch).into(),
        state: scan.state.map(Tensor::into_dispatch).into(),
    };
    let Run { y, state, .. } = Dispatch::ssd(inputs, plan, false);
    (Tensor::from_dispatch(y), Tensor::from_dispatch(state))
}

/// [`Scan`] in a backend's own tensors.
#[derive(ExtensionType, Debug, Clone)]
pub struct Inputs<B: Backend> {
    pub x: FloatTensor<B>,
    pub log_decay: FloatTensor<B>,
    pub b: FloatTensor<B>,
    pub c: FloatTensor<B>,
    #[extension_type]
    pub dt: Maybe<B>,
    #[extension_type]
    pub d: Maybe<B>,
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
    chunk_size: usize,
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

/// The operation; backends without kernels are never asked, as `Ssd::run` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait SsdOps: Backend {
    fn ssd(#[extension_type] inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self>;
}

#[cfg(feature = "ndarray")]
impl SsdOps for burn::backend::NdArray {
    fn ssd(inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self> {
        run_on(&inputs, &plan, keep)
    }
}

#[cfg(feature = "flex")]
impl SsdOps for burn::backend::Flex {
    fn ssd(inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self> {
        run_on(&inputs, &plan, keep)
    }
}

fn run_on<B: Backend>(inputs: &Inputs<B>, plan: &Plan, keep: bool) -> Run<B>
where
    FloatTensor<B>: CpuTensor,
{
    match inputs.x.dtype() {
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
    let state = [
        problem.batch,
        problem.heads,
        problem.head_dim,
        problem.d_state,
    ];
    Run {
        y: FloatTensor::<B>::from_vec(outputs.y, &inputs.x.shape()),
        state: FloatTensor::<B>::from_vec(outputs.state, &state),
        kept: outputs.saved.map(kept),
    }
}

/// The elements of all inputs.
pub(super) struct Slices<'a, R: Real> {
    x: Slice<'a, R>,
    log_decay: Slice<'a, R>,
    b: Slice<'a, R>,
    c: Slice<'a, R>,
    dt: Option<Slice<'a, R>>,
    d: Option<Slice<'a, R>>,
    state: Option<Slice<'a, R>>,
}

impl<'a, R: Real + Element> Slices<'a, R> {
    pub fn of<B: Backend>(inputs: &'a Inputs<B>) -> Self
    where
        FloatTensor<B>: CpuTensor,
    {
        Self {
            x: inputs.x.elements(),
            log_decay: inputs.log_decay.elements(),
            b: inputs.b.elements(),
            c: inputs.c.elements(),
            dt: inputs.dt.elements(),
            d: inputs.d.elements(),
            state: inputs.state.elements(),
        }
    }

    pub fn problem<'s, B: Backend>(&'s self, inputs: &Inputs<B>, plan: &'s Plan) -> Problem<'s, R> {
        let [batch, time, heads, head_dim] = inputs.x.shape().dims();
        let [_, _, groups, d_state] = inputs.b.shape().dims();
        Problem {
            batch,
            time,
            heads,
            head_dim,
            groups,
            d_state,
            x: &self.x,
            log_decay: &self.log_decay,
            b: &self.b,
            c: &self.c,
            dt: self.dt.as_deref(),
            d: self.d.as_deref(),
            state: self.state.as_deref(),
            lengths: plan.lengths.as_ref().map(Lengths::as_slice),
            resets: plan.resets.as_deref(),
            chunk_size: plan.chunk_size,
        }
    }
}
