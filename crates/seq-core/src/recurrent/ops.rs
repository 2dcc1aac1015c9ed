use std::fmt::Debug;
use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    AutodiffBackend, Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension,
};
use burn::tensor::{DType, Element, Shape, Tensor};

use super::cell::Cell;
use super::cpu::{self, Gradients, Incoming, Outputs, Problem, Saved};
use crate::Lengths;
use crate::autodiff::{Gradient, track};
use crate::cpu::{CpuTensor, Real, Slice};

/// The tensors of one recurrent layer in one direction. The rows of the weights are blocks of
/// `d_hidden`, one a gate.
#[derive(Debug, Clone)]
pub struct Recurrence {
    /// `[batch, time, d_input]`
    pub x: Tensor<3>,
    /// `[gates * d_hidden, d_input]`
    pub weight_ih: Tensor<2>,
    /// `[gates * d_hidden, d_hidden]`
    pub weight_hh: Tensor<2>,
    /// `[gates * d_hidden]`
    pub bias_ih: Option<Tensor<1>>,
    /// `[gates * d_hidden]`
    pub bias_hh: Option<Tensor<1>>,
    /// The elementwise weights of the cell, `[U * d_hidden]`.
    pub weights: Option<Tensor<1>>,
    /// The hidden state before, `[batch, d_hidden]`.
    pub hidden: Tensor<2>,
    /// The cell state before, `[batch, d_hidden]`; for a cell without one, none.
    pub cell: Option<Tensor<2>>,
}

impl Recurrence {
    /// Runs the layer by its fused kernel: the outputs `[batch, time, d_hidden]`, and the hidden and
    /// the cell state after the last step `[batch, d_hidden]`.
    ///
    /// The layer itself again, where there is no such kernel: the device must be a CPU one, and all
    /// tensors of one type, `f32` or `f64`.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, or there is no step.
    #[expect(
        clippy::result_large_err,
        reason = "the caller goes on with what it gets back"
    )]
    pub fn run<C, const G: usize, const I: usize, const H: usize, const U: usize>(
        self,
        cell: C,
        lengths: Option<&Lengths>,
        reverse: bool,
    ) -> Result<(Tensor<3>, Tensor<2>, Option<Tensor<2>>), Self>
    where
        C: Cell<G, I, H, U>,
    {
        if !self.has_kernel() {
            return Err(self);
        }
        self.check::<G, I, H, U>(C::MEMORY, lengths);
        let plan = Plan {
            kernel: Arc::new(Kernel::<C, G, I, H, U>(cell)),
            lengths: lengths.cloned(),
            reverse,
        };
        let optional = |tensor: Option<_>| match tensor {
            Some(tensor) => Maybe::Some(tensor),
            None => Maybe::None,
        };
        let vector = |tensor: Option<Tensor<1>>| optional(tensor.map(Tensor::into_dispatch));
        let inputs = Inputs {
            x: self.x.into_dispatch(),
            weight_ih: self.weight_ih.into_dispatch(),
            weight_hh: self.weight_hh.into_dispatch(),
            bias_ih: vector(self.bias_ih),
            bias_hh: vector(self.bias_hh),
            weights: vector(self.weights),
            hidden: self.hidden.into_dispatch(),
            cell: optional(self.cell.map(Tensor::into_dispatch)),
        };
        let Run {
            y, hidden, cell, ..
        } = Dispatch::recurrence(inputs, plan, false);
        let cell = match cell {
            Maybe::Some(cell) => Some(Tensor::from_dispatch(cell)),
            Maybe::None => None,
        };
        Ok((
            Tensor::from_dispatch(y),
            Tensor::from_dispatch(hidden),
            cell,
        ))
    }

    fn has_kernel(&self) -> bool {
        let dtype = self.x.dtype();
        let vectors = [&self.bias_ih, &self.bias_hh, &self.weights];
        crate::device::is_cpu(&self.x.device())
            && matches!(dtype, DType::F32 | DType::F64)
            && [
                self.weight_ih.dtype(),
                self.weight_hh.dtype(),
                self.hidden.dtype(),
            ] == [dtype; 3]
            && vectors
                .into_iter()
                .flatten()
                .all(|vector| vector.dtype() == dtype)
            && self.cell.iter().all(|cell| cell.dtype() == dtype)
    }

    fn check<const G: usize, const I: usize, const H: usize, const U: usize>(
        &self,
        memory: bool,
        lengths: Option<&Lengths>,
    ) {
        let [batch, time, d_input] = self.x.dims();
        let [_, d_hidden] = self.hidden.dims();
        assert!(
            time > 0,
            "a sequence needs at least one step, the input has shape {:?}",
            self.x.dims()
        );
        if let Some(lengths) = lengths {
            lengths.check(batch, time);
        }
        let fits = |name: &str, found: &[usize], expected: &[usize]| {
            assert_eq!(
                found, expected,
                "{name} has shape {found:?}, the layer needs {expected:?}"
            );
        };
        fits(
            "weight_ih",
            &self.weight_ih.dims(),
            &[I * d_hidden, d_input],
        );
        fits(
            "weight_hh",
            &self.weight_hh.dims(),
            &[H * d_hidden, d_hidden],
        );
        fits("the hidden state", &self.hidden.dims(), &[batch, d_hidden]);
        let vectors = [
            ("bias_ih", &self.bias_ih, I),
            ("bias_hh", &self.bias_hh, H),
            ("the elementwise weight", &self.weights, U),
        ];
        for (name, vector, count) in vectors {
            if let Some(vector) = vector {
                fits(name, &vector.dims(), &[count * d_hidden]);
            }
        }
        assert_eq!(
            self.cell.is_some(),
            memory,
            "a cell state belongs to a cell that has one"
        );
        if let Some(cell) = &self.cell {
            fits("the cell state", &cell.dims(), &[batch, d_hidden]);
        }
    }
}

