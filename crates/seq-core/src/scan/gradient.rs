//! The gradient of [`LinearScanOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Element};

use super::cpu::{Incoming, Saved, backward};
use super::ops::{LinearScanOps, Plan, Plane, States};
use crate::autodiff::{Gradient, Maybe, track};
use crate::cpu::{CpuTensor, Real};

impl<B: LinearScanOps, C: CheckpointStrategy> LinearScanOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn linear_scan(plane: Plane<Self>, plan: Plan) -> States<Self> {
        let run = |[plane]: [_; 1], plan| [B::linear_scan(plane, plan)];
        let [states] = tracked::<B, C, 1, 3, 2>([plane], plan, run);
        states
    }

    fn complex_scan(re: Plane<Self>, im: Plane<Self>, plan: Plan) -> (States<Self>, States<Self>) {
        let run = |[re, im]: [_; 2], plan| B::complex_scan(re, im, plan).into();
        tracked::<B, C, 2, 6, 4>([re, im], plan, run).into()
    }
}

/// A scan of `P` planes with `N` inputs and `M` outputs, three and two for each.
fn tracked<B: Backend, C: CheckpointStrategy, const P: usize, const N: usize, const M: usize>(
    planes: [Plane<Autodiff<B, C>>; P],
    plan: Plan,
    run: impl FnOnce([Plane<B>; P], Plan) -> [States<B>; P],
) -> [States<Autodiff<B, C>>; P]
where
    FloatTensor<B>: CpuTensor,
{
    let decay_wanted = planes.iter().any(|plane| plane.decay.is_tracked());
    let gradient = ScanGradient::<P> { plan: plan.clone() };
    let parents = planes.map(|plane| [Maybe::Some(plane.decay), Maybe::Some(plane.x), plane.state]);
    let outputs = track::<B, C, _, N, M>(gradient, flat(parents), |parents, _| {
        let planes = parts(parents).map(|parts| match parts {
            [Maybe::Some(decay), Maybe::Some(x), state] => Plane { decay, x, state },
            _ => unreachable!("the parents are those that were given"),
        });
        let states = run(planes, plan);
        // The outputs are what the gradient of the decay is made of.
        let kept = decay_wanted.then(|| states.each_ref().map(|states| states.all.clone()));
        (
            flat(states.map(|states| [states.all, states.last])),
            Some(kept),
        )
    });
    parts(outputs).map(|[all, last]| States { all, last })
}

/// All parts of all planes.
fn flat<T, const K: usize, const P: usize, const N: usize>(planes: [[T; K]; P]) -> [T; N] {
    let mut all = planes.into_iter().flatten();
    std::array::from_fn(|_| all.next().expect("as many as the planes have"))
}

/// The reverse of [`flat`].
fn parts<T, const K: usize, const P: usize, const N: usize>(all: [T; N]) -> [[T; K]; P] {
    let mut all = all.into_iter();
    let mut next = || all.next().expect("as many as the planes have");
    std::array::from_fn(|_| std::array::from_fn(|_| next()))
}

#[derive(Debug, Clone)]
struct ScanGradient<const P: usize> {
    plan: Plan,
}

impl<B: Backend, const P: usize, const N: usize, const M: usize> Gradient<B, N, M>
    for ScanGradient<P>
where
    FloatTensor<B>: CpuTensor,
{
    /// The states after all steps, if the decay has a gradient.
    type Kept = Option<[FloatTensor<B>; P]>;

    fn needed(&self) -> [bool; N] {
        flat([[true, false, true]; P])
    }

    fn backward(
        &self,
        inputs: [Maybe<B>; N],
        kept: Self::Kept,
        outputs: [Option<FloatTensor<B>>; M],
        wanted: [bool; N],
    ) -> [Option<FloatTensor<B>>; N] {
        let planes = parts(inputs).map(|[decay, _, state]| match decay {
            Maybe::Some(decay) => (decay, state),
            Maybe::None => unreachable!("every scan has a decay"),
        });
        let x_wanted = parts::<_, 3, P, N>(wanted).iter().any(|[_, x, _]| *x);
        let gradients = match planes[0].0.dtype() {
            DType::F64 => self.run::<B, f64>(&planes, kept, parts(outputs), x_wanted),
            _ => self.run::<B, f32>(&planes, kept, parts(outputs), x_wanted),
        };
        flat(gradients)
    }
}

impl<const P: usize> ScanGradient<P> {
    /// For every plane the gradients of its decay, its input and its state, given those of its states and
    /// of its last one.
    fn run<B: Backend, R: Real + Element>(
        &self,
        planes: &[(FloatTensor<B>, Maybe<B>); P],
        kept: Option<[FloatTensor<B>; P]>,
        outputs: [[Option<FloatTensor<B>>; 2]; P],
        x_wanted: bool,
    ) -> [[Option<FloatTensor<B>>; 3]; P]
    where
        FloatTensor<B>: CpuTensor,
    {
        let decay = planes.each_ref().map(|(decay, _)| decay.elements::<R>());
        let state = planes.each_ref().map(|(_, state)| state.elements::<R>());
        let states = kept
            .as_ref()
            .map(|states| states.each_ref().map(|states| states.elements::<R>()));
        let incoming = outputs.each_ref().map(|outputs| {
            outputs
                .each_ref()
                .map(|output| output.as_ref().map(|output| output.elements::<R>()))
        });
        let gradients = backward(
            &self.plan.problem(decay.each_ref().map(|plane| &**plane)),
            states.as_ref().map(|states| Saved {
                states: states.each_ref().map(|plane| &**plane),
                state: state.each_ref().map(|plane| plane.as_deref()),
            }),
            &Incoming {
                states: incoming.each_ref().map(|[states, _]| states.as_deref()),
                last: incoming.each_ref().map(|[_, last]| last.as_deref()),
            },
            x_wanted,
        );
        let dims @ [batch, _, width] = self.plan.dims();
        let tensor = |values, shape: &[usize]| FloatTensor::<B>::from_vec(values, shape);
        let mut decays = gradients.decay.into_iter().flatten();
        let mut xs = gradients.x.into_iter().flatten();
        let mut of_states = gradients.state.into_iter();
        planes.each_ref().map(|(decay, _)| {
            [
                decays.next().map(|values| tensor(values, &decay.shape())),
                xs.next().map(|values| tensor(values, &dims)),
                of_states
                    .next()
                    .map(|values| tensor(values, &[batch, width])),
            ]
        })
    }
}
