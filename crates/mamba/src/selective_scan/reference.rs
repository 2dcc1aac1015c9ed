//! The selective scan in plain tensor operations, which specify it.

use burn::tensor::Tensor;
use seq_core::recurrent::{Activation, unroll};
use seq_core::{SequenceState, StateMapper};

use super::{SelectiveScan, reset_mask};

pub(super) fn run(scan: SelectiveScan) -> (Tensor<3>, Tensor<3>) {
    let dims @ [batch, time, d_inner] = scan.u.dims();
    let [_, d_state] = scan.a.dims();
    let clear = |x: Tensor<3>| match &scan.lengths {
        Some(lengths) => lengths.clear(x),
        None => x,
    };
    // What the padding holds, NaN perhaps, must not reach a gradient.
    let (u, delta) = (clear(scan.u), clear(scan.delta));
    let z = scan.z.map(clear);
    let delta = match scan.delta_bias {
        Some(bias) => delta + bias.unsqueeze(),
        None => delta,
    };
    let delta = match scan.delta_softplus {
        true => softplus(delta),
        false => delta,
    };
    // [batch, time, d_inner, d_state]
    let decay = (delta.clone().unsqueeze_dim::<4>(3) * scan.a.unsqueeze::<4>()).exp();
    let decay = match &scan.resets {
        Some(resets) => {
            let mask = reset_mask(resets, &u).reshape([batch, time, 1, 1]);
            decay.clone().mask_fill(mask.expand(decay.dims()), 0.0)
        }
        None => decay,
    };
    let written = (delta * u.clone()).unsqueeze_dim::<4>(3) * scan.b.spread(dims);
    let c = scan.c.spread(dims);
    let state = scan
        .state
        .unwrap_or_else(|| Tensor::zeros([batch, d_inner, d_state], (&u.device(), u.dtype())));

    let width = d_inner * d_state;
    let rows = |x: Tensor<4>| x.reshape([batch, time, width]);
    let inputs = Tensor::cat(vec![rows(decay), rows(written)], 2);
    let (states, State(last)) = unroll(
        inputs,
        scan.lengths.as_ref(),
        false,
        State(state),
        |inputs, State(before)| {
            let part = |first| {
                let part: Tensor<2> = inputs.clone().narrow(1, first, width);
                part.reshape([batch, d_inner, d_state])
            };
            let state = part(0) * before + part(width);
            (state.clone().reshape([batch, width]), State(state))
        },
    );
    let states = states.reshape([batch, time, d_inner, d_state]);
    let mut y: Tensor<3> = (states * c).sum_dim(3).squeeze_dim(3);
    if let Some(d) = scan.d {
        y = y + u * d.unsqueeze();
    }
    if let Some(z) = z {
        // Burn's own silu goes by way of f32.
        y = y * z.clone() * Activation::Sigmoid.forward(z);
    }
    (y, last)
}

/// log(1 + e^x) without overflow.
pub(crate) fn softplus<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone().clamp_min(0.0) + (-x.abs()).exp().log1p()
}

/// `[batch, d_inner, d_state]`
#[derive(Debug, Clone)]
struct State(Tensor<3>);

impl SequenceState for State {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self(mapper.tensor("state", self.0))
    }
}
