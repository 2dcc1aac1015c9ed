//! The kernel of a step on slices. A thread reads rows of the weights that enter, then owns heads, then keys, and reads
//! rows of the weight that leaves.

use std::ops::Range;

use burn::backend::Backend;
use burn::backend::tensor::FloatTensor;
use burn::tensor::Element;
use seq_core::autodiff::Maybe;
use seq_core::cpu::{
    Arch, Buffer, CpuTensor, Matrix, Member, Parts, Real, Shared, SharedParts, Simd, Slice, Team,
    WithSimd, product_steps, reserve, threads,
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
    /// What some elements of the rows of `x` give to the map's output, and the bias if `biased`.
    ///
    /// # Safety
    ///
    /// The elements must be inside of a row, and `out` be writable for all rows and the calling thread's own.
    #[inline(always)]
    unsafe fn steps<S: Simd>(
        &self,
        s: S,
        x: &[R],
        [d_input, d_output]: [usize; 2],
        steps: Range<usize>,
        biased: bool,
        out: Shared<R>,
    ) {
        let size = [x.len() / d_input, d_input, d_output];
        let matrices = [
            Matrix::rows(x, d_input),
            Matrix::rows(&self.weight, d_output),
        ];
        let bias = self.bias.as_deref().filter(|_| biased);
        // SAFETY: the matrices are whole, the rest by the promise.
        unsafe { product_steps(s, size, matrices, bias, steps, out) };
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
        let width = self.batch * self.heads * self.d_head;
        let entering = width + 2 * self.batch * self.kv_heads * self.d_head;
        // SAFETY: each is written before it is read.
        let mut buffers = [entering, width].map(|len| unsafe { Buffer::uninit(len) });
        let [entered, mixed] = buffers.each_mut().map(Buffer::shared);
        let mut entering = Parts::new(count, entering);
        let mut leaving = Parts::new(count, len);
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
            entered,
            entering: entering.shared(entered),
            mixed,
            parts: parts.shared(),
            leaving: leaving.shared(Shared::new(y.as_mut_ptr())),
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
    /// The queries `[batch, heads, d_head]`, then the keys `[batch, kv_heads, d_head]`, then the values.
    entered: Shared<R>,
    entering: SharedParts<R>,
    /// `[batch, heads, d_head]`, what attention gives.
    mixed: Shared<R>,
    parts: Shared<R>,
    /// Of y, `[batch, d_output]`.
    leaving: SharedParts<R>,
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
        let size = [width, problem.d_output];
        // SAFETY: a thread writes parts and heads of its own; what others wrote is read when all have met.
        unsafe {
            self.enter(s);
            member.wait();
            self.turn(s, member.share(problem.heads + 2 * problem.kv_heads));
            member.wait();
            self.attend(s);
            member.wait();
            let mixed = std::slice::from_raw_parts(pass.mixed.at(0), problem.batch * width);
            let (own, out) = (member.share(width), pass.leaving.of(member.index()));
            problem
                .output
                .steps(s, mixed, size, own, member.index() == 0, out);
            member.wait();
            let own = member.share(problem.batch * problem.d_output);
            pass.leaving.add_up(member.count(), own);
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// What a share of the input gives to the queries, keys and values.
    ///
    /// # Safety
    ///
    /// The thread's part must be its own.
    #[inline(always)]
    unsafe fn enter<S: Simd>(&self, s: S) {
        let (problem, member) = (self.pass.problem, self.member);
        // SAFETY: there are parts for all threads.
        let part = unsafe { self.pass.entering.of(member.index()) };
        let mut first = 0;
        for (map, heads) in [
            (&problem.query, problem.heads),
            (&problem.key, problem.kv_heads),
            (&problem.value, problem.kv_heads),
        ] {
            let width = heads * problem.d_head;
            let size = [problem.d_model, width];
            let (own, biased) = (member.share(problem.d_model), member.index() == 0);
            // SAFETY: by the promise; the outputs of the maps lie one after the other.
            unsafe {
                let out = Shared::new(part.at(first));
                map.steps(s, &problem.x, size, own, biased, out);
            }
            first += problem.batch * width;
        }
    }

    /// Finishes some heads, which are counted through queries, keys and values: adds up what the threads gave, turns it
    /// by its position and writes it to the cache.
    ///
    /// # Safety
    ///
    /// All threads must have entered, and the heads be this thread's own.
    #[inline(always)]
    unsafe fn turn<S: Simd>(&self, s: S, own: Range<usize>) {
        let pass = self.pass;
        let problem = pass.problem;
        let (heads, kv_heads, d_head) = (problem.heads, problem.kv_heads, problem.d_head);
        let mut before = 0;
        for (i, (count, cache)) in [
            (heads, None),
            (kv_heads, Some(pass.keys)),
            (kv_heads, Some(pass.values)),
        ]
        .into_iter()
        .enumerate()
        {
            let all = before..before + count;
            before = all.end;
            let (start, end) = (own.start.max(all.start), own.end.min(all.end));
            if start >= end {
                continue;
            }
            let width = count * d_head;
            let (column, len) = ((start - all.start) * d_head, (end - start) * d_head);
            for row in 0..problem.batch {
                let first = problem.batch * all.start * d_head + row * width + column;
                // SAFETY: this thread's own heads, which the cache has room for at the row's place.
                unsafe {
                    pass.entering
                        .add_up(self.member.count(), first..first + len);
                    let out = pass.entered.at(first);
                    if let Some(turn) = problem.options.turn.as_ref().filter(|_| i < 2) {
                        let vectors = std::slice::from_raw_parts_mut(out, len);
                        turn_heads(s, turn, problem.turns, turn.start(row), vectors, d_head);
                    }
                    if let Some(cache) = cache {
                        let at = row * problem.room + problem.options.places[row];
                        let into = cache.at(at * width + column);
                        into.copy_from_nonoverlapping(out, len);
                    }
                }
            }
        }
    }

    /// Attention of the queries to what the cache holds.
    ///
    /// # Safety
    ///
    /// All threads must have finished their heads.
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
            query: slice(pass.entered, problem.batch * heads * d_head),
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
