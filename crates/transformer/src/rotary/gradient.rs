//! The gradient of [`RotaryOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use seq_core::autodiff::{Gradient, Maybe, track};
use seq_core::cpu::CpuTensor;

use super::Turn;
use super::ops::RotaryOps;

impl<B: RotaryOps, C: CheckpointStrategy> RotaryOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn rotate(x: FloatTensor<Self>, turn: &Turn<'_>) -> FloatTensor<Self> {
        let back = TurnBack(turn.back());
        let [y] = track::<B, C, _, 1, 1>(back, [Maybe::Some(x)], |[x], _| {
            let Maybe::Some(x) = x else {
                unreachable!("the input is there");
            };
            ([B::rotate(x, turn)], Some(()))
        });
        y
    }
}

/// The transpose of a rotation is that by the negative angle.
#[derive(Debug, Clone)]
struct TurnBack(Turn<'static>);

impl<B: RotaryOps> Gradient<B, 1, 1> for TurnBack {
    type Kept = ();

    fn needed(&self) -> [bool; 1] {
        [false]
    }

    fn backward(
        &self,
        _inputs: [Maybe<B>; 1],
        (): (),
        [output]: [Option<FloatTensor<B>>; 1],
        _wanted: [bool; 1],
    ) -> [Option<FloatTensor<B>>; 1] {
        [output.map(|gradient| B::rotate(gradient, &self.0))]
    }
}
