//! The weights in the order in which the kernels read them.

use super::plan::Problem;
use crate::cpu::{Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd};

/// Both weights of a layer, for each block of as many hidden units as a register has lanes a panel
/// `[depth, slots, lanes]`.
pub(crate) struct Packed<R> {
    /// `[blocks, d_input, I, lanes]`
    pub input: Buffer<R>,
    /// `[blocks, d_hidden, H, lanes]`
    pub recurrent: Buffer<R>,
    /// `[blocks, d_hidden, D, lanes]`
    pub gated: Buffer<R>,
}

impl<R: Real> Packed<R> {
    /// Packs the blocks of rows of `weight_ih` and `weight_hh` that the slots belong to.
    pub fn new<const I: usize, const H: usize, const D: usize>(
        problem: &Problem<'_, R>,
        input_gates: [usize; I],
        recurrent_gates: [usize; H],
        gated_gates: [usize; D],
    ) -> Self {
        let (d_input, d_hidden, padded) = (problem.d_input, problem.d_hidden, problem.padded());
        // SAFETY: the threads write every element.
        let new = |size| unsafe { Buffer::uninit(padded * size) };
        let (mut input, mut recurrent, mut gated) =
            (new(d_input * I), new(d_hidden * H), new(d_hidden * D));
        let arch = Arch::new();
        let outs = (input.shared(), recurrent.shared(), gated.shared());
        Team::run(
            problem.threads(padded * (d_input * I + d_hidden * (H + D))),
            |member| {
                arch.dispatch(Pack {
                    member,
                    d_hidden,
                    depth: d_input,
                    gates: input_gates,
                    weights: problem.weight_ih,
                    out: outs.0,
                });
                arch.dispatch(Pack {
                    member,
                    d_hidden,
                    depth: d_hidden,
                    gates: recurrent_gates,
                    weights: problem.weight_hh,
                    out: outs.1,
                });
                arch.dispatch(Pack {
                    member,
                    d_hidden,
                    depth: d_hidden,
                    gates: gated_gates,
                    weights: problem.weight_hh,
                    out: outs.2,
                });
            },
        );
        Self {
            input,
            recurrent,
            gated,
        }
    }
}

/// The part of one thread in packing `weights`, `[gates * d_hidden, depth]`.
struct Pack<'a, 'm, R, const V: usize> {
    member: &'a Member<'m>,
    d_hidden: usize,
    depth: usize,
    gates: [usize; V],
    weights: &'a [R],
    out: Shared<R>,
}

impl<R: Real, const V: usize> WithSimd for Pack<'_, '_, R, V> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self {
            d_hidden, depth, ..
        } = self;
        let lanes = R::lanes::<S>();
        let panel = depth * V * lanes;
        for block in self.member.share(d_hidden.div_ceil(lanes)) {
            // SAFETY: the panel is this thread's own, and the loops below write all of it, the lanes
            // beyond `d_hidden` as zeros.
            let panel =
                unsafe { std::slice::from_raw_parts_mut(self.out.at(block * panel), panel) };
            for (v, gate) in self.gates.into_iter().enumerate() {
                let unit = block * lanes;
                let rows = &self.weights[(gate * d_hidden + unit) * depth..];
                let count = (d_hidden - unit).min(lanes);
                // A square at a time: written straight to the panel, every element would touch a cache
                // line of its own.
                for first in (0..depth).step_by(SQUARE) {
                    let columns = SQUARE.min(depth - first);
                    let mut square = [[R::ZERO; SQUARE]; SQUARE];
                    for lane in 0..count {
                        let row = &rows[lane * depth + first..][..columns];
                        for (column, &weight) in square.iter_mut().zip(row) {
                            column[lane] = weight;
                        }
                    }
                    let steps = panel[first * V * lanes..].chunks_mut(V * lanes);
                    for (step, column) in steps.zip(&square).take(columns) {
                        step[v * lanes..][..lanes].copy_from_slice(&column[..lanes]);
                    }
                }
            }
        }
    }
}

/// At least the lanes of any register.
const SQUARE: usize = 16;
