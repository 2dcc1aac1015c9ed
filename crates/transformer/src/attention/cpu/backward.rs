use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use seq_core::cpu::tile::{Left, multiply};
use seq_core::cpu::{Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, threads};

use super::forward::rows_of;
use super::plan::{Item, KEYS, Problem, REGISTERS, turn};

/// The gradients of the inputs, each of its input's shape.
pub(in super::super) struct Gradients<R> {
    pub query: Vec<R>,
    pub key: Vec<R>,
    pub value: Vec<R>,
    /// Empty where there is no bias.
    pub bias: Vec<R>,
}

/// What the forward pass gave and what came back for it.
pub(in super::super) struct Given<'a, R> {
    /// `[batch, time_query, heads, d_value]`
    pub y: &'a [R],
    /// As `y`.
    pub gradient: &'a [R],
    /// `[batch, heads, time_query]`
    pub log_sums: &'a [R],
}

/// Makes the weights again, block by block, and the gradients with them.
pub(in super::super) fn backward<R: Real>(
    problem: &Problem<'_, R>,
    given: &Given<'_, R>,
) -> Gradients<R> {
    let items = problem.batch * problem.kv_heads;
    let count = problem.threads();
    // With fewer heads than threads, several share one, each some of its keys.
    let parts = match count > items {
        true => count.div_ceil(items.max(1)),
        false => 1,
    };
    let mut queries: Vec<Vec<R>> = (0..parts)
        .map(|_| vec![R::ZERO; problem.query.len()])
        .collect();
    let mut key = vec![R::ZERO; problem.key.len()];
    let mut value = vec![R::ZERO; problem.value.len()];
    let bias_len = problem.bias.as_ref().map_or(0, |bias| bias.values.len());
    let mut biases: Vec<Vec<R>> = (0..count).map(|_| vec![R::ZERO; bias_len]).collect();
    let pass = Pass {
        problem,
        given,
        parts,
        next: &AtomicUsize::new(0),
        queries: &queries
            .iter_mut()
            .map(|q| Shared::new(q.as_mut_ptr()))
            .collect::<Vec<_>>(),
        key: Shared::new(key.as_mut_ptr()),
        value: Shared::new(value.as_mut_ptr()),
        biases: &biases
            .iter_mut()
            .map(|b| Shared::new(b.as_mut_ptr()))
            .collect::<Vec<_>>(),
    };
    let arch = Arch::new();
    Team::run(count.min(threads()), |member| {
        arch.dispatch(Thread {
            pass: &pass,
            member,
        });
    });
    Gradients {
        query: sum(queries),
        key,
        value,
        bias: sum(biases),
    }
}

fn sum<R: Real>(vectors: Vec<Vec<R>>) -> Vec<R> {
    let mut vectors = vectors.into_iter();
    let mut total = vectors.next().unwrap_or_default();
    for vector in vectors {
        for (total, x) in total.iter_mut().zip(vector) {
            *total += x;
        }
    }
    total
}

/// A run, as all threads see it.
struct Pass<'a, R> {
    problem: &'a Problem<'a, R>,
    given: &'a Given<'a, R>,
    /// How many threads share a head of keys.
    parts: usize,
    /// The first item that no thread has begun.
    next: &'a AtomicUsize,
    /// For each part.
    queries: &'a [Shared<R>],
    key: Shared<R>,
    value: Shared<R>,
    /// For each thread.
    biases: &'a [Shared<R>],
}

/// One thread of it.
struct Thread<'a, 'm, R> {
    pass: &'a Pass<'a, R>,
    member: &'a Member<'m>,
}

/// The queries of the heads that share a head of keys, in all the orders in which they are needed; rows are of
/// whole registers.
struct Packed<R> {
    /// Times the scale, for scores in units of ln 2: `[group, blocks, d_head, width]`.
    columns: Buffer<R>,
    /// Times the scale, in rows: `[group, blocks, width, d_head]`.
    rows: Buffer<R>,
    /// The outputs' gradients: `[group, blocks, d_value, width]`.
    gradient_columns: Buffer<R>,
    /// The same in rows.
    gradient_rows: Buffer<R>,
    /// The sum over the values of each output times its gradient, `[group, blocks, width]`.
    shares: Buffer<R>,
    /// The logarithms of the sums of powers, as the shares; infinite where a lane has no query.
    log_sums: Buffer<R>,
    /// Of the queries, `[group, blocks, d_head, width]`.
    sums: Buffer<R>,
}

