//! The fused kernel: the pointwise mathematics of the cell in SIMD registers.

use seq_core::Lengths;
use seq_core::cpu::{Real, Simd};
use seq_core::recurrent::{
    Activation, Backward, Cell, Forward, Fused, Recurrence, State, Taken, clip_gradient, clip_lanes,
};

use crate::config::UpdateGate;
use crate::layer::GruCell;

/// The options of a cell that reach into the pointwise mathematics.
#[derive(Debug, Clone)]
struct GruKernel {
    update: UpdateGate,
    clip: Option<f64>,
    hidden_clip: Option<f64>,
    gate: Activation,
    hidden: Activation,
}

/// As [`GruKernel`], with the reset gate before the recurrent product.
#[derive(Debug, Clone)]
struct ResetBeforeKernel(GruKernel);

/// By the fused kernel, which leaves zoneout to the reference.
pub(crate) fn fused(
    cell: &GruCell,
    layer: Recurrence,
    lengths: Option<&Lengths>,
    reverse: bool,
) -> Fused {
    if cell.zoneout > 0.0 {
        return Err(layer.into());
    }
    let kernel = GruKernel {
        update: cell.update_gate,
        clip: cell.clip,
        hidden_clip: cell.hidden_clip,
        gate: cell.gate_activation,
        hidden: cell.hidden_activation,
    };
    match cell.reset_after {
        true => layer.run(kernel, lengths, reverse),
        false => layer.run(ResetBeforeKernel(kernel), lengths, reverse),
    }
}

impl GruKernel {
    /// The gates of their sums.
    #[inline(always)]
    fn open<R: Real, S: Simd>(&self, s: S, sum: R::V<S>) -> R::V<S> {
        self.gate.lanes_of_clipped::<R, S>(s, sum, self.clip)
    }

    /// The candidate of its sum, and the state after.
    #[inline(always)]
    fn update<R: Real, S: Simd>(
        &self,
        s: S,
        n: R::V<S>,
        z: R::V<S>,
        before: State<R::V<S>>,
    ) -> (R::V<S>, State<R::V<S>>) {
        let n = self.hidden.lanes_of_clipped::<R, S>(s, n, self.clip);
        let hidden = match self.update {
            UpdateGate::Keep => R::mul_add(s, z, R::vsub(s, before.hidden, n), n),
            UpdateGate::Write => R::mul_add(s, z, R::vsub(s, n, before.hidden), before.hidden),
        };
        let hidden = clip_lanes::<R, S>(s, hidden, self.hidden_clip);
        (n, State { hidden, ..before })
    }

    /// The gradients of the candidate's sum, of the update gate's, and of the hidden state before.
    #[inline(always)]
    fn update_backward<R: Real, S: Simd, const G: usize>(
        &self,
        s: S,
        [n, z]: [R::V<S>; 2],
        taken: &Taken<R::V<S>, G>,
        gradient: State<R::V<S>>,
    ) -> [R::V<S>; 3] {
        let mul = |a, b| R::vmul(s, a, b);
        let before = taken.before.hidden;
        let d_h = clip_gradient::<R, S>(s, gradient.hidden, taken.after.hidden, self.hidden_clip);
        let rest = R::vsub(s, R::splat(s, R::ONE), z);
        let (write, keep, d_z) = match self.update {
            UpdateGate::Keep => (rest, z, R::vsub(s, before, n)),
            UpdateGate::Write => (z, rest, R::vsub(s, n, before)),
        };
        let d_n = self.hidden.slope_of_clipped::<R, S>(s, n, self.clip);
        let d_n = mul(mul(d_h, write), d_n);
        let d_z = mul(mul(d_h, d_z), self.open_slope::<R, S>(s, z));
        [d_n, d_z, mul(d_h, keep)]
    }

    /// The slope of a gate of this value.
    #[inline(always)]
    fn open_slope<R: Real, S: Simd>(&self, s: S, gate: R::V<S>) -> R::V<S> {
        self.gate.slope_of_clipped::<R, S>(s, gate, self.clip)
    }
}

