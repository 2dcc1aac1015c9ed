use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use seq_core::cpu::tile::{Left, Rows, multiply};
use seq_core::cpu::{
    Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, prefetch, reserve, threads,
};

use super::decode;
use super::plan::{Item, KEYS, LINE, PerHead, Problem, REGISTERS, Sight, turn};

/// Below this many products a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 15;

/// Below every score, and not so low that a difference overflows.
pub(super) const LOWEST: f64 = -1e30;

/// How far the largest score may be above the one that is taken from all, in units of ln 2, before sums are corrected:
/// mostly, never again after the first keys.
const SLACK: f64 = 8.0;

/// How many blocks of queries are at most taken along the keys together: what they hold stays in the second cache.
const TOGETHER: usize = 8;

/// How many items of work a thread has at least, if there are blocks enough.
const ITEMS: usize = 16;

/// What attention gives.
pub(in super::super) struct Outputs<R> {
    /// `[batch, time_query, heads, d_value]`
    pub y: Vec<R>,
    /// The logarithm of each query's sum of exponentials in units of ln 2, `[batch, heads, time_query]`; infinite
    /// where it sees nothing. Empty where it was not asked for.
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
    blocks: Vec<Block<R>>,
    /// `[KEYS, width]`
    scores: Buffer<R>,
    /// As the scores; empty without dropout.
    factors: Buffer<R>,
}

