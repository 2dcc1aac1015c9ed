//! A few queries: the steps of a stream, which look at what a cache holds. Keys and values are read where they
//! lie, once, by as many threads as there are.

use seq_core::cpu::{Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, prefetch};

use super::forward::LOWEST;
use super::plan::{LINE, Problem};

/// How many keys are done at once.
const KEYS: usize = 64;

/// How many keys ahead memory is asked for.
const AHEAD: usize = 16;

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

/// The elements that each thread needs for a query.
pub(crate) fn part_size(d_value: usize) -> usize {
    d_value + 2
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
    /// Of each thread and query: the largest score, the sum of the exponentials, and of the values.
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
            kv_heads,
            heads,
            d_head,
            d_value,
            ..
        } = *problem;
        let (group, size) = (heads / kv_heads, part_size(d_value));
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
                    for at in 1..size {
                        *part.add(at) = R::ZERO;
                    }
                }
            }
        }
        let share = self.member.share(high.saturating_sub(low));
        let (mut first, last) = (low + share.start, low + share.end);
        while first < last {
            let next = last.min(first + KEYS);
            for kv_head in 0..kv_heads {
                for i in 0..time_query {
                    let range = problem.reach.range(b, i);
                    let (from, to) = (first.max(range.start), next.min(range.end));
                    if from >= to {
                        continue;
                    }
                    let place = |j: usize| (b * time_key + j) * kv_heads + kv_head;
                    for head in kv_head * group..(kv_head + 1) * group {
                        let mut scores = [R::ZERO; KEYS];
                        let scores = &mut scores[..to - from];
                        // SAFETY: rows of this head, and the query's part.
                        unsafe {
                            let query = problem.query.as_ptr().add(problem.query_at(b, i, head));
                            let keys = problem.key.as_ptr().add(place(from) * d_head);
                            let stride = kv_heads * d_head;
                            products(s, query, d_head, keys, stride, scores);
                            self.finish_scores(b, head, i, from, scores);
                            let values = problem.value.as_ptr().add(place(from) * d_value);
                            let part = part(head, i);
                            let factor = weigh(s, scores, part);
                            let stride = kv_heads * d_value;
                            mix(s, scores, values, stride, factor, d_value, part.add(2));
                        }
                    }
                }
            }
            first = next;
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

/// `scores[j] = query keys[j]`, rows of keys `stride` apart.
#[inline(always)]
unsafe fn products<R: Real, S: Simd>(
    s: S,
    query: *const R,
    depth: usize,
    keys: *const R,
    stride: usize,
    scores: &mut [R],
) {
    let lanes = R::lanes::<S>();
    let whole = depth / lanes * lanes;
    for (j, score) in scores.iter_mut().enumerate() {
        // SAFETY: `depth` elements of each row, by the caller's promise.
        unsafe {
            let key = keys.add(j * stride);
            // Strides of a row are none that the hardware foresees.
            for at in (0..depth).step_by(LINE / size_of::<R>()) {
                prefetch(key.wrapping_add(AHEAD * stride + at));
            }
            let mut sums = [R::splat(s, R::ZERO); 4];
            let mut k = 0;
            while k + 4 * lanes <= whole {
                for (n, sum) in sums.iter_mut().enumerate() {
                    let at = k + n * lanes;
                    *sum = R::mul_add(s, R::load(s, query.add(at)), R::load(s, key.add(at)), *sum);
                }
                k += 4 * lanes;
            }
            while k < whole {
                sums[0] = R::mul_add(s, R::load(s, query.add(k)), R::load(s, key.add(k)), sums[0]);
                k += lanes;
            }
            if k < depth {
                let rest = depth - k;
                let x = R::load_first(s, query.add(k), rest);
                sums[1] = R::mul_add(s, x, R::load_first(s, key.add(k), rest), sums[1]);
            }
            let sum = R::vadd(
                s,
                R::vadd(s, sums[0], sums[1]),
                R::vadd(s, sums[2], sums[3]),
            );
            *score = R::reduce_sum(s, sum);
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

/// `sums = factor sums + sum_j weights[j] values[j]`, rows of values `stride` apart.
#[inline(always)]
unsafe fn mix<R: Real, S: Simd>(
    s: S,
    weights: &[R],
    values: *const R,
    stride: usize,
    factor: R,
    width: usize,
    sums: *mut R,
) {
    let lanes = R::lanes::<S>();
    let factor = R::splat(s, factor);
    let mut k = 0;
    // SAFETY: `width` elements of each row and of the sums, by the caller's promise.
    unsafe {
        while k + 4 * lanes <= width {
            let mut acc = [factor; 4];
            for (n, acc) in acc.iter_mut().enumerate() {
                *acc = R::vmul(s, factor, R::load(s, sums.add(k + n * lanes)));
            }
            for (j, &weight) in weights.iter().enumerate() {
                let weight = R::splat(s, weight);
                let row = values.add(j * stride + k);
                for (n, acc) in acc.iter_mut().enumerate() {
                    prefetch(row.wrapping_add(AHEAD * stride + n * lanes));
                    *acc = R::mul_add(s, weight, R::load(s, row.add(n * lanes)), *acc);
                }
            }
            for (n, &acc) in acc.iter().enumerate() {
                R::store(s, sums.add(k + n * lanes), acc);
            }
            k += 4 * lanes;
        }
        while k < width {
            let count = lanes.min(width - k);
            let mut acc = R::vmul(s, factor, R::load_first(s, sums.add(k), count));
            for (j, &weight) in weights.iter().enumerate() {
                let value = R::load_first(s, values.add(j * stride + k), count);
                acc = R::mul_add(s, R::splat(s, weight), value, acc);
            }
            R::store_first(s, sums.add(k), count, acc);
            k += lanes;
        }
    }
}
