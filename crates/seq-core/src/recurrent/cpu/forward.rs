use std::ops::Range;
use std::sync::Arc;

use super::pack::Packed;
use super::plan::Problem;
use crate::cpu::tile::{accumulate, max_panels, tiles, with_panels, with_rows};
use crate::cpu::{Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd};
use crate::recurrent::cell::{Cell, State};

/// How much of the input projection is made ahead of the steps that use it: it stays in the cache.
const CHUNK_BYTES: usize = 1 << 17;

/// What a layer gives.
pub(crate) struct Outputs<R> {
    /// `[batch, time, d_hidden]`
    pub y: Vec<R>,
    /// `[batch, d_hidden]`
    pub hidden: Vec<R>,
    /// `[batch, d_hidden]`, empty for a cell without one.
    pub cell: Vec<R>,
    /// What the backward pass needs, if it was asked for.
    pub saved: Option<Saved<R>>,
}

/// What the backward pass needs, step by step and with the hidden units padded.
#[derive(Clone)]
pub(crate) struct Saved<R> {
    /// `[time, batch, G, padded]`
    pub kept: Arc<Buffer<R>>,
    /// `[time + 1, batch, padded]`
    pub hidden: Arc<Buffer<R>>,
    /// `[time + 1, batch, padded]`, empty for a cell without one.
    pub cell: Arc<Buffer<R>>,
    /// `[time, batch, padded]`, empty for a cell that does not gate its hidden state.
    pub gated: Arc<Buffer<R>>,
}

/// Runs a layer, its weights `packed`; with `keep`, keeps what the backward pass needs.
pub(crate) fn forward<
    R: Real,
    C,
    const G: usize,
    const I: usize,
    const H: usize,
    const U: usize,
    const D: usize,
>(
    cell: &C,
    problem: &Problem<'_, R>,
    packed: &Packed<R>,
    keep: bool,
) -> Outputs<R>
where
    C: Cell<G, I, H, U, D>,
{
    let Problem {
        batch,
        time,
        d_input,
        d_hidden,
        ..
    } = *problem;
    let padded = problem.padded();
    let states = batch * padded;
    let row = G * padded;
    let chunk = (CHUNK_BYTES / size_of::<R>() / (batch * row).max(1)).clamp(1, time);
    // With `keep` every step has its place, otherwise steps reuse that of an earlier one.
    let (kept_steps, hidden_steps, cell_steps, gated_steps) = match keep {
        true => (time, time + 1, time + 1, time),
        false => (chunk, 2, 1, 1),
    };
    // SAFETY: a step writes its sums, then reads them, and writes the states that the next one reads.
    let (mut kept, mut hidden, mut memory, mut gated) = unsafe {
        (
            Buffer::uninit(kept_steps * batch * row),
            Buffer::uninit(hidden_steps * states),
            Buffer::uninit(if C::MEMORY { cell_steps * states } else { 0 }),
            Buffer::uninit(if D > 0 { gated_steps * states } else { 0 }),
        )
    };
    problem.pad(Some(problem.hidden), &mut hidden.as_mut_slice()[..states]);
    if C::MEMORY {
        problem.pad(problem.cell, &mut memory.as_mut_slice()[..states]);
    }
    let mut y = Vec::with_capacity(batch * time * d_hidden);
    let pass = Pass {
        cell,
        problem,
        packed,
        padded,
        keep,
        chunk,
        kept: kept.shared(),
        hidden: hidden.shared(),
        memory: memory.shared(),
        gated: gated.shared(),
        y: Shared::new(y.as_mut_ptr()),
        biases: &problem.slot_biases(G, &C::INPUT, &C::RECURRENT, &C::GATED),
        weights: &problem.slot_weights(U),
    };
    let arch = Arch::new();
    Team::run(
        problem.threads(batch * d_hidden * (I * d_input + (H + D) * d_hidden)),
        |member| {
            arch.dispatch(Thread {
                pass: &pass,
                member,
            });
        },
    );
    // SAFETY: the threads have written every position of every sequence.
    unsafe { y.set_len(batch * time * d_hidden) };
    let last = |states_of: &Buffer<R>, step: usize| {
        problem.unpad(&states_of.as_slice()[step * states..][..states])
    };
    Outputs {
        y,
        hidden: last(&hidden, if keep { time } else { time % 2 }),
        cell: match C::MEMORY {
            true => last(&memory, if keep { time } else { 0 }),
            false => Vec::new(),
        },
        saved: keep.then(|| Saved {
            kept: Arc::new(kept),
            hidden: Arc::new(hidden),
            cell: Arc::new(memory),
            gated: Arc::new(gated),
        }),
    }
}

