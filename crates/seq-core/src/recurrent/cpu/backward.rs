use super::forward::{Saved, columns};
use super::plan::Problem;
use crate::cpu::tile::{accumulate, tiles, with_rows};
use crate::cpu::{Arch, Buffer, Matrix, Member, Real, Shared, Simd, Team, WithSimd, product};
use crate::recurrent::cell::{Cell, State, Taken};

/// Registers a panel of the transposed recurrent weights holds.
const PANEL: usize = 4;

/// The gradients that come in: of the outputs `[batch, time, d_hidden]` and of the final states
/// `[batch, d_hidden]`.
pub(crate) struct Incoming<'a, R> {
    pub y: Option<&'a [R]>,
    pub hidden: Option<&'a [R]>,
    pub cell: Option<&'a [R]>,
}

/// The gradients that go out, each of the shape of what it belongs to. Both biases get the same where
/// a gate takes the sum of both.
pub(crate) struct Gradients<R> {
    pub x: Option<Vec<R>>,
    pub weight_ih: Option<Vec<R>>,
    pub weight_hh: Option<Vec<R>>,
    pub bias_ih: Vec<R>,
    pub bias_hh: Vec<R>,
    pub weights: Vec<R>,
    pub hidden: Vec<R>,
    pub cell: Vec<R>,
}

/// Backpropagation through time: the gradients of the sums of the whole sequence first, then those of
/// the weights and of `x` as one product each, if they are `wanted`: `x`, `weight_ih`, `weight_hh`.
pub(crate) fn backward<R: Real, C, const G: usize, const I: usize, const H: usize, const U: usize>(
    cell: &C,
    problem: &Problem<'_, R>,
    saved: Saved<R>,
    incoming: Incoming<'_, R>,
    [with_x, with_weight_ih, with_weight_hh]: [bool; 3],
) -> Gradients<R>
where
    C: Cell<G, I, H, U>,
{
    let Problem {
        batch,
        time,
        d_input,
        d_hidden,
        ..
    } = *problem;
    let padded = problem.padded();
    let row = G * padded;
    // The gradients of the sums take the place of what the forward pass kept, unless someone else
    // will read that again.
    let mut kept = std::sync::Arc::unwrap_or_clone(saved.kept);
    let mut hidden = Buffer::zeroed(batch * padded);
    let mut memory = Buffer::zeroed(batch * padded);
    let mut biases = Buffer::zeroed(G * padded);
    let mut weights = Buffer::zeroed(U * padded);
    problem.pad(incoming.hidden, hidden.as_mut_slice());
    problem.pad(incoming.cell, memory.as_mut_slice());
    let pass = Pass {
        cell,
        problem,
        padded,
        y: incoming.y,
        states: (&saved.hidden, &saved.cell),
        sums: kept.shared(),
        hidden: hidden.shared(),
        memory: memory.shared(),
        bias_gradients: biases.shared(),
        weight_gradients: weights.shared(),
        weights: &problem.slot_weights(U),
    };
    let arch = Arch::new();
    Team::run(problem.threads(batch * d_hidden * H * d_hidden), |member| {
        arch.dispatch(Thread {
            pass: &pass,
            member,
        });
    });

    let rows = time * batch;
    let sums = kept.as_slice();
    let x = time_major(problem);
    // Of an empty batch there are no sums to begin with.
    let sums_of = |slot: usize| Matrix::rows(sums.get(slot * padded..).unwrap_or_default(), row);
    let mut weight_ih = with_weight_ih.then(|| vec![R::ZERO; I * d_hidden * d_input]);
    let mut weight_hh = with_weight_hh.then(|| vec![R::ZERO; H * d_hidden * d_hidden]);
    let (mut bias_ih, mut bias_hh) = (vec![R::ZERO; I * d_hidden], vec![R::ZERO; H * d_hidden]);
    if let Some(out) = &mut weight_ih {
        for slots in runs(C::INPUT, d_hidden == padded) {
            product(
                [slots.count * d_hidden, rows, d_input],
                sums_of(slots.first).transposed(),
                Matrix::rows(&x, d_input),
                &mut out[slots.gate * d_hidden * d_input..],
                d_input,
                false,
            );
        }
    }
    if let Some(out) = &mut weight_hh {
        for slots in runs(C::RECURRENT, d_hidden == padded) {
            product(
                [slots.count * d_hidden, rows, d_hidden],
                sums_of(G - H + slots.first).transposed(),
                Matrix::rows(saved.hidden.as_slice(), padded),
                &mut out[slots.gate * d_hidden * d_hidden..],
                d_hidden,
                false,
            );
        }
    }
    let slot = |slot: usize| &biases.as_slice()[slot * padded..][..d_hidden];
    for (i, gate) in C::INPUT.into_iter().enumerate() {
        bias_ih[gate * d_hidden..][..d_hidden].copy_from_slice(slot(i));
    }
    for (h, gate) in C::RECURRENT.into_iter().enumerate() {
        bias_hh[gate * d_hidden..][..d_hidden].copy_from_slice(slot(G - H + h));
    }
    let x = with_x.then(|| {
        let mut steps = x;
        for (index, slots) in runs(C::INPUT, d_hidden == padded).into_iter().enumerate() {
            let sums = sums_of(slots.first);
            let weights = Matrix::rows(
                &problem.weight_ih[slots.gate * d_hidden * d_input..],
                d_input,
            );
            product(
                [rows, slots.count * d_hidden, d_input],
                sums,
                weights,
                &mut steps,
                d_input,
                index > 0,
            );
        }
        batch_major(problem, &steps)
    });
    Gradients {
        x,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        weights: problem.unpad(weights.as_slice()),
        hidden: problem.unpad(hidden.as_slice()),
        cell: problem.unpad(memory.as_slice()),
    }
}

