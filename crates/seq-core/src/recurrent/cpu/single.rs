//! The time loop of a single sequence.
//!
//! Reading the recurrent weights bounds its speed, while the input product is bound by arithmetic. So
//! one loop makes both, the input product of later steps in the shadow of the reads.

use std::ops::Range;

use super::forward::{Pass, Thread};
use super::plan::Problem;
use crate::cpu::{Buffer, Member, Real, Simd};
use crate::recurrent::cell::Cell;

/// Steps whose input product is made together, ahead of time.
pub(super) const STEPS: usize = 16;

impl<R: Real, C, const G: usize, const I: usize, const H: usize, const U: usize>
    Thread<'_, '_, R, C, G, I, H, U>
where
    C: Cell<G, I, H, U>,
{
    /// The whole sequence, the input product in tiles of `M` steps.
    #[inline(always)]
    pub(super) fn single<S: Simd, const M: usize>(&self, s: S) {
        let Self { pass, member } = self;
        let (lanes, padded, d_hidden) = (R::lanes::<S>(), pass.padded, pass.problem.d_hidden);
        let blocks = padded / lanes;
        let own = member.share(blocks);
        // A step begins with the half of the hidden state that holds the thread's own units; the other
        // half arrives meanwhile. Each has a sum of its own, so that the order changes no result.
        let halves = [0..blocks / 2, blocks / 2..blocks];
        let owners = halves
            .each_ref()
            .map(|half| owners(member, blocks, half.clone()));
        let first = usize::from(own.start >= blocks / 2);
        let zero = R::splat(s, R::ZERO);

        let mut ahead = Ahead::<R, I, M>::new(pass, own.clone(), lanes);
        ahead.begin(pass.problem, 0);
        while ahead.has_more() {
            // SAFETY: no recurrent product, so that nothing of the hidden state is read.
            unsafe { ahead.multiply(s, 0, pass.hidden.at(0), pass.hidden.at(0), &mut [zero; H]) };
        }
        for step in 0..pass.problem.time {
            if step % STEPS == 0 {
                ahead.begin(pass.problem, step + STEPS);
            }
            let (from, _) = self.states(step);
            for (turn, half) in [first, 1 - first].into_iter().enumerate() {
                if step > 0 {
                    member.meet(owners[half].clone());
                }
                let start = halves[half].start * lanes;
                let depth = d_hidden.min(halves[half].end * lanes).saturating_sub(start);
                for block in own.clone() {
                    // SAFETY: every address is that of a whole register inside its buffer; the units
                    // of the block are this thread's own, and the states of the half were complete
                    // when its owners were met.
                    unsafe {
                        let panel = pass.packed.recurrent.as_slice().as_ptr();
                        let panel = panel.add((block * d_hidden + start) * H * lanes);
                        let mut acc = [zero; H];
                        ahead.multiply(s, depth, pass.hidden.at(from + start), panel, &mut acc);
                        let sums = self.sums(step, 0).add(block * lanes);
                        let recurrent = sums.add((G - H) * padded);
                        for (h, &sum) in acc.iter().enumerate() {
                            let place = recurrent.add(h * padded);
                            match turn {
                                0 => R::store(s, place, sum),
                                _ => R::store(s, place, R::vadd(s, sum, R::load(s, place))),
                            }
                        }
                        if turn == 1 {
                            for g in 0..G {
                                let input = match g < I {
                                    true => ahead.sum(step, (block - own.start) * I + g),
                                    false => pass.biases.as_slice()[g * padded + block * lanes..]
                                        .as_ptr(),
                                };
                                let mut sum = R::load(s, input);
                                let place = sums.add(g * padded);
                                if g >= G - H {
                                    sum = R::vadd(s, sum, R::load(s, place));
                                }
                                R::store(s, place, sum);
                            }
                            self.advance(s, step, block);
                        }
                    }
                }
            }
            member.arrive();
        }
    }
}

/// The threads that own some of the blocks `part` of `blocks`.
fn owners(member: &Member<'_>, blocks: usize, part: Range<usize>) -> Range<usize> {
    let owns = |&index: &usize| {
        let share = member.share_of(index, blocks);
        share.start < part.end && part.start < share.end
    };
    let mut threads = (0..member.count()).filter(owns);
    match threads.next() {
        Some(first) => first..threads.last().unwrap_or(first) + 1,
        None => 0..0,
    }
}

/// The input product of [`STEPS`] steps, made piece by piece during the steps before. A column is the
/// sum of one slot and block of units; a piece is some of the depth of a tile of `M` steps and two
/// columns.
struct Ahead<'a, R, const I: usize, const M: usize> {
    /// `[columns / I, d_input, I, lanes]`
    weights: &'a [R],
    d_input: usize,
    lanes: usize,
    columns: usize,
    /// Depth of a piece.
    depth: usize,
    /// `[columns, lanes]`
    biases: Buffer<R>,
    /// `[STEPS / M, d_input, M]`
    x: Buffer<R>,
    /// Two times the steps, one set being read while the other is written: `[columns / 2, 2 * STEPS, 2, lanes]`.
    /// What belongs to a tile lies together, as rows apart by a large power of two would share a
    /// set of the cache.
    sums: Buffer<R>,
    /// The next piece: the first of its set's steps, its tile, its start in depth and its first column.
    set: usize,
    tile: usize,
    start: usize,
    column: usize,
}