/// A run of a layer, as all threads see it.
struct Pass<'a, R, C> {
    cell: &'a C,
    problem: &'a Problem<'a, R>,
    packed: &'a Packed<R>,
    padded: usize,
    keep: bool,
    chunk: usize,
    kept: Shared<R>,
    hidden: Shared<R>,
    memory: Shared<R>,
    gated: Shared<R>,
    y: Shared<R>,
    biases: &'a Buffer<R>,
    weights: &'a Buffer<R>,
}

/// A recurrent product, as all threads see it.
struct Product<'a, R> {
    /// The first slot it adds to.
    slot: usize,
    /// What it is the product of, `[batch, padded]` from element `from` on.
    states: Shared<R>,
    from: usize,
    /// The packed weights of all blocks of units.
    panels: &'a [R],
}

/// One thread of it, which owns some of the hidden units: it keeps their weights in its cache and
/// meets the others once a step, when the next hidden state is there.
struct Thread<
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
    pass: &'a Pass<'a, R, C>,
    member: &'a Member<'m>,
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
        let Problem {
            batch,
            time,
            d_input,
            d_hidden,
            ..
        } = *pass.problem;
        let own = member.share(d_hidden.div_ceil(R::lanes::<S>()));
        let input = pass.packed.input.as_slice();
        let depth = d_input * I * R::lanes::<S>();
        // The pointwise part of a single sequence is a chain of latencies: those of all blocks overlap.
        let group = match batch {
            1 => own.len().max(1),
            _ => max_panels(H),
        };
        let mut start = 0;
        while start < time {
            let steps = start..time.min(start + pass.chunk);
            let rows = steps.len() * batch;
            with_panels!(own.clone(), max_panels(I), block, N => {
                let panels = std::array::from_fn(|n| input[(block + n) * depth..].as_ptr());
                for (first, count) in tiles::<S>(rows) {
                    // SAFETY: the rows of the chunk are in the buffer, these columns are this
                    // thread's own, and the panels hold the weights of the blocks.
                    unsafe {
                        with_rows!(count, M => self.project::<S, M, N>(s, steps.start, first, block, panels))
                    }
                }
            });
            for step in steps.clone() {
                let plain = Product {
                    slot: G - H - D,
                    states: pass.hidden,
                    from: self.states(step).0,
                    panels: pass.packed.recurrent.as_slice(),
                };
                let gated = Product {
                    slot: G - D,
                    states: pass.gated,
                    from: self.gated(step),
                    panels: pass.packed.gated.as_slice(),
                };
                if D > 0 {
                    for block in own.clone() {
                        // SAFETY: as above, and the states before the step were complete at the last
                        // barrier.
                        unsafe {
                            self.multiply::<S, H>(s, step, block..block + 1, &plain);
                            self.gate(s, step, block);
                        }
                    }
                    member.wait();
                }
                for turn in 0..own.len().div_ceil(group) {
                    // To and fro, so that each step begins with what the last one left in the cache.
                    let groups = own.len().div_ceil(group);
                    let index = if step % 2 == 0 {
                        turn
                    } else {
                        groups - 1 - turn
                    };
                    let blocks =
                        own.start + index * group..own.end.min(own.start + (index + 1) * group);
                    // SAFETY: as above, and the gated states were complete at the barrier.
                    unsafe {
                        match D {
                            0 => self.multiply::<S, H>(s, step, blocks.clone(), &plain),
                            _ => self.multiply::<S, D>(s, step, blocks.clone(), &gated),
                        }
                    }
                    for block in blocks {
                        // SAFETY: as above, and the sums of the block are complete.
                        unsafe { self.advance(s, step, block) };
                    }
                }
                // Units without a recurrent product know nothing of one another.
                if step + 1 < time && H + D > 0 {
                    member.wait();
                }
            }
            start = steps.end;
        }
    }
}

impl<R: Real, C, const G: usize, const I: usize, const H: usize, const U: usize, const D: usize>
    Thread<'_, '_, R, C, G, I, H, U, D>
