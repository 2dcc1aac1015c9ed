//! The recurrence, and how its parts lie in time.

use burn::tensor::{Bool, Int, Tensor, TensorData};
use seq_core::Lengths;

use super::layer::Mamba3State;
use super::turn::{Rotation, wrap};

/// What the recurrence is made of, of some steps.
#[derive(Clone)]
pub(super) struct Steps {
    /// `[batch, time, heads, head_dim]`
    pub v: Tensor<4>,
    /// With bias and not yet turned, in [`halves`], `[batch, time, heads, d_state]`.
    pub k: Tensor<4>,
    /// As `k`.
    pub q: Tensor<4>,
    /// `[batch, time, heads]`
    pub log_decay: Tensor<3>,
    /// The weight of a step's own input, `[batch, time, heads]`.
    pub own: Tensor<3>,
    /// The weight of the input before it, `[batch, time, heads]`.
    pub before: Tensor<3>,
    /// By how much each pair turns, `[batch, time, heads, angles]`.
    pub turn: Tensor<4>,
}

impl Steps {
    pub fn at(&self, step: usize) -> Self {
        let three = |x: &Tensor<3>| x.clone().narrow(1, step, 1);
        let four = |x: &Tensor<4>| x.clone().narrow(1, step, 1);
        Self {
            v: four(&self.v),
            k: four(&self.k),
            q: four(&self.q),
            log_decay: three(&self.log_decay),
            own: three(&self.own),
            before: three(&self.before),
            turn: four(&self.turn),
        }
    }

    /// The recurrence as it is defined, of one step: `[batch, 1, heads, head_dim]` and the next state.
    pub fn advance(self, state: Mamba3State) -> (Tensor<4>, Mamba3State) {
        let angle = wrap(state.angle + self.turn.squeeze_dim(1));
        let rotation = Rotation::new(angle.clone().unsqueeze_dim(1));
        let k: Tensor<3> = rotation.turn(self.k).squeeze_dim(1);
        let q: Tensor<3> = rotation.turn(self.q).squeeze_dim(1);
        let v: Tensor<3> = self.v.squeeze_dim(1);
        let ssm = state.ssm + outer(state.v, self.before, state.k);
        let decay = by_heads(self.log_decay.exp()).unsqueeze_dim::<4>(3);
        let ssm = ssm * decay + outer(v.clone(), self.own, k.clone());
        let y = (ssm.clone() * q.unsqueeze_dim::<4>(2)).sum_dim(3);
        let y = y.squeeze_dim::<3>(3).unsqueeze_dim(1);
        (y, Mamba3State { angle, ssm, k, v })
    }
}

/// `[batch, 1, heads]` as `[batch, heads, 1]`.
fn by_heads(x: Tensor<3>) -> Tensor<3> {
    x.swap_dims(1, 2)
}

/// What a weight `[batch, 1, heads]` of a `v` and a `k` adds to the state of the scan.
pub(super) fn outer(v: Tensor<3>, weight: Tensor<3>, k: Tensor<3>) -> Tensor<4> {
    (v * by_heads(weight)).unsqueeze_dim::<4>(3) * k.unsqueeze_dim::<4>(2)
}

/// `x` `[batch, time, heads, width]` a step later, `first` before it.
pub(super) fn shift(x: Tensor<4>, first: Tensor<3>) -> Tensor<4> {
    let [_, time, _, _] = x.dims();
    let first = first.unsqueeze_dim(1);
    match time {
        1 => first,
        _ => Tensor::cat(vec![first, x.narrow(1, 0, time - 1)], 1),
    }
}

/// A weight of what came before, `[batch, time, heads, 1]`, which is zero where a sequence begins.
pub(super) fn without_begins(weight: Tensor<4>, resets: &[Vec<bool>]) -> Tensor<4> {
    let [batch, time, heads, _] = weight.dims();
    assert!(
        resets.len() == batch && resets.iter().all(|row| row.len() == time),
        "the resets are of {} rows, the input has batch {batch} and time {time}",
        resets.len()
    );
    let begins = TensorData::new(resets.concat(), [batch, time, 1, 1]);
    let begins = Tensor::<4, Bool>::from_data(begins, &weight.device());
    weight.mask_fill(begins.expand([batch, time, heads, 1]), 0.0)
}

/// `x` `[batch, time, heads, width]` at the last step of each sequence, and `before` of those without a step.
pub(super) fn last(x: Tensor<4>, before: Tensor<3>, lengths: Option<&Lengths>) -> Tensor<3> {
    let [batch, time, heads, width] = x.dims();
    let Some(lengths) = lengths else {
        return x.narrow(1, time - 1, 1).squeeze_dim(1);
    };
    let device = x.device();
    let lengths = lengths.as_slice();
    let at = lengths.iter().enumerate();
    let at: Vec<i64> = at
        .map(|(row, length)| (row * time + length.saturating_sub(1)) as i64)
        .collect();
    let at = Tensor::<1, Int>::from_data(TensorData::new(at, [batch]), &device);
    let found = x.reshape([batch * time, heads, width]).select(0, at);
    let empty: Vec<bool> = lengths.iter().map(|&length| length == 0).collect();
    if !empty.contains(&true) {
        return found;
    }
    let empty = Tensor::<3, Bool>::from_data(TensorData::new(empty, [batch, 1, 1]), &device);
    found.mask_where(empty.expand([batch, heads, width]), before)
}