/// Neighbouring slots whose rows are neighbours in the weights as well.
struct Run {
    first: usize,
    gate: usize,
    count: usize,
}

/// All slots at once where they lie like the rows of the weights, else one by one.
fn runs<const N: usize>(gates: [usize; N], unpadded: bool) -> Vec<Run> {
    let in_order = gates.iter().enumerate().all(|(slot, &gate)| slot == gate);
    match unpadded && in_order {
        true => vec![Run {
            first: 0,
            gate: 0,
            count: N,
        }],
        false => {
            let slots = gates.into_iter().enumerate();
            slots
                .map(|(first, gate)| Run {
                    first,
                    gate,
                    count: 1,
                })
                .collect()
        }
    }
}

/// The steps of `x` in the order in which they are taken: `[time, batch, d_input]`, zero where a
/// sequence has ended.
fn time_major<R: Real>(problem: &Problem<'_, R>) -> Vec<R> {
    let Problem {
        batch,
        time,
        d_input,
        x,
        ..
    } = *problem;
    let mut out = Vec::with_capacity(time * batch * d_input);
    for step in 0..time {
        for row in 0..batch {
            match step < problem.length(row) {
                true => {
                    let from = (row * time + problem.position(row, step)) * d_input;
                    out.extend_from_slice(&x[from..from + d_input]);
                }
                false => out.resize(out.len() + d_input, R::ZERO),
            }
        }
    }
    out
}

/// The reverse of [`time_major`].
fn batch_major<R: Real>(problem: &Problem<'_, R>, steps: &[R]) -> Vec<R> {
    let Problem {
        batch,
        time,
        d_input,
        ..
    } = *problem;
    let mut out = vec![R::ZERO; batch * time * d_input];
    for (index, from) in steps.chunks(d_input).enumerate() {
        let (step, row) = (index / batch, index % batch);
        if step < problem.length(row) {
            let to = (row * time + problem.position(row, step)) * d_input;
            out[to..to + d_input].copy_from_slice(from);
        }
    }
    out
}