/// A block of queries on its way along the keys.
struct Block<R> {
    item: Item,
    sight: Sight<R>,
    /// `[d_head, width]`
    query: Buffer<R>,
    /// `[width, stride of the values]`
    sums: Buffer<R>,
    running: Running<R>,
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Pass { problem, .. } = *self.pass;
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
        let width = Problem::<R>::width::<S>();
        let (heads, blocks) = (problem.batch * problem.heads, problem.blocks(width));
        // So many items are left that no thread waits long for another at the end.
        let together = (heads * blocks / (ITEMS * self.member.count())).clamp(1, TOGETHER);
        let groups = blocks.div_ceil(together);
        // SAFETY: each buffer is written before it is read, block by block.
        let mut room = unsafe {
            Room {
                blocks: Vec::with_capacity(together),
                scores: Buffer::uninit(KEYS * width),
                factors: Buffer::uninit(problem.dropout.map_or(0, |_| KEYS * width)),
            }
        };
        loop {
            let item = self.pass.next.fetch_add(1, Ordering::Relaxed);
            if item >= heads * groups {
                return;
            }
            // Head by head, whose keys and values stay near; the last blocks of each first: where attention is
            // causal, they see the most.
            let (head, group) = (item / groups, groups - 1 - item % groups);
            let first = group * together;
            let count = together.min(blocks - first);
            // SAFETY: the items' outputs are this thread's own.
            unsafe {
                for n in 0..count {
                    let first = (first + n) * width;
                    let item = Item {
                        b: head / problem.heads,
                        head: head % problem.heads,
                        first,
                        count: width.min(problem.time_query - first),
                    };
                    self.begin::<S>(item, n, &mut room.blocks);
                }
                self.group(s, count, &mut room);
                for block in &room.blocks[..count] {
                    self.finish(block);
                }
            }
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// Places a block of queries before the first key, as number `n` of its group.
    #[inline(always)]
    unsafe fn begin<S: Simd>(&self, item: Item, n: usize, blocks: &mut Vec<Block<R>>) {
        let Pass { problem, .. } = *self.pass;
        let width = Problem::<R>::width::<S>();
        let sight = problem.sight(item, width);
        match blocks.get_mut(n) {
            Some(block) => {
                (block.item, block.sight) = (item, sight);
                block.running.restart();
            }
            // SAFETY: written below.
            None => blocks.push(unsafe {
                Block {
                    item,
                    sight,
                    query: Buffer::uninit(problem.d_head * width),
                    sums: Buffer::uninit(width * self.pass.values.stride),
                    running: Running::new(width),
                }
            }),
        }
        let block = &mut blocks[n];
        block.sums.as_mut_slice().fill(R::ZERO);
        // SAFETY: rows of this head, and a buffer of the block's size.
        unsafe {
            let rows = problem.query.as_ptr();
            turn(
                rows.add(problem.query_at(item.b, item.first, item.head)),
                problem.heads * problem.d_head,
                [item.count, problem.d_head, width],
                problem.scale_of_bits(),
                block.query.as_mut_slice().as_mut_ptr(),
            );
        }
    }

    /// Takes the first `count` blocks along the keys, side by side: some keys and their values serve all of them
    /// before the next ones are fetched.
    #[inline(always)]
    unsafe fn group<S: Simd>(&self, s: S, count: usize, room: &mut Room<R>) {
        let blocks = &mut room.blocks[..count];
        let seen = blocks.iter().map(|block| block.sight.any.clone());
        let (start, end) = seen
            .filter(|any| !any.is_empty())
            .fold((usize::MAX, 0), |(start, end), any| {
                (start.min(any.start), end.max(any.end))
            });
        // Cuts do not depend on what is together, or sums would.
        let mut first = start / KEYS * KEYS;
        while first < end {
            let next = first + KEYS;
            let mut ahead = true;
            for block in blocks.iter_mut() {
                let sight = &block.sight.any;
                let keys = first.max(sight.start)..next.min(sight.end);
                if !keys.is_empty() {
                    let (scores, factors) = (&mut room.scores, &mut room.factors);
                    // SAFETY: keys of the head that the blocks are of.
                    unsafe { self.pair(s, block, keys, ahead, scores, factors) };
                    ahead = false;
                }
            }
            first = next;
        }
    }

    /// A block of queries and some keys; with `ahead`, asks for the keys after those.
    #[inline(always)]
    unsafe fn pair<S: Simd>(
        &self,
        s: S,
        block: &mut Block<R>,
        keys: Range<usize>,
        ahead: bool,
        scores: &mut Buffer<R>,
        factors: &mut Buffer<R>,
    ) {
        let Pass { problem, .. } = *self.pass;
        let (lanes, width) = (R::lanes::<S>(), Problem::<R>::width::<S>());
        let Problem {
            d_head, d_value, ..
        } = *problem;
        let Block {
            item,
            sight,
            query,
            sums,
            running,
        } = block;
        let (item, first, count) = (*item, keys.start, keys.len());
        let kv_head = problem.kv_head(item.head);
        let [key_stride, stride] = [self.pass.keys.stride, self.pass.values.stride];
        let scores = scores.as_mut_slice().as_mut_ptr();
        let factors = factors.as_mut_slice().as_mut_ptr();
        let sums = sums.as_mut_slice().as_mut_ptr();
        // SAFETY: rows of this head, and buffers of the sizes they are used with.
        unsafe {
            let key_rows = self.pass.into[0].at(self.pass.keys.at(item.b, kv_head));
            let value_rows = self.pass.into[1].at(self.pass.values.at(item.b, kv_head));
            let left = Left {
                data: key_rows.add(first * key_stride).cast_const(),
                row_stride: key_stride,
                step: 1,
            };
            let right = rows_of(query.as_slice().as_ptr(), width);
            let size = [count, d_head, width / lanes];
            multiply(s, size, left, right, rows_of(scores, width), false);
            problem.score(s, item, sight, keys.clone(), scores, None);
            // While powers are computed, nothing else asks for memory.
            let next = [
                (value_rows, first, stride),
                (key_rows, keys.end, key_stride),
            ];
            let next = next.map(|(rows, at, width)| Ahead {
                rows: rows.wrapping_add(at * width).cast_const(),
                width: if ahead { width } else { 0 },
            });
            if running.take(s, scores, count, next) {
                for lane in 0..item.count {
                    let factor = R::splat(s, running.factors[lane]);
                    for k in (0..stride).step_by(lanes) {
                        let at = sums.add(lane * stride + k);
                        R::store(s, at, R::vmul(s, R::load(s, at), factor));
                    }
                }
            }
            if problem.dropout.is_some() {
                problem.drop_out::<S>(item, keys, factors);
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
            let right = rows_of(value_rows.add(first * stride).cast_const(), stride);
            let size = [item.count, count, d_value.div_ceil(lanes)];
            multiply(s, size, left, right, rows_of(sums, stride), true);
        }
    }

    /// Gives out what a block of queries found.
    #[inline(always)]
    unsafe fn finish(&self, block: &Block<R>) {
        let Pass { problem, .. } = *self.pass;
        let (item, stride) = (block.item, self.pass.values.stride);
        for lane in 0..item.count {
            let (base, sum) = (block.running.bases[lane], block.running.sums[lane]);
            let inverse = if sum > R::ZERO { R::ONE / sum } else { R::ZERO };
            let i = item.first + lane;
            let sums = &block.sums.as_slice()[lane * stride..][..problem.d_value];
            // SAFETY: the outputs of this query, which are the thread's own.
            unsafe {
                let y = self.pass.y.at(problem.output_at(item.b, i, item.head));
                for (k, &sum) in sums.iter().enumerate() {
                    *y.add(k) = sum * inverse;
                }
                if let Some(log_sums) = self.pass.log_sums {
                    let log = match sum > R::ZERO {
                        true => base + R::from_f64(sum.to_f64().log2()),
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
    /// What is taken from scores: the largest, or less than that by [`SLACK`] at most.
    bases: Vec<R>,
    /// The sum of the powers of two of scores less the base.
    sums: Vec<R>,
    /// What sums before the latest keys are to be multiplied by.
    factors: Vec<R>,
}

impl<R: Real> Running<R> {
    fn new(width: usize) -> Self {
        Self {
            bases: vec![R::from_f64(LOWEST); width],
            sums: vec![R::ZERO; width],
            factors: vec![R::ONE; width],
        }
    }

    fn restart(&mut self) {
        self.bases.fill(R::from_f64(LOWEST));
        self.sums.fill(R::ZERO);
    }

    /// Turns the scores `[count, width]` of more keys into powers of two; says whether a factor is not one.
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
        let slack = R::splat(s, R::from_f64(SLACK));
        // SAFETY: the caller promises the scores; the vectors are `width` long.
        unsafe {
            let mut tops = [lowest; N];
            for key in 0..count {
                for (n, top) in tops.iter_mut().enumerate() {
                    let score = R::load(s, scores.add(key * width + n * lanes));
                    *top = R::max(s, score, *top);
                }
            }
            let (mut bases, mut behind) = (tops, tops);
            for (n, base) in bases.iter_mut().enumerate() {
                let at = self.bases.as_mut_ptr().add(n * lanes);
                let before = R::load(s, at);
                *base = R::select_lt(s, R::vadd(s, before, slack), *base, *base, before);
                R::store(s, at, *base);
                behind[n] = R::vsub(s, before, *base);
            }
            for (n, factor) in R::exp2_flushed(s, behind).into_iter().enumerate() {
                R::store(s, self.factors.as_mut_ptr().add(n * lanes), factor);
            }
            let mut sums = [R::splat(s, R::ZERO); N];
            for key in 0..count {
                ahead.iter().for_each(|ahead| ahead.ask(key));
                let at = scores.add(key * width);
                let mut weights = bases;
                for (n, weight) in weights.iter_mut().enumerate() {
                    *weight = R::vsub(s, R::load(s, at.add(n * lanes)), *weight);
                }
                weights = R::exp2_flushed(s, weights);
                for (n, &weight) in weights.iter().enumerate() {
                    R::store(s, at.add(n * lanes), weight);
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
