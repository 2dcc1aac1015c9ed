//! The kernel of a step on slices. A thread owns heads, then keys, then outputs.

use std::ops::Range;

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Element;
use seq_core::autodiff::Maybe;
use seq_core::cpu::{
    Arch, Buffer, CpuTensor, Matrix, Member, Real, Shared, Simd, Slice, Team, WithSimd,
    product_columns, reserve, threads,
};

use super::Options;
use crate::attention::Reach;
use crate::attention::cpu::{self, part_size};
use crate::rotary::turn_heads;

/// Below this many weights a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 15;

/// A linear map, `[d_input, d_output]`.
pub(super) struct Map<'a, R: Real> {
    pub weight: Slice<'a, R>,
    pub bias: Option<Slice<'a, R>>,
}

impl<'a, R: Real + Element> Map<'a, R> {
    pub fn of<B: Backend>(weight: &'a FloatTensor<B>, bias: &'a Maybe<B>) -> Self
    where
        FloatTensor<B>: CpuTensor,
    {
        Self {
            weight: weight.elements(),
            bias: bias.elements(),
        }
    }
}

impl<R: Real> Map<'_, R> {
    /// Some columns of what the map makes of the rows of `x`, as they lie in an output of all columns.
    ///
    /// # Safety
    ///
    /// The columns must be inside, and the calling thread's own.
    #[inline(always)]
    unsafe fn columns<S: Simd>(
        &self,
        s: S,
        x: &[R],
        [d_input, d_output]: [usize; 2],
        columns: Range<usize>,
        out: Shared<R>,
    ) {
        let size = [x.len() / d_input, d_input, d_output];
        let matrices = [
            Matrix::rows(x, d_input),
            Matrix::rows(&self.weight, d_output),
        ];
        // SAFETY: the matrices are whole, the columns by the promise.
        unsafe { product_columns(s, size, matrices, self.bias.as_deref(), out, columns) };
    }
}

/// A step with its inputs, all row-major.
pub(super) struct Problem<'a, R: Real> {
    pub batch: usize,
    pub d_model: usize,
    pub d_output: usize,
    pub room: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub d_head: usize,
    pub x: Slice<'a, R>,
    pub query: Map<'a, R>,
    pub key: Map<'a, R>,
    pub value: Map<'a, R>,
    pub output: Map<'a, R>,
    pub options: &'a Options<'a>,
    /// The table that `turn` is about.
    pub turns: &'a [R],
}

impl<R: Real> Problem<'_, R> {
    /// Gives y, and writes the step's key and value to the cache.
    ///
    /// # Safety
    ///
    /// The maps must be of the widths said, there must be `batch` rows and places, the heads share those of the cache,
    /// and keys and values be writable for `[batch, room, kv_heads, d_head]` with the places inside of the room.
    pub unsafe fn run(&self, keys: Shared<R>, values: Shared<R>) -> Vec<R> {
        let longest = self.options.places.iter().copied().max().unwrap_or(0);
        let weights = self.query.weight.len() + self.output.weight.len();
        let count = match weights + longest * self.heads * self.d_head < WORTH_SHARING {
            true => 1,
            false => threads(),
        };
        let len = self.batch * self.d_output;
        let mut y = reserve(len);
        let width = |heads: usize| self.batch * heads * self.d_head;
        // SAFETY: each is written before it is read.
        let mut buffers = [self.heads, self.kv_heads, self.kv_heads, self.heads]
            .map(|heads| unsafe { Buffer::uninit(width(heads)) });
        let [query, key, value, mixed] = buffers.each_mut().map(Buffer::shared);
        let reach = Reach {
            causal: true,
            window: self.options.window,
            offsets: self.options.places.iter().map(|&at| at as isize).collect(),
            keys: self.options.places.iter().map(|&at| at + 1).collect(),
        };
        let size = part_size(self.d_head);
        // SAFETY: as above.
        let mut parts = unsafe { Buffer::uninit(count * self.batch * self.heads * size) };
        let pass = Pass {
            problem: self,
            reach: &reach,
            keys,
            values,
            query,
            key,
            value,
            mixed,
            parts: parts.shared(),
            y: Shared::new(y.as_mut_ptr()),
        };
        let arch = Arch::new();
        Team::run(count, |member| {
            arch.dispatch(Thread {
                pass: &pass,
                member,
            });
        });
        // SAFETY: the threads have written all columns of every row.
        unsafe { y.set_len(len) };
        y
    }
}

