//! A few queries: the steps of a stream, which look at what a cache holds. Keys and values are read where they
//! lie, once, by as many threads as there are.

use std::ops::Range;

use seq_core::cpu::tile::Rows;
use seq_core::cpu::{Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, prefetch};

use super::forward::LOWEST;
use super::plan::{LINE, Problem};

/// How many keys are done at once at most.
const KEYS: usize = 64;

/// After how many keys, or values, the next head has its turn, so that memory is read nearly in order.
const TURN: usize = 16;

/// How many heads look at a key at once at most.
const HEADS: usize = 4;

/// How many keys ahead memory is asked for: what a head's next turn will need.
const AHEAD: usize = TURN;

/// Below this many queries that share a head of keys, half of a block's lanes would be empty.
pub(crate) const FEW: usize = 16;

/// Whether the queries are so few that blocks of them would be mostly empty.
pub(super) fn serves<R: Real>(problem: &Problem<'_, R>) -> bool {
    let group = problem.heads / problem.kv_heads;
    problem.time_query * group <= FEW && problem.dropout.is_none()
}

pub(super) fn run<R: Real>(problem: &Problem<'_, R>, arch: Arch, y: Shared<R>) {
    let Problem {
        batch,
        time_query,
        heads,
        d_value,
        ..
    } = *problem;
    let threads = problem.threads();
    let queries = batch * heads * time_query;
    // SAFETY: every thread that runs writes its part before any is read.
    let mut parts = unsafe { Buffer::uninit(threads * queries * part_size(d_value)) };
    let parts = parts.shared();
    Team::run(threads, |member| {
        arch.dispatch(Thread {
            problem,
            member,
            parts,
            y,
        });
    });
}

/// The elements that each thread needs for a query: the largest score, the sum of the exponentials, the values' sums
/// and some scores.
pub(crate) fn part_size(d_value: usize) -> usize {
    d_value + 2 + KEYS
}

/// What a member of a team does of it.
///
/// # Safety
///
/// All members of the team must come with the same problem, the same `parts`, of [`part_size`] elements for each of
/// them and each query, and the same `y`, writable for all outputs; nobody else may use these two.
#[inline(always)]
pub(crate) unsafe fn attend<R: Real, S: Simd>(
    s: S,
    problem: &Problem<'_, R>,
    member: &Member<'_>,
    parts: Shared<R>,
    y: Shared<R>,
) {
    let thread = Thread {
        problem,
        member,
        parts,
        y,
    };
    thread.with_simd(s);
}