/// What a thread works in, for one block of keys and one of queries.
struct Room<R> {
    /// `[KEYS, width]`
    weights: Buffer<R>,
    /// The gradients of the scores, as the weights.
    scores: Buffer<R>,
    /// The derivatives of the soft cap, as the weights; empty without it.
    bent: Buffer<R>,
    /// As the weights; empty without dropout.
    factors: Buffer<R>,
    /// `[KEYS, d_head]`, in whole registers.
    key: Buffer<R>,
    /// `[KEYS, d_value]`, in whole registers.
    value: Buffer<R>,
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Pass { problem, parts, .. } = *self.pass;
        let (lanes, width) = (R::lanes::<S>(), Problem::<R>::width::<S>());
        let whole = |n: usize| n.next_multiple_of(lanes);
        let block = KEYS * width;
        // SAFETY: each buffer is written before it is read, block by block.
        let mut room = unsafe {
            Room {
                weights: Buffer::uninit(block),
                scores: Buffer::uninit(block),
                bent: Buffer::uninit(problem.softcap.map_or(0, |_| block)),
                factors: Buffer::uninit(problem.dropout.map_or(0, |_| block)),
                key: Buffer::uninit(KEYS * whole(problem.d_head)),
                value: Buffer::uninit(KEYS * whole(problem.d_value)),
            }
        };
        loop {
            let item = self.pass.next.fetch_add(1, Ordering::Relaxed);
            if item >= problem.batch * problem.kv_heads * parts {
                return;
            }
            let (head, part) = (item / parts, item % parts);
            let (b, kv_head) = (head / problem.kv_heads, head % problem.kv_heads);
            // SAFETY: the keys of this part are the thread's own, and so is the part's gradient of queries.
            unsafe { self.head(s, b, kv_head, part, &mut room) };
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    #[inline(always)]
    unsafe fn head<S: Simd>(
        &self,
        s: S,
        b: usize,
        kv_head: usize,
        part: usize,
        room: &mut Room<R>,
    ) {
        let Pass { problem, parts, .. } = *self.pass;
        let width = Problem::<R>::width::<S>();
        let group = problem.heads / problem.kv_heads;
        let blocks = problem.blocks(width);
        // SAFETY: by the caller's promise.
        unsafe {
            let mut packed = self.pack::<S>(b, kv_head);
            let items: Vec<Item> = (0..group * blocks)
                .map(|at| {
                    let first = at % blocks * width;
                    Item {
                        b,
                        head: kv_head * group + at / blocks,
                        first,
                        count: width.min(problem.time_query - first),
                    }
                })
                .collect();
            let sights: Vec<_> = items
                .iter()
                .map(|&item| problem.sight(item, width))
                .collect();
            for at in (part..problem.time_key.div_ceil(KEYS)).step_by(parts) {
                let keys = at * KEYS..problem.time_key.min((at + 1) * KEYS);
                room.key.as_mut_slice().fill(R::ZERO);
                room.value.as_mut_slice().fill(R::ZERO);
                for (number, (&item, sight)) in items.iter().zip(&sights).enumerate() {
                    let seen = keys.start.max(sight.any.start)..keys.end.min(sight.any.end);
                    if !seen.is_empty() {
                        let place = (number, seen.start - keys.start);
                        self.pair(s, item, sight, place, seen, kv_head, room, &mut packed);
                    }
                }
                self.store_keys::<S>(b, kv_head, keys, room);
            }
            for (number, item) in items.into_iter().enumerate() {
                let sums = packed.sums.as_slice().as_ptr();
                let sums = sums.add(number * problem.d_head * width);
                let scale = R::from_f64(problem.scale);
                for lane in 0..item.count {
                    let at = problem.query_at(b, item.first + lane, item.head);
                    let to = self.pass.queries[part].at(at);
                    for k in 0..problem.d_head {
                        *to.add(k) = *sums.add(k * width + lane) * scale;
                    }
                }
            }
        }
    }

    /// Brings the queries of a head of keys into order.
    #[inline(always)]
    unsafe fn pack<S: Simd>(&self, b: usize, kv_head: usize) -> Packed<R> {
        let Pass { problem, given, .. } = *self.pass;
        let (lanes, width) = (R::lanes::<S>(), Problem::<R>::width::<S>());
        let Problem {
            d_head,
            d_value,
            heads,
            time_query,
            ..
        } = *problem;
        let (d_head_whole, d_value_whole) = (
            d_head.next_multiple_of(lanes),
            d_value.next_multiple_of(lanes),
        );
        let group = heads / problem.kv_heads;
        let blocks = problem.blocks(width);
        let all = group * blocks;
        // SAFETY: what is not zeroed is written whole below.
        unsafe {
            let mut packed = Packed {
                columns: Buffer::uninit(all * d_head * width),
                rows: Buffer::zeroed(all * width * d_head_whole),
                gradient_columns: Buffer::uninit(all * d_value * width),
                gradient_rows: Buffer::zeroed(all * width * d_value_whole),
                shares: Buffer::zeroed(all * width),
                log_sums: Buffer::uninit(all * width),
                sums: Buffer::zeroed(all * d_head * width),
            };
            let scale = R::from_f64(problem.scale);
            let scale_of_bits = problem.scale_of_bits();
            packed
                .log_sums
                .as_mut_slice()
                .fill(R::from_f64(f64::INFINITY));
            for at in 0..all {
                let (head, first) = (kv_head * group + at / blocks, at % blocks * width);
                let count = width.min(time_query - first);
                let query = problem.query.as_ptr().add(problem.query_at(b, first, head));
                let columns = packed.columns.as_mut_slice().as_mut_ptr();
                let columns = columns.add(at * d_head * width);
                turn(
                    query,
                    heads * d_head,
                    [count, d_head, width],
                    scale_of_bits,
                    columns,
                );
                let output = problem.output_at(b, first, head);
                let gradient = given.gradient.as_ptr().add(output);
                let columns = packed.gradient_columns.as_mut_slice().as_mut_ptr();
                let columns = columns.add(at * d_value * width);
                turn(
                    gradient,
                    heads * d_value,
                    [count, d_value, width],
                    R::ONE,
                    columns,
                );
                let number = problem.number(b, head, first);
                let log_sums = &given.log_sums[number..number + count];
                packed.log_sums.as_mut_slice()[at * width..][..count].copy_from_slice(log_sums);
                for lane in 0..count {
                    let row = &mut packed.rows.as_mut_slice()[(at * width + lane) * d_head_whole..];
                    for (k, to) in row[..d_head].iter_mut().enumerate() {
                        *to = *query.add(lane * heads * d_head + k) * scale;
                    }
                    let place = lane * heads * d_value;
                    let row = &mut packed.gradient_rows.as_mut_slice()
                        [(at * width + lane) * d_value_whole..];
                    let mut share = R::ZERO;
                    for (k, to) in row[..d_value].iter_mut().enumerate() {
                        *to = *gradient.add(place + k);
                        share += *to * given.y[output + place + k];
                    }
                    packed.shares.as_mut_slice()[at * width + lane] = share;
                }
            }
            packed
        }
    }

    /// Adds to the gradients what a block of queries, `number` among those of its head of keys, and the keys
    /// `keys`, `place` those of the block of keys from its first on, have to do with one another.
    #[allow(
        clippy::too_many_arguments,
        reason = "two blocks, and where each of them lies"
    )]
    #[inline(always)]
    unsafe fn pair<S: Simd>(
        &self,
        s: S,
        item: Item,
        sight: &super::plan::Sight<R>,
        (number, place): (usize, usize),
        keys: Range<usize>,
        kv_head: usize,
        room: &mut Room<R>,
        packed: &mut Packed<R>,
    ) {
        let Pass { problem, .. } = *self.pass;
        let (lanes, width) = (R::lanes::<S>(), Problem::<R>::width::<S>());
        let Problem {
            d_head, d_value, ..
        } = *problem;
        let (d_head_whole, d_value_whole) = (
            d_head.next_multiple_of(lanes),
            d_value.next_multiple_of(lanes),
        );
        let count = keys.len();
        let registers = width / lanes;
        let weights = room.weights.as_mut_slice().as_mut_ptr();
        let scores = room.scores.as_mut_slice().as_mut_ptr();
        let bent = problem
            .softcap
            .map(|_| room.bent.as_mut_slice().as_mut_ptr());
        let factors = problem
            .dropout
            .map(|_| room.factors.as_mut_slice().as_mut_ptr());
        let row = |x: usize| (item.b * problem.time_key + keys.start) * x;
        // SAFETY: all addresses are inside the tensors and buffers, by their sizes.
        unsafe {
            let of =
                |buffer: &Buffer<R>, size: usize| buffer.as_slice().as_ptr().add(number * size);
            let key = Left {
                data: problem
                    .key
                    .as_ptr()
                    .add((row(problem.kv_heads) + kv_head) * d_head),
                row_stride: problem.kv_heads * d_head,
                step: 1,
            };
            let value = Left {
                data: problem
                    .value
                    .as_ptr()
                    .add((row(problem.kv_heads) + kv_head) * d_value),
                row_stride: problem.kv_heads * d_value,
                step: 1,
            };
            let columns = rows_of(of(&packed.columns, d_head * width), width);
            let size = [count, d_head, registers];
            multiply(s, size, key, columns, rows_of(weights, width), false);
            problem.score(s, item, sight, keys.clone(), weights, bent);
            let columns = rows_of(of(&packed.gradient_columns, d_value * width), width);
            let size = [count, d_value, registers];
            multiply(s, size, value, columns, rows_of(scores, width), false);
            if let Some(factors) = factors {
                problem.drop_out::<S>(item, keys.clone(), factors);
            }
            let (log_sums, shares) = (of(&packed.log_sums, width), of(&packed.shares, width));
            for key in 0..count {
                let mut powers = [R::splat(s, R::ZERO); REGISTERS];
                for (n, power) in powers.iter_mut().enumerate() {
                    let score = R::load(s, weights.add(key * width + n * lanes));
                    *power = R::vsub(s, score, R::load(s, log_sums.add(n * lanes)));
                }
                for (n, weight) in R::exp2_flushed(s, powers).into_iter().enumerate() {
                    let at = key * width + n * lanes;
                    let share = R::load(s, shares.add(n * lanes));
                    let mut score = R::load(s, scores.add(at));
                    let mut kept = weight;
                    if let Some(factors) = factors {
                        let factor = R::load(s, factors.add(at));
                        score = R::vmul(s, score, factor);
                        kept = R::vmul(s, weight, factor);
                    }
                    R::store(s, weights.add(at), kept);
                    let score = R::vmul(s, weight, R::vsub(s, score, share));
                    R::store(s, scores.add(at), score);
                }
            }
            self.add_bias::<S>(item, keys.clone(), scores);
            if let Some(bent) = bent {
                for at in (0..count * width).step_by(lanes) {
                    let score = R::vmul(s, R::load(s, scores.add(at)), R::load(s, bent.add(at)));
                    R::store(s, scores.add(at), score);
                }
            }
            let of_keys = |data: *mut R| Left {
                data: data.cast_const(),
                row_stride: width,
                step: 1,
            };
            let rows = rows_of(
                of(&packed.gradient_rows, width * d_value_whole),
                d_value_whole,
            );
            let out = room
                .value
                .as_mut_slice()
                .as_mut_ptr()
                .add(place * d_value_whole);
            let size = [count, item.count, d_value_whole / lanes];
            multiply(
                s,
                size,
                of_keys(weights),
                rows,
                rows_of(out, d_value_whole),
                true,
            );
            let rows = rows_of(of(&packed.rows, width * d_head_whole), d_head_whole);
            let out = room
                .key
                .as_mut_slice()
                .as_mut_ptr()
                .add(place * d_head_whole);
            let size = [count, item.count, d_head_whole / lanes];
            multiply(
                s,
                size,
                of_keys(scores),
                rows,
                rows_of(out, d_head_whole),
                true,
            );
            let turned = Left {
                row_stride: 1,
                step: key.row_stride,
                ..key
            };
            let sums = packed
                .sums
                .as_mut_slice()
                .as_mut_ptr()
                .add(number * d_head * width);
            let size = [d_head, count, registers];
            multiply(
                s,
                size,
                turned,
                rows_of(scores.cast_const(), width),
                rows_of(sums, width),
                true,
            );
        }
    }

    /// Adds the scores' gradients to that of the bias.
    unsafe fn add_bias<S: Simd>(&self, item: Item, keys: Range<usize>, scores: *const R) {
        let Some(bias) = &self.pass.problem.bias else {
            return;
        };
        let width = Problem::<R>::width::<S>();
        let own = self.pass.biases[self.member.index()];
        for lane in 0..item.count {
            let (start, step) = bias.row([item.b, item.head, item.first + lane]);
            for (key, j) in keys.clone().enumerate() {
                // SAFETY: inside the bias and the block; the thread's own.
                unsafe { *own.at(start + j * step) += *scores.add(key * width + lane) };
            }
        }
    }

    /// Writes the gradients of a block of keys.
    unsafe fn store_keys<S: Simd>(
        &self,
        b: usize,
        kv_head: usize,
        keys: Range<usize>,
        room: &Room<R>,
    ) {
        let Pass { problem, .. } = *self.pass;
        let lanes = R::lanes::<S>();
        let outputs = [
            (self.pass.key, &room.key, problem.d_head),
            (self.pass.value, &room.value, problem.d_value),
        ];
        for (to, from, width) in outputs {
            let stride = width.next_multiple_of(lanes);
            for (row, j) in keys.clone().enumerate() {
                let at = ((b * problem.time_key + j) * problem.kv_heads + kv_head) * width;
                let from = &from.as_slice()[row * stride..row * stride + width];
                // SAFETY: a row of the head, which is this thread's own.
                unsafe { to.at(at).copy_from_nonoverlapping(from.as_ptr(), width) };
            }
        }
    }
}