/// A backward run, as all threads see it.
struct Pass<'a, R, C> {
    cell: &'a C,
    problem: &'a Problem<'a, R>,
    padded: usize,
    y: Option<&'a [R]>,
    /// The hidden and the cell states of the forward pass.
    states: (&'a Buffer<R>, &'a Buffer<R>),
    /// What the forward pass kept, then the gradients of the sums: `[time, batch, G, padded]`.
    sums: Shared<R>,
    /// The gradients of the states on their way back: `[batch, padded]`.
    hidden: Shared<R>,
    memory: Shared<R>,
    bias_gradients: Shared<R>,
    weight_gradients: Shared<R>,
    weights: &'a Buffer<R>,
}

/// One thread of it, which owns some of the hidden units.
struct Thread<'a, 'm, R, C, const G: usize, const I: usize, const H: usize, const U: usize> {
    pass: &'a Pass<'a, R, C>,
    member: &'a Member<'m>,
}

impl<R: Real, C, const G: usize, const I: usize, const H: usize, const U: usize> WithSimd
    for Thread<'_, '_, R, C, G, I, H, U>
where
    C: Cell<G, I, H, U>,
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { pass, member } = self;
        let Problem {
            batch,
            time,
            d_hidden,
            ..
        } = *pass.problem;
        let lanes = R::lanes::<S>();
        let own = member.share(d_hidden.div_ceil(lanes));
        let units = columns::<R, S>(&own);
        let width = PANEL * lanes;
        let depth = H * pass.padded;
        let panels = pack_transposed::<R, H>(units.clone(), width, pass.problem, C::RECURRENT);
        for step in (0..time).rev() {
            for block in own.clone() {
                // SAFETY: the block is this thread's own.
                unsafe { self.retreat(s, step, block) };
            }
            if H == 0 {
                continue;
            }
            member.wait();
            for (panel, unit) in units.clone().step_by(width).enumerate() {
                let panel = &panels.as_slice()[panel * depth * width..];
                let blocks = ((units.end - unit) / lanes).min(PANEL);
                for (first, count) in tiles::<S>(batch) {
                    // SAFETY: the units are this thread's own, and the sums of the step were complete
                    // at the barrier.
                    unsafe {
                        with_rows!(count, M => self.carry::<S, M>(s, step, first, unit, blocks, panel.as_ptr()))
                    }
                }
            }
        }
    }
}

impl<R: Real, C, const G: usize, const I: usize, const H: usize, const U: usize>
    Thread<'_, '_, R, C, G, I, H, U>
where
    C: Cell<G, I, H, U>,
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
                    biases[g] = R::vadd(s, biases[g], sum);
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

    /// Adds what the gradients of `M` sequences' sums give through the recurrent product to those of
    /// the hidden state before, for `blocks` registers of units.
    #[inline(always)]
    unsafe fn carry<S: Simd, const M: usize>(
        &self,
        s: S,
        step: usize,
        first: usize,
        unit: usize,
        blocks: usize,
        panel: *const R,
    ) {
        let pass = self.pass;
        let (lanes, padded, batch) = (R::lanes::<S>(), pass.padded, pass.problem.batch);
        // SAFETY: every address is that of a whole register inside its buffer, and the columns are
        // this thread's own.
        unsafe {
            let rows: [*const R; M] = std::array::from_fn(|m| {
                let sums = (step * batch + first + m) * G * padded;
                pass.sums.at(sums + (G - H) * padded).cast_const()
            });
            let mut acc = [[R::splat(s, R::ZERO); PANEL]; M];
            accumulate::<R, S, M, PANEL>(s, H * padded, rows, panel, &mut acc);
            for (m, acc) in acc.iter().enumerate() {
                for (block, &sum) in acc.iter().enumerate().take(blocks) {
                    let hidden = pass.hidden.at((first + m) * padded + unit + block * lanes);
                    R::store(s, hidden, R::vadd(s, R::load(s, hidden), sum));
                }
            }
        }
    }
}

/// The recurrent weights for the way back: panels `[H * padded, width]` of the columns `units`.
fn pack_transposed<R: Real, const H: usize>(
    units: std::ops::Range<usize>,
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
