use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};

use super::cell::Cell;
use super::cpu::{self, Gradients, Incoming, Outputs, Packed, Problem, Saved};
use super::recurrence::Recurrence;
use crate::autodiff::Maybe;
use crate::cpu::{CpuTensor, Real, Slice};
use crate::{Lengths, PackedWeights};

/// Runs a layer that has kernels.
pub(super) fn run<
    C,
    const G: usize,
    const I: usize,
    const H: usize,
    const U: usize,
    const D: usize,
>(
    layer: Recurrence,
    cell: C,
    lengths: Option<&Lengths>,
    reverse: bool,
) -> (Tensor<3>, Tensor<2>, Option<Tensor<2>>)
where
    C: Cell<G, I, H, U, D>,
{
    let plan = Plan {
        kernel: Arc::new(Kernel::<C, G, I, H, U, D>(cell)),
        lengths: lengths.cloned(),
        reverse,
        packed: layer.packed,
    };
    let vector = |tensor: Option<Tensor<1>>| tensor.map(Tensor::into_dispatch).into();
    let inputs = Inputs {
        x: layer.x.into_dispatch(),
        weight_ih: layer.weight_ih.into_dispatch(),
        weight_hh: layer.weight_hh.into_dispatch(),
        bias_ih: vector(layer.bias_ih),
        bias_hh: vector(layer.bias_hh),
        weights: vector(layer.weights),
        hidden: layer.hidden.into_dispatch(),
        cell: layer.cell.map(Tensor::into_dispatch).into(),
    };
    let Run {
        y, hidden, cell, ..
    } = Dispatch::recurrence(inputs, plan, false);
    let cell = match cell {
        Maybe::Some(cell) => Some(Tensor::from_dispatch(cell)),
        Maybe::None => None,
    };
    (
        Tensor::from_dispatch(y),
        Tensor::from_dispatch(hidden),
        cell,
    )
}

/// [`Recurrence`] in a backend's own tensors.
#[derive(ExtensionType, Debug, Clone)]
pub struct Inputs<B: Backend> {
    pub x: FloatTensor<B>,
    pub weight_ih: FloatTensor<B>,
    pub weight_hh: FloatTensor<B>,
    #[extension_type]
    pub bias_ih: Maybe<B>,
    #[extension_type]
    pub bias_hh: Maybe<B>,
    #[extension_type]
    pub weights: Maybe<B>,
    pub hidden: FloatTensor<B>,
    #[extension_type]
    pub cell: Maybe<B>,
}

/// What a run gives.
#[derive(ExtensionType, Debug, Clone)]
pub struct Run<B: Backend> {
    pub y: FloatTensor<B>,
    pub hidden: FloatTensor<B>,
    #[extension_type]
    pub cell: Maybe<B>,
    pub kept: Option<Kept>,
}

/// What a run is besides its tensors.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) kernel: Arc<dyn AnyKernel>,
    lengths: Option<Lengths>,
    reverse: bool,
    packed: PackedWeights,
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

/// The operation as Burn dispatches it. The backends that have the kernels are listed; others are
/// never asked, as `Recurrence::run` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait RecurrenceOps: Backend {
    fn recurrence(#[extension_type] inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self>;
}

