use std::sync::atomic::{AtomicUsize, Ordering};

use seq_core::cpu::tile::{Left, Rows, multiply};
use seq_core::cpu::{
    Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, prefetch, reserve, threads,
};

use super::decode;
use super::plan::{Item, KEYS, LINE, PerHead, Problem, REGISTERS, turn};

/// Below this many products a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 15;

/// Below every score, and not so low that a difference overflows.
pub(super) const LOWEST: f64 = -1e30;

/// What attention gives.
pub(in super::super) struct Outputs<R> {
    /// `[batch, time_query, heads, d_value]`
    pub y: Vec<R>,
    /// The logarithm of each query's sum of exponentials, `[batch, heads, time_query]`; infinite where it sees
    /// nothing. Empty where it was not asked for.
    pub log_sums: Vec<R>,
}

impl<R: Real> Problem<'_, R> {
    /// How many threads it is worth.
    pub(super) fn threads(&self) -> usize {
        let queries = self.batch * self.heads * self.time_query;
        // Not of all the room that a cache has: the same keys are to give the same sums.
        let keys = self.reach.keys.iter().copied().max().unwrap_or(0);
        match queries * keys * (self.d_head + self.d_value) < WORTH_SHARING {
            true => 1,
            false => threads(),
        }
    }

    /// How many blocks of queries a head of a row has.
    pub(super) fn blocks(&self, width: usize) -> usize {
        self.time_query.div_ceil(width)
    }
}

/// Runs attention; with `keep`, keeps what the backward pass needs.
pub(in super::super) fn forward<R: Real>(problem: &Problem<'_, R>, keep: bool) -> Outputs<R> {
    let Problem {
        batch,
        time_query,
        heads,
        d_value,
        ..
    } = *problem;
    let count = batch * time_query * heads;
    let mut y = reserve(count * d_value);
    let mut log_sums = reserve(if keep { count } else { 0 });
    let into = (
        Shared::new(y.as_mut_ptr()),
        keep.then(|| Shared::new(log_sums.as_mut_ptr())),
    );
    let arch = Arch::new();
    match !keep && decode::serves(problem) {
        true => decode::run(problem, arch, into.0),
        false => in_blocks(problem, arch, into),
    }
    // SAFETY: every query of every head was written.
    unsafe {
        y.set_len(count * d_value);
        log_sums.set_len(if keep { count } else { 0 });
    }
    Outputs { y, log_sums }
}

fn in_blocks<R: Real>(
    problem: &Problem<'_, R>,
    arch: Arch,
    (y, log_sums): (Shared<R>, Option<Shared<R>>),
) {
    let Problem {
        batch,
        time_key,
        kv_heads,
        d_head,
        d_value,
        ..
    } = *problem;
    // SAFETY: the threads fill all heads before they read one.
    let (mut keys, mut values) = unsafe {
        (
            PerHead::uninit([batch, time_key, kv_heads, d_head]),
            PerHead::uninit([batch, time_key, kv_heads, d_value]),
        )
    };
    let pass = Pass {
        problem,
        into: [keys.shared(), values.shared()],
        keys: &keys,
        values: &values,
        next: &AtomicUsize::new(0),
        y,
        log_sums,
    };
    Team::run(problem.threads(), |member| {
        arch.dispatch(Thread {
            pass: &pass,
            member,
        });
    });
}

/// A run, as all threads see it.
struct Pass<'a, R> {
    problem: &'a Problem<'a, R>,
    keys: &'a PerHead<R>,
    values: &'a PerHead<R>,
    into: [Shared<R>; 2],
    /// The first item that no thread has begun.
    next: &'a AtomicUsize,
    y: Shared<R>,
    log_sums: Option<Shared<R>>,
}

/// One thread of it.
struct Thread<'a, 'm, R> {
    pass: &'a Pass<'a, R>,
    member: &'a Member<'m>,
}