struct Thread<'a, 'm, R> {
    problem: &'a Problem<'a, R>,
    member: &'a Member<'m>,
    /// Of each thread and query, as [`part_size`] has it.
    parts: Shared<R>,
    y: Shared<R>,
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let problem = self.problem;
        let size = part_size(problem.d_value);
        let queries = problem.batch * problem.heads * problem.time_query;
        let own = self.member.index() * queries;
        for b in 0..problem.batch {
            // SAFETY: the thread's own parts.
            unsafe { self.row(s, b, own) };
        }
        self.member.wait();
        for number in self.member.share(queries) {
            // SAFETY: all parts are there, and the query's outputs are this thread's own.
            unsafe {
                let part = |thread: usize| self.parts.at((thread * queries + number) * size);
                let mut top = R::from_f64(LOWEST);
                for thread in 0..self.member.count() {
                    let its = *part(thread);
                    if its > top {
                        top = its;
                    }
                }
                let i = number % problem.time_query;
                let head = number / problem.time_query % problem.heads;
                let b = number / problem.time_query / problem.heads;
                let y = self.y.at(problem.output_at(b, i, head));
                let factor = |thread: usize| R::from_f64((*part(thread) - top).to_f64().exp());
                let mut sum = R::ZERO;
                for thread in 0..self.member.count() {
                    sum += *part(thread).add(1) * factor(thread);
                }
                let inverse = if sum > R::ZERO { R::ONE / sum } else { R::ZERO };
                for thread in 0..self.member.count() {
                    let factor = factor(thread) * inverse;
                    for k in 0..problem.d_value {
                        let value = *part(thread).add(2 + k) * factor;
                        match thread {
                            0 => *y.add(k) = value,
                            _ => *y.add(k) += value,
                        }
                    }
                }
            }
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// This thread's share of the keys of a row, for all its queries.
    #[inline(always)]
    unsafe fn row<S: Simd>(&self, s: S, b: usize, own: usize) {
        let problem = self.problem;
        let Problem {
            time_query,
            time_key,
            heads,
            d_value,
            ..
        } = *problem;
        let size = part_size(d_value);
        let part = |head: usize, i: usize| {
            let number = problem.number(b, head, i);
            // SAFETY: inside the parts.
            unsafe { self.parts.at((own + number) * size) }
        };
        let mut low = time_key;
        let mut high = 0;
        for i in 0..time_query {
            let range = problem.reach.range(b, i);
            if !range.is_empty() {
                (low, high) = (low.min(range.start), high.max(range.end));
            }
            for head in 0..heads {
                // SAFETY: the query's part.
                unsafe {
                    let part = part(head, i);
                    *part = R::from_f64(LOWEST);
                    for at in 1..2 + d_value {
                        *part.add(at) = R::ZERO;
                    }
                }
            }
        }
        let share = self.member.share(high.saturating_sub(low));
        let (mut first, last) = (low + share.start, low + share.end);
        while first < last {
            let keys = first..last.min(first + KEYS);
            // SAFETY: rows of the keys and values, and the queries' parts.
            unsafe {
                self.in_turn::<S, false>(s, b, keys.clone(), own);
                for i in 0..time_query {
                    let range = problem.reach.range(b, i);
                    let seen = keys.start.max(range.start)..keys.end.min(range.end);
                    if seen.is_empty() {
                        continue;
                    }
                    for head in 0..heads {
                        let part = part(head, i);
                        let scores = part.add(2 + d_value + seen.start - first);
                        let scores = std::slice::from_raw_parts_mut(scores, seen.len());
                        self.finish_scores(b, head, i, seen.start, scores);
                        let factor = weigh(s, scores, part);
                        for k in 0..d_value {
                            *part.add(2 + k) *= factor;
                        }
                    }
                }
                self.in_turn::<S, true>(s, b, keys.clone(), own);
            }
            first = keys.end;
        }
    }

    /// The scores of some keys, or with `VALUES` what their values add to the sums, of all heads in turn.
    #[inline(always)]
    unsafe fn in_turn<S: Simd, const VALUES: bool>(
        &self,
        s: S,
        b: usize,
        keys: Range<usize>,
        own: usize,
    ) {
        let problem = self.problem;
        let group = problem.heads / problem.kv_heads;
        for first in keys.clone().step_by(TURN) {
            let next = keys.end.min(first + TURN);
            for kv_head in 0..problem.kv_heads {
                for i in 0..problem.time_query {
                    let range = problem.reach.range(b, i);
                    let (from, to) = (first.max(range.start), next.min(range.end));
                    if from >= to {
                        continue;
                    }
                    let place = [from, to - from, from - keys.start];
                    let mut head = kv_head * group;
                    let end = head + group;
                    while head < end {
                        let query = [b, head, i];
                        // SAFETY: rows of this head of keys, and the queries' parts.
                        unsafe {
                            match end - head {
                                1 => self.heads::<S, 1, 4, VALUES>(s, query, place, own),
                                2 => self.heads::<S, 2, 4, VALUES>(s, query, place, own),
                                3 => self.heads::<S, 3, 4, VALUES>(s, query, place, own),
                                _ => self.heads::<S, HEADS, 2, VALUES>(s, query, place, own),
                            }
                        }
                        head += HEADS;
                    }
                }
            }
        }
    }

    /// Some keys, the first and how many, for `G` heads from one on, which share them. Of the values `N` registers are
    /// done at once, so that all sums stay in registers.
    #[inline(always)]
    unsafe fn heads<S: Simd, const G: usize, const N: usize, const VALUES: bool>(
        &self,
        s: S,
        [b, head, i]: [usize; 3],
        [first, count, place]: [usize; 3],
        own: usize,
    ) {
        let problem = self.problem;
        let Problem {
            time_key,
            kv_heads,
            d_head,
            d_value,
            ..
        } = *problem;
        let row = (b * time_key + first) * kv_heads + problem.kv_head(head);
        // SAFETY: rows of this head, and the queries' parts.
        unsafe {
            let mut queries = [problem.query.as_ptr(); G];
            let mut sums = [self.parts.at(0); G];
            let mut scores = sums;
            let all = queries.iter_mut().zip(&mut sums).zip(&mut scores);
            for (head, ((query, sums), scores)) in (head..).zip(all) {
                *query = query.add(problem.query_at(b, i, head));
                let number = own + problem.number(b, head, i);
                *sums = self.parts.at(number * part_size(d_value) + 2);
                *scores = sums.add(d_value + place);
            }
            let values = Rows {
                data: problem.value.as_ptr().add(row * d_value),
                stride: kv_heads * d_value,
            };
            if VALUES {
                mix::<R, S, G, N>(s, scores, values, count, d_value, sums);
            } else {
                let keys = Rows {
                    data: problem.key.as_ptr().add(row * d_head),
                    stride: kv_heads * d_head,
                };
                let values = (values, soon(G, d_value));
                products(s, queries, d_head, keys, count, values, scores);
            }
        }
    }

    /// Products to scores.
    #[inline(always)]
    fn finish_scores(&self, b: usize, head: usize, i: usize, first: usize, scores: &mut [R]) {
        let problem = self.problem;
        let scale = R::from_f64(problem.scale);
        for score in scores.iter_mut() {
            *score *= scale;
        }
        if let Some(cap) = problem.softcap {
            for score in scores.iter_mut() {
                *score = R::from_f64((score.to_f64() / cap).tanh() * cap);
            }
        }
        for spread in [&problem.bias, &problem.mask].into_iter().flatten() {
            let (start, step) = spread.row([b, head, i]);
            for (j, score) in (first..).zip(scores.iter_mut()) {
                *score += spread.values[start + j * step];
            }
        }
        if let Some(slopes) = problem.slopes {
            let at = problem.reach.offsets[b] + i as isize;
            for (j, score) in (first..).zip(scores.iter_mut()) {
                let distance = at.abs_diff(j as isize) as f64;
                *score -= R::from_f64(slopes[head] * distance);
            }
        }
    }
}

/// How many elements of a value are asked for when its key is looked at, which for several heads takes twice the time of
/// adding the value: so memory is asked for evenly.
fn soon(heads: usize, d_value: usize) -> usize {
    match heads {
        1 => 0,
        _ => d_value / 2,
    }
}

/// Asks for some elements of a row.
#[inline(always)]
fn ask<R>(row: *const R, elements: Range<usize>) {
    for at in elements.step_by(LINE / size_of::<R>()) {
        prefetch(row.wrapping_add(at));
    }
}

/// `scores[g][j] = queries[g] keys[j]`, of the first `count` keys; asks for the first elements of their `values`.
#[inline(always)]
unsafe fn products<R: Real, S: Simd, const G: usize>(
    s: S,
    queries: [*const R; G],
    depth: usize,
    keys: Rows<*const R>,
    count: usize,
    (values, soon): (Rows<*const R>, usize),
    scores: [*mut R; G],
) {
    let lanes = R::lanes::<S>();
    let whole = depth / lanes * lanes;
    for j in 0..count {
        // SAFETY: `depth` elements of each row, by the caller's promise.
        unsafe {
            let key = keys.data.add(j * keys.stride);
            // Strides of a row are none that the hardware foresees.
            ask(key.wrapping_add(AHEAD * keys.stride), 0..depth);
            ask(values.data.wrapping_add(j * values.stride), 0..soon);
            let mut sums = [[R::splat(s, R::ZERO); 2]; G];
            let mut k = 0;
            while k + 2 * lanes <= whole {
                for n in 0..2 {
                    let key = R::load(s, key.add(k + n * lanes));
                    for (query, sums) in queries.iter().zip(&mut sums) {
                        let query = R::load(s, query.add(k + n * lanes));
                        sums[n] = R::mul_add(s, query, key, sums[n]);
                    }
                }
                k += 2 * lanes;
            }
            while k < depth {
                let rest = lanes.min(depth - k);
                let key = R::load_first(s, key.add(k), rest);
                for (query, sums) in queries.iter().zip(&mut sums) {
                    let query = R::load_first(s, query.add(k), rest);
                    sums[0] = R::mul_add(s, query, key, sums[0]);
                }
                k += lanes;
            }
            for (scores, sums) in scores.iter().zip(sums) {
                *scores.add(j) = R::reduce_sum(s, R::vadd(s, sums[0], sums[1]));
            }
        }
    }
}

/// Turns scores into exponentials, with the largest and the sum in `part`; gives what the sums before are to be
/// multiplied by.
#[inline(always)]
unsafe fn weigh<R: Real, S: Simd>(s: S, scores: &mut [R], part: *mut R) -> R {
    let lanes = R::lanes::<S>();
    // SAFETY: the two numbers that begin a part, and the scores.
    unsafe {
        let before = *part;
        let mut top = before;
        for &score in scores.iter() {
            if score > top {
                top = score;
            }
        }
        let base = R::splat(s, top);
        let mut sum = R::splat(s, R::ZERO);
        for chunk in scores.chunks_mut(lanes) {
            let count = chunk.len();
            let score = R::load_first(s, chunk.as_ptr(), count);
            let weight = R::exp(s, R::vsub(s, score, base));
            R::store_first(s, chunk.as_mut_ptr(), count, weight);
            sum = R::vadd(s, sum, R::load_first(s, chunk.as_ptr(), count));
        }
        let factor = R::exp(s, R::vsub(s, R::splat(s, before), base));
        let mut first = R::ZERO;
        R::store_first(s, &mut first, 1, factor);
        *part = top;
        *part.add(1) = *part.add(1) * first + R::reduce_sum(s, sum);
        first
    }
}

/// `sums[g] += sum_j weights[g][j] values[j]`, of the first `count` values; asks for those elements of later ones
/// that were not asked for with their keys.
#[inline(always)]
unsafe fn mix<R: Real, S: Simd, const G: usize, const N: usize>(
    s: S,
    weights: [*mut R; G],
    values: Rows<*const R>,
    count: usize,
    width: usize,
    sums: [*mut R; G],
) {
    let (lanes, soon) = (R::lanes::<S>(), soon(G, width));
    let mut k = 0;
    // SAFETY: `width` elements of each row and of the sums, by the caller's promise.
    unsafe {
        while k + N * lanes <= width {
            let mut acc = [[R::splat(s, R::ZERO); N]; G];
            for (acc, sums) in acc.iter_mut().zip(sums) {
                for (n, acc) in acc.iter_mut().enumerate() {
                    *acc = R::load(s, sums.add(k + n * lanes));
                }
            }
            let asked = soon.saturating_sub(k).min(N * lanes)..N * lanes;
            for j in 0..count {
                let row = values.data.add(j * values.stride + k);
                let mut weight = [R::splat(s, R::ZERO); G];
                for (weight, weights) in weight.iter_mut().zip(&weights) {
                    *weight = R::splat(s, *weights.add(j));
                }
                ask(row.wrapping_add(AHEAD * values.stride), asked.clone());
                for n in 0..N {
                    let value = R::load(s, row.add(n * lanes));
                    for (acc, &weight) in acc.iter_mut().zip(&weight) {
                        acc[n] = R::mul_add(s, weight, value, acc[n]);
                    }
                }
            }
            for (acc, sums) in acc.iter().zip(sums) {
                for (n, &acc) in acc.iter().enumerate() {
                    R::store(s, sums.add(k + n * lanes), acc);
                }
            }
            k += N * lanes;
        }
        while k < width {
            let rest = lanes.min(width - k);
            for (weights, sums) in weights.iter().zip(sums) {
                let mut acc = R::load_first(s, sums.add(k), rest);
                for j in 0..count {
                    let value = R::load_first(s, values.data.add(j * values.stride + k), rest);
                    acc = R::mul_add(s, R::splat(s, *weights.add(j)), value, acc);
                }
                R::store_first(s, sums.add(k), rest, acc);
            }
            k += lanes;
        }
    }
}
