use std::ops::Range;

use super::plan::Problem;
use crate::cpu::tile::{accumulate, tiles, with_rows};
use crate::cpu::{Buffer, Member, Real, Shared, Simd, WithSimd};
use crate::recurrent::cell::{Cell, State, Taken};

/// Registers a panel of the transposed recurrent weights holds.
const PANEL: usize = 4;

/// A backward run, as all threads see it.
pub(super) struct Pass<'a, R, C> {
    pub cell: &'a C,
    pub problem: &'a Problem<'a, R>,
    pub padded: usize,
    pub y: Option<&'a [R]>,
    /// The hidden and the cell states of the forward pass.
    pub states: (&'a Buffer<R>, &'a Buffer<R>),
    /// What the forward pass kept, then the gradients of the sums: `[time, batch, G, padded]`.
    pub sums: Shared<R>,
    /// The gradients of the states on their way back: `[batch, padded]`.
    pub hidden: Shared<R>,
    pub memory: Shared<R>,
    /// Of the gated hidden states of one step.
    pub gated: Shared<R>,
    pub bias_gradients: Shared<R>,
    pub weight_gradients: Shared<R>,
    pub weights: &'a Buffer<R>,
}

/// One thread of it, which owns some of the hidden units.
pub(super) struct Thread<
    'a,
    'm,
    R,
    C,
    const G: usize,
    const I: usize,
    const H: usize,
    const U: usize,
    const D: usize,
> {
    pub pass: &'a Pass<'a, R, C>,
    pub member: &'a Member<'m>,
}

impl<R: Real, C, const G: usize, const I: usize, const H: usize, const U: usize, const D: usize>
    WithSimd for Thread<'_, '_, R, C, G, I, H, U, D>
where
    C: Cell<G, I, H, U, D>,
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { pass, member } = self;
        let Problem { time, d_hidden, .. } = *pass.problem;
        let lanes = R::lanes::<S>();
        let own = member.share(d_hidden.div_ceil(lanes));
        let units = columns::<R, S>(&own);
        let width = PANEL * lanes;
        let panels = pack_transposed::<R, H>(units.clone(), width, pass.problem, C::RECURRENT);
        let gated_panels = pack_transposed::<R, D>(units.clone(), width, pass.problem, C::GATED);
        for step in (0..time).rev() {
            for block in own.clone() {
                // SAFETY: the block is this thread's own.
                unsafe { self.retreat(s, step, block) };
            }
            if D > 0 {
                member.wait();
                // SAFETY: the units are this thread's own, and the sums of the step were complete at the
                // barrier, those of the slots before the last `D` apart, which are not read here.
                unsafe { self.multiply::<S, D>(s, step, &own, G - D, &gated_panels, pass.gated) };
                for block in own.clone() {
                    // SAFETY: the block is this thread's own.
                    unsafe { self.open(s, step, block) };
                }
            }
            if H + D > 0 {
                member.wait();
            }
            // SAFETY: the units are this thread's own, and the sums of the step were complete at the
            // barrier.
            unsafe { self.multiply::<S, H>(s, step, &own, G - H - D, &panels, pass.hidden) };
        }
    }
}

impl<R: Real, C, const G: usize, const I: usize, const H: usize, const U: usize, const D: usize>
    Thread<'_, '_, R, C, G, I, H, U, D>
