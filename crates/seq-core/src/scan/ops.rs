//! The scan as Burn dispatches it.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};

use super::cpu::{self, Problem};
use super::{Complex, ComplexDecay, ComplexScan, Decay, LinearScan};
use crate::Lengths;
use crate::autodiff::Maybe;
use crate::cpu::{CpuTensor, Real};

/// Whether the kernels run on tensors of these element types.
pub(super) fn has_kernel(x: &Tensor<3>, others: impl IntoIterator<Item = DType>) -> bool {
    let dtype = x.dtype();
    matches!(dtype, DType::F32 | DType::F64)
        && others.into_iter().all(|other| other == dtype)
        && crate::is_cpu(&x.device())
}

/// Runs a scan that has kernels.
pub(super) fn linear(scan: LinearScan) -> (Tensor<3>, Tensor<2>) {
    let (decay, varying) = match scan.decay {
        Decay::Constant(decay) => (decay.into_dispatch(), false),
        Decay::Varying(decay) => (decay.into_dispatch(), true),
    };
    let plan = Plan {
        dims: scan.x.dims(),
        varying,
        lengths: scan.lengths,
        resets: scan.resets,
    };
    let plane = Plane {
        decay,
        x: scan.x.into_dispatch(),
        state: scan.state.map(Tensor::into_dispatch).into(),
    };
    Dispatch::linear_scan(plane, plan).into_tensors()
}

/// Runs a scan of complex numbers that has kernels.
pub(super) fn complex(scan: ComplexScan) -> (Complex<3>, Complex<2>) {
    let (decays, varying) = match scan.decay {
        ComplexDecay::Constant(decay) => ([decay.re, decay.im].map(Tensor::into_dispatch), false),
        ComplexDecay::Varying(decay) => ([decay.re, decay.im].map(Tensor::into_dispatch), true),
    };
    let plan = Plan {
        dims: scan.x.dims(),
        varying,
        lengths: scan.lengths,
        resets: scan.resets,
    };
    let state = match scan.state {
        Some(state) => [Some(state.re), Some(state.im)],
        None => [None, None],
    };
    let mut planes = decays
        .into_iter()
        .zip([scan.x.re, scan.x.im])
        .zip(state)
        .map(|((decay, x), state)| Plane {
            decay,
            x: x.into_dispatch(),
            state: state.map(Tensor::into_dispatch).into(),
        });
    let mut plane = || planes.next().expect("two planes");
    let (re, im) = Dispatch::complex_scan(plane(), plane(), plan);
    let ((re, last_re), (im, last_im)) = (re.into_tensors(), im.into_tensors());
    (Complex { re, im }, Complex::new(last_re, last_im))
}

/// One plane of a scan in a backend's own tensors: all of a real one.
#[derive(ExtensionType, Debug, Clone)]
pub struct Plane<B: Backend> {
    pub decay: FloatTensor<B>,
    pub x: FloatTensor<B>,
    #[extension_type]
    pub state: Maybe<B>,
}

/// One plane of what a scan gives: the states after all steps, and after the last one.
#[derive(ExtensionType, Debug, Clone)]
pub struct States<B: Backend> {
    pub all: FloatTensor<B>,
    pub last: FloatTensor<B>,
}

impl States<Dispatch> {
    fn into_tensors(self) -> (Tensor<3>, Tensor<2>) {
        (
            Tensor::from_dispatch(self.all),
            Tensor::from_dispatch(self.last),
        )
    }
}

/// What a scan is besides its tensors.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Of the input.
    dims: [usize; 3],
    varying: bool,
    lengths: Option<Lengths>,
    resets: Option<Vec<Vec<bool>>>,
}

impl Plan {
    pub(super) fn problem<'a, R, const P: usize>(
        &'a self,
        decay: [&'a [R]; P],
    ) -> Problem<'a, R, P> {
        let [batch, time, width] = self.dims;
        Problem {
            batch,
            time,
            width,
            decay,
            varying: self.varying,
            lengths: self.lengths.as_ref().map(Lengths::as_slice),
            resets: self.resets.as_deref(),
        }
    }

    /// `[batch, time, width]`
    pub(super) fn dims(&self) -> [usize; 3] {
        self.dims
    }
}

/// The operation; backends without kernels are never asked, as `LinearScan::run` looks first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait LinearScanOps: Backend {
    fn linear_scan(#[extension_type] plane: Plane<Self>, plan: Plan) -> States<Self>;

    fn complex_scan(
        #[extension_type] re: Plane<Self>,
        #[extension_type] im: Plane<Self>,
        plan: Plan,
    ) -> (States<Self>, States<Self>);
}

#[cfg(feature = "ndarray")]
impl LinearScanOps for burn::backend::NdArray {
    fn linear_scan(plane: Plane<Self>, plan: Plan) -> States<Self> {
        let [states] = run_on([plane], &plan);
        states
    }

    fn complex_scan(re: Plane<Self>, im: Plane<Self>, plan: Plan) -> (States<Self>, States<Self>) {
        run_on([re, im], &plan).into()
    }
}

#[cfg(feature = "flex")]
impl LinearScanOps for burn::backend::Flex {
    fn linear_scan(plane: Plane<Self>, plan: Plan) -> States<Self> {
        let [states] = run_on([plane], &plan);
        states
    }

    fn complex_scan(re: Plane<Self>, im: Plane<Self>, plan: Plan) -> (States<Self>, States<Self>) {
        run_on([re, im], &plan).into()
    }
}

fn run_on<B: Backend, const P: usize>(planes: [Plane<B>; P], plan: &Plan) -> [States<B>; P]
where
    FloatTensor<B>: CpuTensor,
{
    match planes[0].x.dtype() {
        DType::F64 => run_in::<B, f64, P>(&planes, plan),
        _ => run_in::<B, f32, P>(&planes, plan),
    }
}

fn run_in<B: Backend, R: Real + Element, const P: usize>(
    planes: &[Plane<B>; P],
    plan: &Plan,
) -> [States<B>; P]
where
    FloatTensor<B>: CpuTensor,
{
    let decay = planes.each_ref().map(|plane| plane.decay.elements::<R>());
    let x = planes.each_ref().map(|plane| plane.x.elements::<R>());
    let state = planes.each_ref().map(|plane| plane.state.elements::<R>());
    let outputs = cpu::forward(
        &plan.problem(decay.each_ref().map(|plane| &**plane)),
        x.each_ref().map(|plane| &**plane),
        state.each_ref().map(|plane| plane.as_deref()),
    );
    let [batch, _, width] = plan.dims;
    let mut last = outputs.last.into_iter();
    outputs.states.map(|all| States {
        all: FloatTensor::<B>::from_vec(all, &plan.dims),
        last: FloatTensor::<B>::from_vec(last.next().expect("of every plane"), &[batch, width]),
    })
}
