//! The pointwise mathematics of the cell in SIMD registers.

use seq_core::cpu::{Real, Simd};
use seq_core::recurrent::{Backward, Cell, Forward, State, Taken, clip_gradient, clip_lanes};

use crate::config::UpdateGate;
use crate::ops::GruKernel;

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
        let r = self.gate.lanes_of_clipped::<R, S>(s, r, self.clip);
        let z = self.gate.lanes_of_clipped::<R, S>(s, z, self.clip);
        let n = R::mul_add(s, r, recurrent, n);
        let n = self.hidden.lanes_of_clipped::<R, S>(s, n, self.clip);
        let hidden = match self.update {
            UpdateGate::Keep => R::mul_add(s, z, R::vsub(s, before.hidden, n), n),
            UpdateGate::Write => R::mul_add(s, z, R::vsub(s, n, before.hidden), before.hidden),
        };
        let hidden = clip_lanes::<R, S>(s, hidden, self.hidden_clip);
        Forward {
            state: State { hidden, ..before },
            kept: [n, r, z, recurrent],
        }
    }

    #[inline(always)]
    fn backward<R: Real, S: Simd>(
        &self,
        s: S,
        Taken {
            kept: [n, r, z, recurrent],
            before,
            after,
        }: Taken<R::V<S>, 4>,
        _: [R::V<S>; 0],
        gradient: State<R::V<S>>,
    ) -> Backward<R::V<S>, 4, 0> {
        let mul = |a, b| R::vmul(s, a, b);
        let d_h = clip_gradient::<R, S>(s, gradient.hidden, after.hidden, self.hidden_clip);
        let rest = R::vsub(s, R::splat(s, R::ONE), z);
        let (write, keep, d_z) = match self.update {
            UpdateGate::Keep => (rest, z, R::vsub(s, before.hidden, n)),
            UpdateGate::Write => (z, rest, R::vsub(s, n, before.hidden)),
        };
        let d_z = mul(
            mul(d_h, d_z),
            self.gate.slope_of_clipped::<R, S>(s, z, self.clip),
        );
        let d_n = mul(
            mul(d_h, write),
            self.hidden.slope_of_clipped::<R, S>(s, n, self.clip),
        );
        let d_r = mul(
            mul(d_n, recurrent),
            self.gate.slope_of_clipped::<R, S>(s, r, self.clip),
        );
        Backward {
            sums: [d_n, d_r, d_z, mul(d_n, r)],
            weights: [],
            before: State {
                hidden: mul(d_h, keep),
                ..gradient
            },
        }
    }
}