/// A step, as all threads see it.
struct Pass<'a, R: Real> {
    problem: &'a Problem<'a, R>,
    reach: &'a Reach,
    /// `[batch, room, kv_heads, d_head]`, as the values.
    keys: Shared<R>,
    values: Shared<R>,
    /// `[batch, heads, d_head]`, as what attention gives.
    query: Shared<R>,
    /// `[batch, kv_heads, d_head]`, as the value.
    key: Shared<R>,
    value: Shared<R>,
    mixed: Shared<R>,
    parts: Shared<R>,
    /// `[batch, d_output]`
    y: Shared<R>,
}

struct Thread<'a, 'm, R: Real> {
    pass: &'a Pass<'a, R>,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { pass, member } = self;
        let problem = pass.problem;
        let width = problem.heads * problem.d_head;
        let line = 64 / size_of::<R>();
        let lines = member.share(problem.d_output.div_ceil(line));
        let own = lines.start * line..problem.d_output.min(lines.end * line);
        // SAFETY: until the threads meet, each writes its own heads; what attention reads is there when they
        // have met, and so is what the last map reads, whose columns are each thread's own.
        unsafe {
            self.enter(s, member.share(problem.heads + 2 * problem.kv_heads));
            member.wait();
            self.attend(s);
            member.wait();
            let mixed = std::slice::from_raw_parts(pass.mixed.at(0), problem.batch * width);
            let size = [width, problem.d_output];
            problem.output.columns(s, mixed, size, own, pass.y);
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// The queries, keys and values of some heads, which are counted through in this order.
    ///
    /// # Safety
    ///
    /// The heads must be this thread's own.
    #[inline(always)]
    unsafe fn enter<S: Simd>(&self, s: S, own: Range<usize>) {
        let pass = self.pass;
        let problem = pass.problem;
        let (heads, kv_heads, d_head) = (problem.heads, problem.kv_heads, problem.d_head);
        let maps = [
            (&problem.query, 0..heads, pass.query, None),
            (
                &problem.key,
                heads..heads + kv_heads,
                pass.key,
                Some(pass.keys),
            ),
            (
                &problem.value,
                heads + kv_heads..heads + 2 * kv_heads,
                pass.value,
                Some(pass.values),
            ),
        ];
        for (i, (map, all, out, cache)) in maps.into_iter().enumerate() {
            let (start, end) = (own.start.max(all.start), own.end.min(all.end));
            if start >= end {
                continue;
            }
            let columns = (start - all.start) * d_head..(end - all.start) * d_head;
            let width = all.len() * d_head;
            let size = [problem.d_model, width];
            // SAFETY: the columns of this thread's own heads, which the cache has room for at the row's place.
            unsafe {
                map.columns(s, &problem.x, size, columns.clone(), out);
                for row in 0..problem.batch {
                    let out = out.at(row * width + columns.start);
                    if let Some(turn) = problem.options.turn.as_ref().filter(|_| i < 2) {
                        let vectors = std::slice::from_raw_parts_mut(out, columns.len());
                        turn_heads(s, turn, problem.turns, turn.start(row), vectors, d_head);
                    }
                    if let Some(cache) = cache {
                        let at = row * problem.room + problem.options.places[row];
                        let into = cache.at(at * width + columns.start);
                        into.copy_from_nonoverlapping(out, columns.len());
                    }
                }
            }
        }
    }

    /// Attention of the queries to what the cache holds.
    ///
    /// # Safety
    ///
    /// All threads must have entered.
    #[inline(always)]
    unsafe fn attend<S: Simd>(&self, s: S) {
        let pass = self.pass;
        let problem = pass.problem;
        let (heads, d_head) = (problem.heads, problem.d_head);
        let held = problem.batch * problem.room * problem.kv_heads * d_head;
        // SAFETY: by the promise nobody writes to them any more.
        let slice = |from: Shared<R>, len| unsafe { std::slice::from_raw_parts(from.at(0), len) };
        let attention = cpu::Problem {
            batch: problem.batch,
            time_query: 1,
            time_key: problem.room,
            heads,
            kv_heads: problem.kv_heads,
            d_head,
            d_value: d_head,
            query: slice(pass.query, problem.batch * heads * d_head),
            key: slice(pass.keys, held),
            value: slice(pass.values, held),
            scale: problem.options.scale,
            softcap: problem.options.softcap,
            slopes: problem.options.slopes,
            mask: None,
            bias: None,
            reach: pass.reach,
            dropout: None,
        };
        // SAFETY: all threads come here, with parts for each.
        unsafe { cpu::attend(s, &attention, self.member, pass.parts, pass.mixed) };
    }
}