impl<'a, R: Real, const I: usize, const M: usize> Ahead<'a, R, I, M> {
    fn new<C>(pass: &Pass<'a, R, C>, own: Range<usize>, lanes: usize) -> Self {
        let d_input = pass.problem.d_input;
        let columns = own.len() * I;
        let mut biases = Buffer::zeroed(columns * lanes);
        for (column, out) in biases.as_mut_slice().chunks_mut(lanes).enumerate() {
            let from = column % I * pass.padded + (own.start + column / I) * lanes;
            out.copy_from_slice(&pass.biases.as_slice()[from..from + lanes]);
        }
        // As many pieces as there are recurrent products in the meantime, or fewer.
        let tiles = columns.div_ceil(2) * (STEPS / M);
        let pieces = (STEPS * 2 * own.len()).checked_div(tiles).unwrap_or(1);
        // SAFETY: `begin` writes all of x, and a piece the sums that are read later.
        let (x, sums) = unsafe {
            (
                Buffer::uninit(STEPS * d_input),
                Buffer::uninit(columns.next_multiple_of(2) * 2 * STEPS * lanes),
            )
        };
        Self {
            weights: &pass.packed.input.as_slice()[own.start * d_input * I * lanes..],
            d_input,
            lanes,
            columns,
            depth: d_input.div_ceil(pieces),
            biases,
            x,
            sums,
            set: 0,
            tile: 0,
            start: 0,
            column: columns,
        }
    }

    /// Begins with the steps from `start` on, if there are any.
    fn begin(&mut self, problem: &Problem<'_, R>, start: usize) {
        if start >= problem.time {
            return;
        }
        (self.set, self.tile, self.start, self.column) = (start % (2 * STEPS), 0, 0, 0);
        for m in 0..STEPS {
            // The last step again rather than one beyond it.
            let position = problem.position(0, (start + m).min(problem.time - 1));
            let row = &problem.x[position * self.d_input..][..self.d_input];
            let out = &mut self.x.as_mut_slice()[m / M * self.d_input * M + m % M..];
            for (out, &x) in out.iter_mut().step_by(M).zip(row) {
                *out = x;
            }
        }
    }

    fn has_more(&self) -> bool {
        self.column < self.columns
    }

    /// Where a finished sum is.
    #[inline(always)]
    fn sum(&self, step: usize, column: usize) -> *const R {
        let index = (column / 2 * 2 * STEPS + step % (2 * STEPS)) * 2 + column % 2;
        self.sums.as_slice()[index * self.lanes..].as_ptr()
    }

    /// `acc += hidden * panel`, `depth` deep, and beside it the next piece, if there is one.
    ///
    /// # Safety
    ///
    /// `hidden` must be readable for `depth` elements, `panel` for `depth * H` registers.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const H: usize>(
        &mut self,
        s: S,
        depth: usize,
        hidden: *const R,
        panel: *const R,
        acc: &mut [R::V<S>; H],
    ) {
        let lanes = R::lanes::<S>();
        let mut tile = [[R::splat(s, R::ZERO); 2]; M];
        let recurrent = Recurrent {
            depth,
            hidden,
            panel,
        };
        if !self.has_more() {
            let none = Input {
                depth: 0,
                x: hidden,
                weights: [panel; 2],
            };
            // SAFETY: the caller's promise, and no input product.
            return unsafe { joint::<R, S, M, I, H>(s, recurrent, acc, none, &mut tile) };
        }
        // Of an odd number of columns the last is made twice.
        let columns = [self.column, (self.column + 1).min(self.columns - 1)];
        let weights = columns.map(|column| {
            let at = ((column / I * self.d_input + self.start) * I + column % I) * lanes;
            self.weights[at..].as_ptr()
        });
        let input = Input {
            depth: self.depth.min(self.d_input - self.start),
            x: self.x.as_slice()[(self.tile * self.d_input + self.start) * M..].as_ptr(),
            weights,
        };
        let row = self.column / 2 * 2 * STEPS + self.set + self.tile * M;
        let sums = &mut self.sums.as_mut_slice()[row * 2 * lanes..][..M * 2 * lanes];
        // SAFETY: every address is that of a whole register inside its buffer.
        unsafe {
            for (m, tile) in tile.iter_mut().enumerate() {
                for (c, sum) in tile.iter_mut().enumerate() {
                    *sum = match self.start {
                        0 => R::load(s, self.biases.as_slice()[columns[c] * lanes..].as_ptr()),
                        _ => R::load(s, sums.as_ptr().add((m * 2 + c) * lanes)),
                    };
                }
            }
            joint::<R, S, M, I, H>(s, recurrent, acc, input, &mut tile);
            for (m, tile) in tile.iter().enumerate() {
                for (c, &sum) in tile.iter().enumerate() {
                    R::store(s, sums.as_mut_ptr().add((m * 2 + c) * lanes), sum);
                }
            }
        }
        self.tile += 1;
        if self.tile == STEPS / M {
            (self.tile, self.start) = (0, self.start + self.depth);
        }
        if self.start >= self.d_input {
            (self.start, self.column) = (0, self.column + 2);
        }
    }
}