/// What a thread works in.
struct Room<R> {
    /// `[d_head, width]`
    query: Buffer<R>,
    /// `[KEYS, width]`
    scores: Buffer<R>,
    /// As the scores; empty without dropout.
    factors: Buffer<R>,
    /// `[width, stride of the values]`
    sums: Buffer<R>,
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Pass { problem, .. } = *self.pass;
        let width = Problem::<R>::width::<S>();
        for at in self.member.share(problem.batch * problem.kv_heads) {
            let (b, head) = (at / problem.kv_heads, at % problem.kv_heads);
            let [keys, values] = self.pass.into;
            // SAFETY: every head is filled by one thread.
            unsafe {
                self.pass.keys.fill(keys, problem.key, b, head);
                self.pass.values.fill(values, problem.value, b, head);
            }
        }
        self.member.wait();
        // SAFETY: each buffer is written before it is read, block by block.
        let mut room = unsafe {
            Room {
                query: Buffer::uninit(problem.d_head * width),
                scores: Buffer::uninit(KEYS * width),
                factors: Buffer::uninit(problem.dropout.map_or(0, |_| KEYS * width)),
                sums: Buffer::uninit(width * self.pass.values.stride),
            }
        };
        let (heads, blocks) = (problem.batch * problem.heads, problem.blocks(width));
        loop {
            let item = self.pass.next.fetch_add(1, Ordering::Relaxed);
            if item >= heads * blocks {
                return;
            }
            // Head by head, whose keys and values stay near; the last blocks of each first: where attention is
            // causal, they see the most.
            let (head, block) = (item / blocks, blocks - 1 - item % blocks);
            let first = block * width;
            let item = Item {
                b: head / problem.heads,
                head: head % problem.heads,
                first,
                count: width.min(problem.time_query - first),
            };
            // SAFETY: the item's outputs are this thread's own.
            unsafe { self.block(s, item, &mut room) };
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// The outputs of one block of queries.
    #[inline(always)]
    unsafe fn block<S: Simd>(&self, s: S, item: Item, room: &mut Room<R>) {
        let Pass { problem, .. } = *self.pass;
        let (lanes, width) = (R::lanes::<S>(), Problem::<R>::width::<S>());
        let Problem {
            d_head, d_value, ..
        } = *problem;
        let sight = problem.sight(item, width);
        let query = room.query.as_mut_slice().as_mut_ptr();
        let scores = room.scores.as_mut_slice().as_mut_ptr();
        let factors = room.factors.as_mut_slice().as_mut_ptr();
        let sums = room.sums.as_mut_slice();
        sums.fill(R::ZERO);
        let sums = sums.as_mut_ptr();
        let kv_head = problem.kv_head(item.head);
        let mut state = Running::new(width);
        // SAFETY: rows of this head, and buffers of the sizes they are used with.
        unsafe {
            let rows = problem.query.as_ptr();
            let rows = rows.add(problem.query_at(item.b, item.first, item.head));
            let size = [item.count, d_head, width];
            turn(
                rows,
                problem.heads * d_head,
                size,
                R::from_f64(problem.scale),
                query,
            );
            let keys = self.pass.into[0].at(self.pass.keys.at(item.b, kv_head));
            let values = self.pass.into[1].at(self.pass.values.at(item.b, kv_head));
            let [key_stride, stride] = [self.pass.keys.stride, self.pass.values.stride];
            let mut first = sight.any.start;
            while first < sight.any.end {
                let some = first..sight.any.end.min(first + KEYS);
                let count = some.len();
                let left = Left {
                    data: keys.add(first * key_stride).cast_const(),
                    row_stride: key_stride,
                    step: 1,
                };
                let right = rows_of(query.cast_const(), width);
                let size = [count, d_head, width / lanes];
                multiply(s, size, left, right, rows_of(scores, width), false);
                problem.score(s, item, &sight, some.clone(), scores, None);
                // While exponentials are computed, nothing else asks for memory.
                let ahead = [(values, first, stride), (keys, first + count, key_stride)];
                let ahead = ahead.map(|(rows, at, width)| Ahead {
                    rows: rows.wrapping_add(at * width).cast_const(),
                    width,
                });
                let correct = state.take(s, scores, count, ahead);
                if correct {
                    for lane in 0..item.count {
                        let factor = R::splat(s, state.factors[lane]);
                        for k in (0..stride).step_by(lanes) {
                            let at = sums.add(lane * stride + k);
                            R::store(s, at, R::vmul(s, R::load(s, at), factor));
                        }
                    }
                }
                if problem.dropout.is_some() {
                    problem.drop_out::<S>(item, some, factors);
                    for at in (0..count * width).step_by(lanes) {
                        let weight = R::load(s, scores.add(at));
                        let factor = R::load(s, factors.add(at));
                        R::store(s, scores.add(at), R::vmul(s, weight, factor));
                    }
                }
                let left = Left {
                    data: scores.cast_const(),
                    row_stride: 1,
                    step: width,
                };
                let right = rows_of(values.add(first * stride).cast_const(), stride);
                let size = [item.count, count, d_value.div_ceil(lanes)];
                multiply(s, size, left, right, rows_of(sums, stride), true);
                first += count;
            }
            for lane in 0..item.count {
                let (top, sum) = (state.tops[lane], state.sums[lane]);
                let inverse = if sum > R::ZERO { R::ONE / sum } else { R::ZERO };
                let i = item.first + lane;
                let y = self.pass.y.at(problem.output_at(item.b, i, item.head));
                for k in 0..d_value {
                    *y.add(k) = *sums.add(lane * stride + k) * inverse;
                }
                if let Some(log_sums) = self.pass.log_sums {
                    let log = match sum > R::ZERO {
                        true => top + R::from_f64(sum.to_f64().ln()),
                        false => R::from_f64(f64::INFINITY),
                    };
                    *log_sums.at(problem.number(item.b, item.head, i)) = log;
                }
            }
        }
    }
}

pub(super) fn rows_of<P>(data: P, stride: usize) -> Rows<P> {
    Rows { data, stride }
}

/// Rows that will be read soon.
#[derive(Clone, Copy)]
struct Ahead<R> {
    rows: *const R,
    width: usize,
}

impl<R> Ahead<R> {
    /// Asks for a row.
    #[inline(always)]
    fn ask(&self, row: usize) {
        let row = self.rows.wrapping_add(row * self.width);
        for at in (0..self.width).step_by(LINE / size_of::<R>()) {
            prefetch(row.wrapping_add(at));
        }
    }
}

/// The softmax of the keys so far, for each query of a block.
struct Running<R> {
    /// The largest score.
    tops: Vec<R>,
    /// The sum of the exponentials of scores less the largest.
    sums: Vec<R>,
    /// What sums before the latest keys are to be multiplied by.
    factors: Vec<R>,
}

impl<R: Real> Running<R> {
    fn new(width: usize) -> Self {
        Self {
            tops: vec![R::from_f64(f64::NEG_INFINITY); width],
            sums: vec![R::ZERO; width],
            factors: vec![R::ONE; width],
        }
    }