/// The slots are the candidate's input product, the gates r and z, and the candidate's recurrent
/// product. Kept are the candidate, the gates, and the recurrent product.
impl Cell<4, 3, 3, 0> for GruKernel {
    const MEMORY: bool = false;
    const INPUT: [usize; 3] = [2, 0, 1];
    const RECURRENT: [usize; 3] = [0, 1, 2];

    #[inline(always)]
    fn forward<R: Real, S: Simd>(
        &self,
        s: S,
        [n, r, z, recurrent]: [R::V<S>; 4],
        _: [R::V<S>; 0],
        before: State<R::V<S>>,
    ) -> Forward<R::V<S>, 4> {
        let (r, z) = (self.open::<R, S>(s, r), self.open::<R, S>(s, z));
        let n = R::mul_add(s, r, recurrent, n);
        let (n, state) = self.update::<R, S>(s, n, z, before);
        Forward {
            state,
            kept: [n, r, z, recurrent],
        }
    }

    #[inline(always)]
    fn backward<R: Real, S: Simd>(
        &self,
        s: S,
        taken: Taken<R::V<S>, 4>,
        _: [R::V<S>; 0],
        gradient: State<R::V<S>>,
    ) -> Backward<R::V<S>, 4, 0> {
        let [n, r, z, recurrent] = taken.kept;
        let [d_n, d_z, hidden] = self.update_backward::<R, S, 4>(s, [n, z], &taken, gradient);
        let d_r = R::vmul(s, d_n, recurrent);
        let d_r = R::vmul(s, d_r, self.open_slope::<R, S>(s, r));
        Backward {
            sums: [d_n, d_r, d_z, R::vmul(s, d_n, r)],
            weights: [],
            before: State { hidden, ..gradient },
        }
    }
}

/// The slots are the gates r and z and the candidate, of which each takes the sum of both products: the
/// candidate that of the gated hidden state.
impl Cell<3, 3, 2, 0, 1> for ResetBeforeKernel {
    const MEMORY: bool = false;
    const INPUT: [usize; 3] = [0, 1, 2];
    const RECURRENT: [usize; 2] = [0, 1];
    const GATED: [usize; 1] = [2];

    #[inline(always)]
    fn gate<R: Real, S: Simd>(
        &self,
        s: S,
        [r, ..]: [R::V<S>; 3],
        before: State<R::V<S>>,
    ) -> R::V<S> {
        R::vmul(s, self.0.open::<R, S>(s, r), before.hidden)
    }

    #[inline(always)]
    fn forward<R: Real, S: Simd>(
        &self,
        s: S,
        [r, z, n]: [R::V<S>; 3],
        _: [R::V<S>; 0],
        before: State<R::V<S>>,
    ) -> Forward<R::V<S>, 3> {
        let (r, z) = (self.0.open::<R, S>(s, r), self.0.open::<R, S>(s, z));
        let (n, state) = self.0.update::<R, S>(s, n, z, before);
        Forward {
            state,
            kept: [r, z, n],
        }
    }

    /// Leaves the reset gate's value where its gradient will be.
    #[inline(always)]
    fn backward<R: Real, S: Simd>(
        &self,
        s: S,
        taken: Taken<R::V<S>, 3>,
        _: [R::V<S>; 0],
        gradient: State<R::V<S>>,
    ) -> Backward<R::V<S>, 3, 0> {
        let [r, z, n] = taken.kept;
        let [d_n, d_z, hidden] = self
            .0
            .update_backward::<R, S, 3>(s, [n, z], &taken, gradient);
        Backward {
            sums: [r, d_z, d_n],
            weights: [],
            before: State { hidden, ..gradient },
        }
    }

    #[inline(always)]
    fn gate_backward<R: Real, S: Simd>(
        &self,
        s: S,
        [r, d_z, d_n]: [R::V<S>; 3],
        before: State<R::V<S>>,
        gradient: R::V<S>,
    ) -> ([R::V<S>; 3], R::V<S>) {
        let d_r = R::vmul(s, gradient, before.hidden);
        let d_r = R::vmul(s, d_r, self.0.open_slope::<R, S>(s, r));
        ([d_r, d_z, d_n], R::vmul(s, gradient, r))
    }
}