/// A tensor that may be absent, which Burn's extensions do not know by themselves.
#[derive(ExtensionType, Debug, Clone)]
pub enum Maybe<B: Backend> {
    Some(FloatTensor<B>),
    None,
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
    kernel: Arc<dyn AnyKernel>,
    lengths: Option<Lengths>,
    reverse: bool,
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
        run(inputs, &plan, keep)
    }
}

#[cfg(feature = "flex")]
impl RecurrenceOps for burn::backend::Flex {
    fn recurrence(inputs: Inputs<Self>, plan: Plan, keep: bool) -> Run<Self> {
        run(inputs, &plan, keep)
    }
}

/// A cell's kernels, without its type.
trait AnyKernel: Typed<f32> + Typed<f64> + Debug + Send + Sync {}

trait Typed<R> {
    fn forward(&self, problem: &Problem<'_, R>, keep: bool) -> Outputs<R>;

    fn backward(
        &self,
        problem: &Problem<'_, R>,
        saved: Saved<R>,
        incoming: Incoming<'_, R>,
        with_x: bool,
    ) -> Gradients<R>;
}

#[derive(Debug)]
struct Kernel<C, const G: usize, const I: usize, const H: usize, const U: usize>(C);

impl<C: Cell<G, I, H, U>, const G: usize, const I: usize, const H: usize, const U: usize> AnyKernel
    for Kernel<C, G, I, H, U>
{
}

impl<R: Real, C: Cell<G, I, H, U>, const G: usize, const I: usize, const H: usize, const U: usize>
    Typed<R> for Kernel<C, G, I, H, U>
{
    fn forward(&self, problem: &Problem<'_, R>, keep: bool) -> Outputs<R> {
        match problem.time == 1 && problem.lengths.is_none() && !keep {
            true => cpu::step(&self.0, problem),
            false => cpu::forward(&self.0, problem, keep),
        }
    }

    fn backward(
        &self,
        problem: &Problem<'_, R>,
        saved: Saved<R>,
        incoming: Incoming<'_, R>,
        with_x: bool,
    ) -> Gradients<R> {
        cpu::backward(&self.0, problem, saved, incoming, with_x)
    }
}

fn run<B: Backend>(inputs: Inputs<B>, plan: &Plan, keep: bool) -> Run<B>
where
    FloatTensor<B>: CpuTensor,
{
    match inputs.x.dtype() {
        DType::F64 => run_in(inputs, plan, |problem| {
            let outputs = Typed::<f64>::forward(&*plan.kernel, problem, keep);
            (
                outputs.y,
                outputs.hidden,
                outputs.cell,
                outputs.saved.map(Kept::F64),
            )
        }),
        _ => run_in(inputs, plan, |problem| {
            let outputs = Typed::<f32>::forward(&*plan.kernel, problem, keep);
            (
                outputs.y,
                outputs.hidden,
                outputs.cell,
                outputs.saved.map(Kept::F32),
            )
        }),
    }
}

type Values<R> = (Vec<R>, Vec<R>, Vec<R>, Option<Kept>);

fn run_in<B: Backend, R: Real + Element>(
    inputs: Inputs<B>,
    plan: &Plan,
    forward: impl FnOnce(&Problem<'_, R>) -> Values<R>,
) -> Run<B>
where
    FloatTensor<B>: CpuTensor,
{
    let slices = Slices::of(&inputs);
    let problem = slices.problem(&inputs, plan);
    let (batch, time, hidden) = (problem.batch, problem.time, problem.d_hidden);
    let (y, state, cell, kept) = forward(&problem);
    let tensor = |values, shape: &[usize]| FloatTensor::<B>::from_vec(values, shape);
    Run {
        y: tensor(y, &[batch, time, hidden]),
        hidden: tensor(state, &[batch, hidden]),
        cell: match inputs.cell {
            Maybe::Some(_) => Maybe::Some(tensor(cell, &[batch, hidden])),
            Maybe::None => Maybe::None,
        },
        kept,
    }
}

/// The elements of all inputs.
struct Slices<'a, R: Real> {
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
    fn of<B: Backend>(inputs: &'a Inputs<B>) -> Self
    where
        FloatTensor<B>: CpuTensor,
    {
        let optional = |tensor: &'a Maybe<B>| match tensor {
            Maybe::Some(tensor) => Some(tensor.elements()),
            Maybe::None => None,
        };
        Self {
            x: inputs.x.elements(),
            weight_ih: inputs.weight_ih.elements(),
            weight_hh: inputs.weight_hh.elements(),
            bias_ih: optional(&inputs.bias_ih),
            bias_hh: optional(&inputs.bias_hh),
            weights: optional(&inputs.weights),
            hidden: inputs.hidden.elements(),
            cell: optional(&inputs.cell),
        }
    }

    fn problem<'s, B: Backend>(&'s self, inputs: &Inputs<B>, plan: &'s Plan) -> Problem<'s, R> {
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

/// An input's place among the parents of the node.
const PARENTS: usize = 8;

impl<B: RecurrenceOps, C: CheckpointStrategy> RecurrenceOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn recurrence(inputs: Inputs<Self>, plan: Plan, _keep: bool) -> Run<Self> {
        let absent = {
            let (device, dtype) = (inputs.x.primitive().device(), inputs.x.dtype());
            move || {
                <Self as AutodiffBackend>::from_inner(B::float_zeros(
                    Shape::new([1]),
                    &device,
                    dtype.into(),
                ))
            }
        };
        let mut present = [true; PARENTS];
        let mut parent = |place: usize, tensor| match tensor {
            Maybe::Some(tensor) => tensor,
            Maybe::None => {
                present[place] = false;
                absent()
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
        let gradients = match kept {
            Kept::F32(saved) => {
                backward_in::<B, f32, M>(&inputs, &self.plan, saved, outputs, wanted[0])
            }
            Kept::F64(saved) => {
                backward_in::<B, f64, M>(&inputs, &self.plan, saved, outputs, wanted[0])
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
    with_x: bool,
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
    let gradients = Typed::<R>::backward(&*plan.kernel, &problem, saved, incoming, with_x);
    let tensor =
        |values: Vec<R>, like: &FloatTensor<B>| FloatTensor::<B>::from_vec(values, &like.shape());
    let optional = |values: Vec<R>, like: &Maybe<B>| match like {
        Maybe::Some(like) => Some(tensor(values, like)),
        Maybe::None => None,
    };
    [
        gradients.x.map(|x| tensor(x, &inputs.x)),
        Some(tensor(gradients.weight_ih, &inputs.weight_ih)),
        Some(tensor(gradients.weight_hh, &inputs.weight_hh)),
        optional(gradients.bias_ih, &inputs.bias_ih),
        optional(gradients.bias_hh, &inputs.bias_hh),
        optional(gradients.weights, &inputs.weights),
        Some(tensor(gradients.hidden, &inputs.hidden)),
        optional(gradients.cell, &inputs.cell),
    ]
}