where
    C: Cell<G, I, H, U, D>,
{
    /// The pointwise gradient of one step for one block of units.
    #[inline(always)]
    unsafe fn retreat<S: Simd>(&self, s: S, step: usize, block: usize) {
        let pass = self.pass;
        let problem = pass.problem;
        let (lanes, padded, batch) = (R::lanes::<S>(), pass.padded, problem.batch);
        let zero = R::splat(s, R::ZERO);
        let unit = block * lanes;
        let rest = (problem.d_hidden - unit).min(lanes);
        let (hidden_states, cell_states) = (
            pass.states.0.as_slice().as_ptr(),
            pass.states.1.as_slice().as_ptr(),
        );
        // SAFETY: every address is that of a whole register inside its buffer, and the columns are
        // this thread's own.
        unsafe {
            let weights: [R::V<S>; U] = std::array::from_fn(|u| {
                R::load(s, pass.weights.as_slice().as_ptr().add(u * padded + unit))
            });
            let mut biases = [zero; G];
            let mut weight_gradients = [zero; U];
            for row in 0..batch {
                let at = row * padded + unit;
                let sums = pass.sums.at((step * batch + row) * G * padded + unit);
                if step >= problem.length(row) {
                    for g in 0..G {
                        R::store(s, sums.add(g * padded), zero);
                    }
                    continue;
                }
                let state = |step: usize| State {
                    hidden: R::load(s, hidden_states.add(step * batch * padded + at)),
                    cell: match C::MEMORY {
                        true => R::load(s, cell_states.add(step * batch * padded + at)),
                        false => zero,
                    },
                };
                let taken = Taken {
                    kept: std::array::from_fn(|g| R::load(s, sums.add(g * padded))),
                    before: state(step),
                    after: state(step + 1),
                };
                let mut gradient = State {
                    hidden: R::load(s, pass.hidden.at(at)),
                    cell: R::load(s, pass.memory.at(at)),
                };
                if let Some(y) = pass.y {
                    let position = row * problem.time + problem.position(row, step);
                    let y =
                        R::load_first(s, y.as_ptr().add(position * problem.d_hidden + unit), rest);
                    gradient.hidden = R::vadd(s, gradient.hidden, y);
                }
                let out = pass.cell.backward::<R, S>(s, taken, weights, gradient);
                for (g, &sum) in out.sums.iter().enumerate() {
                    R::store(s, sums.add(g * padded), sum);
                    // The gate has yet to give some of them more.
                    if D == 0 {
                        biases[g] = R::vadd(s, biases[g], sum);
                    }
                }
                for (total, &one) in weight_gradients.iter_mut().zip(&out.weights) {
                    *total = R::vadd(s, *total, one);
                }
                R::store(s, pass.hidden.at(at), out.before.hidden);
                R::store(s, pass.memory.at(at), out.before.cell);
            }
            let add = |to: *mut R, value| R::store(s, to, R::vadd(s, R::load(s, to), value));
            for (g, &bias) in biases.iter().enumerate() {
                add(pass.bias_gradients.at(g * padded + unit), bias);
            }
            for (u, &weight) in weight_gradients.iter().enumerate() {
                add(pass.weight_gradients.at(u * padded + unit), weight);
            }
        }
    }

    /// The gradient of the gate, of one step for one block of units.
    #[inline(always)]
    unsafe fn open<S: Simd>(&self, s: S, step: usize, block: usize) {
        let pass = self.pass;
        let (padded, batch) = (pass.padded, pass.problem.batch);
        let unit = block * R::lanes::<S>();
        let zero = R::splat(s, R::ZERO);
        let states = pass.states.0.as_slice().as_ptr();
        // SAFETY: every address is that of a whole register inside its buffer, and the columns are
        // this thread's own.
        unsafe {
            let mut biases = [zero; G];
            for row in 0..batch {
                let at = row * padded + unit;
                let gradient = R::load(s, pass.gated.at(at));
                R::store(s, pass.gated.at(at), zero);
                if step >= pass.problem.length(row) {
                    continue;
                }
                let sums = pass.sums.at((step * batch + row) * G * padded + unit);
                let before = State {
                    hidden: R::load(s, states.add(step * batch * padded + at)),
                    cell: zero,
                };
                let values = std::array::from_fn(|g| R::load(s, sums.add(g * padded)));
                let (values, hidden) = pass.cell.gate_backward::<R, S>(s, values, before, gradient);
                for (g, &value) in values.iter().enumerate() {
                    // Other threads may still read the last slots.
                    if g < G - D {
                        R::store(s, sums.add(g * padded), value);
                    }
                    biases[g] = R::vadd(s, biases[g], value);
                }
                let to = pass.hidden.at(at);
                R::store(s, to, R::vadd(s, R::load(s, to), hidden));
            }
            for (g, &bias) in biases.iter().enumerate() {
                let to = pass.bias_gradients.at(g * padded + unit);
                R::store(s, to, R::vadd(s, R::load(s, to), bias));
            }
        }
    }

    /// Adds what the gradients of `V` slots' sums, from `slot` on, give through their product to those
    /// of what it was the product of, for the units of `own`.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const V: usize>(
        &self,
        s: S,
        step: usize,
        own: &Range<usize>,
        slot: usize,
        panels: &Buffer<R>,
        out: Shared<R>,
    ) {
        if V == 0 {
            return;
        }
        let lanes = R::lanes::<S>();
        let (width, units) = (PANEL * lanes, columns::<R, S>(own));
        for (panel, unit) in units.clone().step_by(width).enumerate() {
            let carry = Carry {
                slot,
                unit,
                blocks: ((units.end - unit) / lanes).min(PANEL),
                panel: &panels.as_slice()[panel * V * self.pass.padded * width..],
                out,
            };
            for (first, count) in tiles::<S>(self.pass.problem.batch) {
                // SAFETY: by the caller's promise.
                unsafe { with_rows!(count, M => self.carry::<S, M, V>(s, step, first, &carry)) }
            }
        }
    }

    /// As [`multiply`](Self::multiply), for `M` sequences and one panel of units.
    #[inline(always)]
    unsafe fn carry<S: Simd, const M: usize, const V: usize>(
        &self,
        s: S,
        step: usize,
        first: usize,
        to: &Carry<'_, R>,
    ) {
        let pass = self.pass;
        let (lanes, padded, batch) = (R::lanes::<S>(), pass.padded, pass.problem.batch);
        // SAFETY: every address is that of a whole register inside its buffer, and the columns are
        // this thread's own.
        unsafe {
            let rows: [*const R; M] = std::array::from_fn(|m| {
                let sums = (step * batch + first + m) * G * padded;
                pass.sums.at(sums + to.slot * padded).cast_const()
            });
            let mut acc = [[[R::splat(s, R::ZERO); PANEL]]; M];
            let panel = to.panel.as_ptr();
            accumulate::<R, S, M, 1, PANEL>(s, V * padded, rows, [panel], &mut acc);
            for (m, [acc]) in acc.iter().enumerate() {
                for (block, &sum) in acc.iter().enumerate().take(to.blocks) {
                    let out = to.out.at((first + m) * padded + to.unit + block * lanes);
                    R::store(s, out, R::vadd(s, R::load(s, out), sum));
                }
            }
        }
    }
}