    /// Turns the scores `[count, width]` of more keys into exponentials; says whether a factor is not one.
    ///
    /// # Safety
    ///
    /// The scores must be there.
    #[inline(always)]
    unsafe fn take<S: Simd>(
        &mut self,
        s: S,
        scores: *mut R,
        count: usize,
        ahead: [Ahead<R>; 2],
    ) -> bool {
        const N: usize = REGISTERS;
        let lanes = R::lanes::<S>();
        let width = N * lanes;
        let lowest = R::splat(s, R::from_f64(LOWEST));
        // SAFETY: the caller promises the scores; the vectors are `width` long.
        unsafe {
            let mut tops = [lowest; N];
            for (n, top) in tops.iter_mut().enumerate() {
                *top = R::load(s, self.tops.as_ptr().add(n * lanes));
            }
            let before = tops;
            for key in 0..count {
                for (n, top) in tops.iter_mut().enumerate() {
                    let score = R::load(s, scores.add(key * width + n * lanes));
                    *top = R::max(s, score, *top);
                }
            }
            let mut bases = tops;
            for (n, base) in bases.iter_mut().enumerate() {
                R::store(s, self.tops.as_mut_ptr().add(n * lanes), tops[n]);
                // As long as nothing was seen the largest is minus infinity, from which nothing is taken.
                *base = R::max(s, *base, lowest);
                let factor = R::exp_flushed(s, R::vsub(s, before[n], *base));
                R::store(s, self.factors.as_mut_ptr().add(n * lanes), factor);
            }
            let mut sums = [R::splat(s, R::ZERO); N];
            for key in 0..count {
                ahead.iter().for_each(|ahead| ahead.ask(key));
                for n in 0..N {
                    let at = scores.add(key * width + n * lanes);
                    let weight = R::exp_flushed(s, R::vsub(s, R::load(s, at), bases[n]));
                    R::store(s, at, weight);
                    sums[n] = R::vadd(s, sums[n], weight);
                }
            }
            for (n, &sum) in sums.iter().enumerate() {
                let factor = R::load(s, self.factors.as_ptr().add(n * lanes));
                let at = self.sums.as_mut_ptr().add(n * lanes);
                R::store(s, at, R::mul_add(s, R::load(s, at), factor, sum));
            }
        }
        self.factors.iter().any(|&factor| factor != R::ONE)
    }
}