/// A part of the recurrent product: `hidden` `[depth]`, `panel` `[depth, H, lanes]`.
struct Recurrent<R> {
    depth: usize,
    hidden: *const R,
    panel: *const R,
}

/// A piece of the input product: `x` `[depth, M]`, and a register of `weights` every `I`.
struct Input<R> {
    depth: usize,
    x: *const R,
    weights: [*const R; 2],
}

/// Both products in one loop, so that the arithmetic of one fills the waits of the other.
#[inline(always)]
unsafe fn joint<R: Real, S: Simd, const M: usize, const I: usize, const H: usize>(
    s: S,
    recurrent: Recurrent<R>,
    acc: &mut [R::V<S>; H],
    input: Input<R>,
    tile: &mut [[R::V<S>; 2]; M],
) {
    // As in `tile::accumulate`: with few registers, several sums for each.
    // SAFETY: the caller's promise is that of `chains`.
    unsafe {
        match H {
            1 => chains::<R, S, M, I, H, 4>(s, recurrent, acc, input, tile),
            2..=3 => chains::<R, S, M, I, H, 2>(s, recurrent, acc, input, tile),
            _ => chains::<R, S, M, I, H, 1>(s, recurrent, acc, input, tile),
        }
    }
}

/// Recurrent products between two input products, at least.
const GROUP: usize = 4;

#[inline(always)]
unsafe fn chains<
    R: Real,
    S: Simd,
    const M: usize,
    const I: usize,
    const H: usize,
    const N: usize,
>(
    s: S,
    recurrent: Recurrent<R>,
    acc: &mut [R::V<S>; H],
    input: Input<R>,
    tile: &mut [[R::V<S>; 2]; M],
) {
    let mut sums = [[R::splat(s, R::ZERO); H]; N];
    let groups = recurrent.depth / GROUP;
    let rounds = input.depth.min(groups).max(1);
    let (inputs, groups) = (input.depth / rounds, groups / rounds);
    let (mut k, mut j) = (0, 0);
    // SAFETY: `k` and `j` stay below the two depths, up to which everything is readable.
    unsafe {
        for _ in 0..rounds {
            for _ in 0..inputs {
                project::<R, S, M, I>(s, &input, j, tile);
                j += 1;
            }
            for _ in 0..groups {
                for u in 0..GROUP {
                    recur(s, &recurrent, k + u, &mut sums[u % N]);
                }
                k += GROUP;
            }
        }
        while j < input.depth {
            project::<R, S, M, I>(s, &input, j, tile);
            j += 1;
        }
        while k < recurrent.depth {
            recur(s, &recurrent, k, &mut sums[0]);
            k += 1;
        }
    }
    for sums in &sums {
        for (acc, &sum) in acc.iter_mut().zip(sums) {
            *acc = R::vadd(s, *acc, sum);
        }
    }
}

#[inline(always)]
unsafe fn recur<R: Real, S: Simd, const H: usize>(
    s: S,
    recurrent: &Recurrent<R>,
    k: usize,
    sums: &mut [R::V<S>; H],
) {
    // SAFETY: `k` is below the depth.
    unsafe {
        let hidden = R::splat(s, *recurrent.hidden.add(k));
        let weights = recurrent.panel.add(k * H * R::lanes::<S>());
        for (h, sum) in sums.iter_mut().enumerate() {
            let weight = R::load(s, weights.add(h * R::lanes::<S>()));
            *sum = R::mul_add(s, hidden, weight, *sum);
        }
    }
}

#[inline(always)]
unsafe fn project<R: Real, S: Simd, const M: usize, const I: usize>(
    s: S,
    input: &Input<R>,
    j: usize,
    tile: &mut [[R::V<S>; 2]; M],
) {
    // SAFETY: `j` is below the depth.
    unsafe {
        let at = j * I * R::lanes::<S>();
        let weights = [
            R::load(s, input.weights[0].add(at)),
            R::load(s, input.weights[1].add(at)),
        ];
        for (m, tile) in tile.iter_mut().enumerate() {
            let x = R::splat(s, *input.x.add(j * M + m));
            for (sum, weight) in tile.iter_mut().zip(weights) {
                *sum = R::mul_add(s, x, weight, *sum);
            }
        }
    }
}