/// A panel of units on the way back.
struct Carry<'a, R> {
    /// The first slot of the sums.
    slot: usize,
    /// The first unit.
    unit: usize,
    /// How many registers of units there are.
    blocks: usize,
    /// The transposed weights.
    panel: &'a [R],
    /// `[batch, padded]`
    out: Shared<R>,
}

/// The units of a thread's blocks, those beyond the last hidden unit included.
#[inline(always)]
fn columns<R: Real, S: Simd>(blocks: &Range<usize>) -> Range<usize> {
    blocks.start * R::lanes::<S>()..blocks.end * R::lanes::<S>()
}

/// The recurrent weights for the way back: panels `[H * padded, width]` of the columns `units`.
fn pack_transposed<R: Real, const H: usize>(
    units: Range<usize>,
    width: usize,
    problem: &Problem<'_, R>,
    gates: [usize; H],
) -> Buffer<R> {
    let (hidden, padded) = (problem.d_hidden, problem.padded());
    let panels = units.len().div_ceil(width);
    let mut out = Buffer::zeroed(panels * H * padded * width);
    let mut rows = out.as_mut_slice().chunks_mut(width);
    for first in units.clone().step_by(width) {
        let count = units.end.min(hidden).saturating_sub(first).min(width);
        for gate in gates {
            for unit in 0..padded {
                let row = rows.next().expect("a row for every unit of every panel");
                if unit < hidden {
                    let from = (gate * hidden + unit) * hidden + first;
                    row[..count].copy_from_slice(&problem.weight_hh[from..from + count]);
                }
            }
        }
    }
    out
}
