//! The fused kernel: the pointwise mathematics of the cell in SIMD registers.

use seq_core::Lengths;
use seq_core::cpu::{Real, Simd};
use seq_core::recurrent::{
    Activation, Backward, Cell, Forward, Fused, Recurrence, State, Taken, clip_gradient, clip_lanes,
};

use crate::config::Zoneout;
use crate::layer::LstmCell;

/// The options of a cell that reach into the pointwise mathematics.
#[derive(Debug, Clone)]
struct LstmKernel {
    peephole: bool,
    clip: Option<f64>,
    cell_clip: Option<f64>,
    gate: Activation,
    cell: Activation,
    hidden: Activation,
}

/// By the fused kernel, which leaves projections, layer normalisation, zoneout and dropout inside the
/// recurrence to the reference.
pub(crate) fn fused(
    cell: &LstmCell,
    layer: Recurrence,
    lengths: Option<&Lengths>,
    reverse: bool,
) -> Fused {
    let drops = cell.gates_dropout.prob > 0.0 || cell.cell_dropout.prob > 0.0;
    if cell.weight_hr.is_some()
        || cell.zoneout != Zoneout::new()
        || (drops && cell.weights.is_training())
    {
        return Err(layer.into());
    }
    let kernel = LstmKernel {
        peephole: cell.peephole.is_some(),
        clip: cell.clip,
        cell_clip: cell.cell_clip,
        gate: cell.gate_activation,
        cell: cell.cell_activation,
        hidden: cell.hidden_activation,
    };
    let weights = cell.peephole.as_ref().map(|peephole| peephole.val());
    Recurrence { weights, ..layer }.run(kernel, lengths, reverse)
}

impl LstmKernel {
    #[inline(always)]
    fn activate<R: Real, S: Simd>(&self, s: S, activation: Activation, sum: R::V<S>) -> R::V<S> {
        activation.lanes_of_clipped::<R, S>(s, sum, self.clip)
    }

    #[inline(always)]
    fn slope<R: Real, S: Simd>(&self, s: S, activation: Activation, y: R::V<S>) -> R::V<S> {
        activation.slope_of_clipped::<R, S>(s, y, self.clip)
    }

    #[inline(always)]
    fn peep<R: Real, S: Simd>(&self, s: S, sum: R::V<S>, weight: R::V<S>, c: R::V<S>) -> R::V<S> {
        if self.peephole {
            R::mul_add(s, weight, c, sum)
        } else {
            sum
        }
    }
}

/// Slots and blocks of rows are the gates i, f, g, o, and what is kept is their values.
impl Cell<4, 4, 4, 3> for LstmKernel {
    const MEMORY: bool = true;
    const INPUT: [usize; 4] = [0, 1, 2, 3];
    const RECURRENT: [usize; 4] = [0, 1, 2, 3];

    #[inline(always)]
    fn forward<R: Real, S: Simd>(
        &self,
        s: S,
        [i, f, g, o]: [R::V<S>; 4],
        [w_i, w_f, w_o]: [R::V<S>; 3],
        before: State<R::V<S>>,
    ) -> Forward<R::V<S>, 4> {
        let i = self.activate::<R, S>(s, self.gate, self.peep::<R, S>(s, i, w_i, before.cell));
        let f = self.activate::<R, S>(s, self.gate, self.peep::<R, S>(s, f, w_f, before.cell));
        let g = self.activate::<R, S>(s, self.cell, g);
        let cell = R::mul_add(s, f, before.cell, R::vmul(s, i, g));
        let cell = clip_lanes::<R, S>(s, cell, self.cell_clip);
        let o = self.activate::<R, S>(s, self.gate, self.peep::<R, S>(s, o, w_o, cell));
        let hidden = R::vmul(s, o, self.hidden.lanes::<R, S>(s, cell));
        Forward {
            state: State { hidden, cell },
            kept: [i, f, g, o],
        }
    }

    #[inline(always)]
    fn backward<R: Real, S: Simd>(
        &self,
        s: S,
        Taken {
            kept: [i, f, g, o],
            before,
            after,
        }: Taken<R::V<S>, 4>,
        [w_i, w_f, w_o]: [R::V<S>; 3],
        gradient: State<R::V<S>>,
    ) -> Backward<R::V<S>, 4, 3> {
        let mul = |a, b| R::vmul(s, a, b);
        let zero = R::splat(s, R::ZERO);
        let y = self.hidden.lanes::<R, S>(s, after.cell);
        let d_o = mul(mul(gradient.hidden, y), self.slope::<R, S>(s, self.gate, o));
        let d_y = mul(gradient.hidden, o);
        let mut d_c = R::mul_add(s, d_y, self.hidden.slope::<R, S>(s, y), gradient.cell);
        d_c = self.peep::<R, S>(s, d_c, w_o, d_o);
        d_c = clip_gradient::<R, S>(s, d_c, after.cell, self.cell_clip);
        let d_i = mul(mul(d_c, g), self.slope::<R, S>(s, self.gate, i));
        let d_f = mul(mul(d_c, before.cell), self.slope::<R, S>(s, self.gate, f));
        let d_g = mul(mul(d_c, i), self.slope::<R, S>(s, self.cell, g));
        let d_before = self.peep::<R, S>(s, mul(d_c, f), w_i, d_i);
        let d_before = self.peep::<R, S>(s, d_before, w_f, d_f);
        Backward {
            sums: [d_i, d_f, d_g, d_o],
            weights: [
                mul(d_i, before.cell),
                mul(d_f, before.cell),
                mul(d_o, after.cell),
            ],
            before: State {
                hidden: zero,
                cell: d_before,
            },
        }
    }
}