where
    C: Cell<G, I, H, U, D>,
{
    /// The sums of one step and sequence: `[G, padded]`.
    #[inline(always)]
    unsafe fn sums(&self, step: usize, row: usize) -> *mut R {
        let pass = self.pass;
        let slot = if pass.keep { step } else { step % pass.chunk };
        // SAFETY: the buffer has a place for the step by the choice above.
        unsafe {
            pass.kept
                .at((slot * pass.problem.batch + row) * G * pass.padded)
        }
    }

    /// The input product of `M` rows of a chunk, counted through its steps and sequences, for `N` blocks
    /// of units.
    #[inline(always)]
    unsafe fn project<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        start: usize,
        first: usize,
        block: usize,
        panels: [*const R; N],
    ) {
        let pass = self.pass;
        let problem = pass.problem;
        let (lanes, padded) = (R::lanes::<S>(), pass.padded);
        let place = |m: usize| {
            let index = first + m;
            (start + index / problem.batch, index % problem.batch)
        };
        let rows: [*const R; M] = std::array::from_fn(|m| {
            let (step, row) = place(m);
            let position = row * problem.time + problem.position(row, step);
            problem.x[position * problem.d_input..].as_ptr()
        });
        // SAFETY: every address is that of a whole register inside its buffer, by the caller's promise.
        unsafe {
            let biases = pass.biases.as_slice().as_ptr();
            let biases = std::array::from_fn(|n| {
                let unit = (block + n) * lanes;
                std::array::from_fn(|i| R::load(s, biases.add(i * padded + unit)))
            });
            let mut acc: [[[R::V<S>; I]; N]; M] = [biases; M];
            accumulate::<R, S, M, N, I>(s, problem.d_input, rows, panels, &mut acc);
            for (m, acc) in acc.iter().enumerate() {
                let (step, row) = place(m);
                let out = self.sums(step, row);
                for (n, acc) in acc.iter().enumerate() {
                    for (i, &sum) in acc.iter().enumerate() {
                        R::store(s, out.add(i * padded + (block + n) * lanes), sum);
                    }
                }
            }
        }
    }

    /// Adds a recurrent product to `V` slots of some blocks of units, for all sequences.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const V: usize>(
        &self,
        s: S,
        step: usize,
        blocks: Range<usize>,
        product: &Product<'_, R>,
    ) {
        if V == 0 {
            return;
        }
        let batch = self.pass.problem.batch;
        // The weights of a single sequence are read from afar, fastest in one stream.
        let most = if batch == 1 { 1 } else { max_panels(V) };
        with_panels!(blocks, most, block, N => {
            for (first, count) in tiles::<S>(batch) {
                // SAFETY: by the caller's promise.
                unsafe {
                    with_rows!(count, M => self.recur::<S, M, N, V>(s, step, first, block, product))
                }
            }
        });
    }

    /// Adds a recurrent product to `V` slots of `N` blocks of units, for `M` sequences.
    #[inline(always)]
    unsafe fn recur<S: Simd, const M: usize, const N: usize, const V: usize>(
        &self,
        s: S,
        step: usize,
        first: usize,
        block: usize,
        product: &Product<'_, R>,
    ) {
        let pass = self.pass;
        let (lanes, padded) = (R::lanes::<S>(), pass.padded);
        let unit = block * lanes;
        // SAFETY: every address is that of a whole register inside its buffer, by the caller's promise.
        unsafe {
            let depth = pass.problem.d_hidden;
            let panels: [*const R; N] =
                std::array::from_fn(|n| product.panels[(block + n) * depth * V * lanes..].as_ptr());
            let rows: [*const R; M] = std::array::from_fn(|m| {
                let row = product.from + (first + m) * padded;
                product.states.at(row).cast_const()
            });
            let bias = pass.biases.as_slice().as_ptr().add(unit);
            let sums: [*mut R; M] = std::array::from_fn(|m| self.sums(step, first + m).add(unit));
            let mut acc: [[[R::V<S>; V]; N]; M] = std::array::from_fn(|m| {
                std::array::from_fn(|n| {
                    std::array::from_fn(|v| match product.slot + v {
                        g if g < I => R::load(s, sums[m].add(g * padded + n * lanes)),
                        g => R::load(s, bias.add(g * padded + n * lanes)),
                    })
                })
            });
            accumulate::<R, S, M, N, V>(s, depth, rows, panels, &mut acc);
            for (sums, acc) in sums.into_iter().zip(&acc) {
                for (n, acc) in acc.iter().enumerate() {
                    for (v, &sum) in acc.iter().enumerate() {
                        R::store(s, sums.add((product.slot + v) * padded + n * lanes), sum);
                    }
                }
            }
        }
    }

    /// Where the gated hidden states of a step begin.
    #[inline(always)]
    fn gated(&self, step: usize) -> usize {
        let states = self.pass.problem.batch * self.pass.padded;
        if self.pass.keep { step * states } else { 0 }
    }

    /// Gates the hidden states of one block of units.
    #[inline(always)]
    unsafe fn gate<S: Simd>(&self, s: S, step: usize, block: usize) {
        let pass = self.pass;
        let padded = pass.padded;
        let unit = block * R::lanes::<S>();
        let ((from, _), to) = (self.states(step), self.gated(step));
        let zero = R::splat(s, R::ZERO);
        for row in 0..pass.problem.batch {
            let at = row * padded + unit;
            // SAFETY: every address is that of a whole register inside its buffer, by the caller's
            // promise.
            unsafe {
                let sums = self.sums(step, row).add(unit);
                // The last slots may not have been written yet.
                let sums = std::array::from_fn(|g| match g < I.max(G - D) {
                    true => R::load(s, sums.add(g * padded)),
                    false => zero,
                });
                let before = State {
                    hidden: R::load(s, pass.hidden.at(from + at)),
                    cell: zero,
                };
                // What padding holds, NaN perhaps, must not reach the gradient of the weights.
                let gated = match step < pass.problem.length(row) {
                    true => pass.cell.gate::<R, S>(s, sums, before),
                    false => zero,
                };
                R::store(s, pass.gated.at(to + at), gated);
            }
        }
    }

    /// Where the hidden states before and after a step begin.
    #[inline(always)]
    fn states(&self, step: usize) -> (usize, usize) {
        let states = self.pass.problem.batch * self.pass.padded;
        match self.pass.keep {
            true => (step * states, (step + 1) * states),
            false => (step % 2 * states, (step + 1) % 2 * states),
        }
    }

    /// Makes the next states of one block of units from their sums.
    #[inline(always)]
    unsafe fn advance<S: Simd>(&self, s: S, step: usize, block: usize) {
        let pass = self.pass;
        let problem = pass.problem;
        let (lanes, padded) = (R::lanes::<S>(), pass.padded);
        let zero = R::splat(s, R::ZERO);
        let unit = block * lanes;
        let (from, to) = self.states(step);
        let (cell_from, cell_to) = if pass.keep { (from, to) } else { (0, 0) };
        // SAFETY: every address is that of a whole register inside its buffer, by the caller's promise.
        unsafe {
            let weights: [R::V<S>; U] = std::array::from_fn(|u| {
                R::load(s, pass.weights.as_slice().as_ptr().add(u * padded + unit))
            });
            for row in 0..problem.batch {
                let at = row * padded + unit;
                let before = State {
                    hidden: R::load(s, pass.hidden.at(from + at)),
                    cell: match C::MEMORY {
                        true => R::load(s, pass.memory.at(cell_from + at)),
                        false => zero,
                    },
                };
                let (state, output) = match step < problem.length(row) {
                    true => {
                        let sums = self.sums(step, row).add(unit);
                        let values = std::array::from_fn(|g| R::load(s, sums.add(g * padded)));
                        let out = pass.cell.forward::<R, S>(s, values, weights, before);
                        if pass.keep {
                            for (g, &value) in out.kept.iter().enumerate() {
                                R::store(s, sums.add(g * padded), value);
                            }
                        }
                        (out.state, out.state.hidden)
                    }
                    false => (before, zero),
                };
                R::store(s, pass.hidden.at(to + at), state.hidden);
                if C::MEMORY {
                    R::store(s, pass.memory.at(cell_to + at), state.cell);
                }
                let position = row * problem.time + problem.position(row, step);
                let y = pass.y.at(position * problem.d_hidden + unit);
                let rest = problem.d_hidden - unit;
                match rest >= lanes {
                    true => R::store(s, y, output),
                    false => R::store_first(s, y, rest, output),
                }
            }
        }
    }
}