#[cfg(feature = "ndarray")]
impl RecurrenceOps for burn::backend::NdArray {
    fn recurrence(inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self> {
        run_on(inputs, &plan, keep)
    }
}

#[cfg(feature = "flex")]
impl RecurrenceOps for burn::backend::Flex {
    fn recurrence(inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self> {
        run_on(inputs, &plan, keep)
    }
}

/// A cell's kernels, without its type.
pub trait AnyKernel: Typed<f32> + Typed<f64> + Debug + Send + Sync {}

/// The part for one element type.
pub trait Typed<R> {
    fn pack(&self, problem: &Problem<'_, R>) -> Packed<R>;

    fn forward(&self, problem: &Problem<'_, R>, packed: &Packed<R>, keep: bool) -> Outputs<R>;

    fn backward(
        &self,
        problem: &Problem<'_, R>,
        saved: Saved<R>,
        incoming: Incoming<'_, R>,
        wanted: [bool; 3],
    ) -> Gradients<R>;
}

#[derive(Debug)]
struct Kernel<C, const G: usize, const I: usize, const H: usize, const U: usize, const D: usize>(C);

impl<
    C: Cell<G, I, H, U, D>,
    const G: usize,
    const I: usize,
    const H: usize,
    const U: usize,
    const D: usize,
> AnyKernel for Kernel<C, G, I, H, U, D>
{
}

impl<
    R: Real,
    C: Cell<G, I, H, U, D>,
    const G: usize,
    const I: usize,
    const H: usize,
    const U: usize,
    const D: usize,
> Typed<R> for Kernel<C, G, I, H, U, D>
{
    fn pack(&self, problem: &Problem<'_, R>) -> Packed<R> {
        Packed::new(problem, C::INPUT, C::RECURRENT, C::GATED)
    }

    fn forward(&self, problem: &Problem<'_, R>, packed: &Packed<R>, keep: bool) -> Outputs<R> {
        cpu::forward(&self.0, problem, packed, keep)
    }

    fn backward(
        &self,
        problem: &Problem<'_, R>,
        saved: Saved<R>,
        incoming: Incoming<'_, R>,
        wanted: [bool; 3],
    ) -> Gradients<R> {
        cpu::backward(&self.0, problem, saved, incoming, wanted)
    }
}

fn run_on<B: Backend>(inputs: Inputs<B>, plan: &Plan, keep: bool) -> Run<B>
where
    FloatTensor<B>: CpuTensor,
{
    match inputs.x.dtype() {
        DType::F64 => run_in::<B, f64>(inputs, plan, keep, Kept::F64),
        _ => run_in::<B, f32>(inputs, plan, keep, Kept::F32),
    }
}

fn run_in<B: Backend, R: Real + Element>(
    inputs: Inputs<B>,
    plan: &Plan,
    keep: bool,
    kept: fn(Saved<R>) -> Kept,
) -> Run<B>
where
    FloatTensor<B>: CpuTensor,
    dyn AnyKernel: Typed<R>,
{
    let slices = Slices::of(&inputs);
    let problem = slices.problem(&inputs, plan);
    let kernel: &dyn AnyKernel = &*plan.kernel;
    let pack = || Typed::<R>::pack(kernel, &problem);
    let packed = plan
        .packed
        .get::<B, R, _, 2>([&inputs.weight_ih, &inputs.weight_hh], !keep, pack);
    let outputs = Typed::<R>::forward(kernel, &problem, &packed, keep);
    let (batch, time, hidden) = (problem.batch, problem.time, problem.d_hidden);
    let tensor = |values, shape: &[usize]| FloatTensor::<B>::from_vec(values, shape);
    Run {
        y: tensor(outputs.y, &[batch, time, hidden]),
        hidden: tensor(outputs.hidden, &[batch, hidden]),
        cell: match inputs.cell {
            Maybe::Some(_) => Maybe::Some(tensor(outputs.cell, &[batch, hidden])),
            Maybe::None => Maybe::None,
        },
        kept: outputs.saved.map(kept),
    }
}

/// The elements of all inputs.
pub(super) struct Slices<'a, R: Real> {
    x: Slice<'a, R>,
    weight_ih: Slice<'a, R>,
    weight_hh: Slice<'a, R>,
    bias_ih: Option<Slice<'a, R>>,
    bias_hh: Option<Slice<'a, R>>,
    weights: Option<Slice<'a, R>>,
    hidden: Slice<'a, R>,
    cell: Option<Slice<'a, R>>,
}

impl<'a, R: Real + Element> Slices<'a, R> {
    pub fn of<B: Backend>(inputs: &'a Inputs<B>) -> Self
    where
        FloatTensor<B>: CpuTensor,
    {
        Self {
            x: inputs.x.elements(),
            weight_ih: inputs.weight_ih.elements(),
            weight_hh: inputs.weight_hh.elements(),
            bias_ih: inputs.bias_ih.elements(),
            bias_hh: inputs.bias_hh.elements(),
            weights: inputs.weights.elements(),
            hidden: inputs.hidden.elements(),
            cell: inputs.cell.elements(),
        }
    }

    pub fn problem<'s, B: Backend>(&'s self, inputs: &Inputs<B>, plan: &'s Plan) -> Problem<'s, R> {
        let [batch, time, d_input] = inputs.x.shape().dims();
        let [_, d_hidden] = inputs.hidden.shape().dims();
        Problem {
            batch,
            time,
            d_input,
            d_hidden,
            x: &self.x,
            weight_ih: &self.weight_ih,
            weight_hh: &self.weight_hh,
            bias_ih: self.bias_ih.as_deref(),
            bias_hh: self.bias_hh.as_deref(),
            weights: self.weights.as_deref(),
            hidden: &self.hidden,
            cell: self.cell.as_deref(),
            lengths: plan.lengths.as_ref().map(Lengths::as_slice),
            reverse: plan.reverse,
        }
    }
}
