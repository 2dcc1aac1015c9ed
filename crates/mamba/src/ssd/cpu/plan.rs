use std::ops::Range;

use seq_core::cpu::{Buffer, Matrix, Real, Simd, threads};

/// Below this many states and steps a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 14;

/// A scan with its inputs, all row-major.
pub(crate) struct Problem<'a, R> {
    pub batch: usize,
    pub time: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub groups: usize,
    pub d_state: usize,
    /// `[batch, time, heads, head_dim]`
    pub x: &'a [R],
    /// `[batch, time, heads]`
    pub log_decay: &'a [R],
    /// `[batch, time, n_groups, d_state]`
    pub b: &'a [R],
    /// `[batch, time, n_groups, d_state]`
    pub c: &'a [R],
    /// `[batch, time, heads]`
    pub dt: Option<&'a [R]>,
    /// `[heads, head_dim]`
    pub d: Option<&'a [R]>,
    /// `[batch, heads, head_dim, d_state]`
    pub state: Option<&'a [R]>,
    pub lengths: Option<&'a [usize]>,
    pub resets: Option<&'a [Vec<bool>]>,
    pub chunk_size: usize,
}

/// Steps of one row that are done together.
#[derive(Debug, Clone)]
pub(super) struct Span {
    pub steps: Range<usize>,
    /// Where the state before them is among those that are kept; none where it is zero.
    pub before: Option<usize>,
}

/// The spans of all rows.
pub(super) struct Spans {
    /// In order, for every row.
    pub rows: Vec<Vec<Span>>,
    /// How many have a state before them.
    pub carried: usize,
    /// The most steps that one has.
    pub longest: usize,
}

/// A head of a row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub row: usize,
    pub head: usize,
}

impl<'a, R: Real> Problem<'a, R> {
    pub fn length(&self, row: usize) -> usize {
        self.lengths.map_or(self.time, |lengths| lengths[row])
    }

    /// Cuts the rows where a new sequence begins, and what is longer than a chunk.
    pub(super) fn spans(&self) -> Spans {
        let mut spans = Spans {
            rows: Vec::with_capacity(self.batch),
            carried: 0,
            longest: 0,
        };
        for row in 0..self.batch {
            let length = self.length(row);
            let resets = |step: usize| self.resets.is_some_and(|resets| resets[row][step]);
            let mut all = Vec::new();
            let mut first = 0;
            while first < length {
                let limit = length.min(first.saturating_add(self.chunk_size));
                let end = (first + 1..limit)
                    .find(|&step| resets(step))
                    .unwrap_or(limit);
                let zero = resets(first) || first == 0 && self.state.is_none();
                all.push(Span {
                    steps: first..end,
                    before: (!zero).then_some(spans.carried),
                });
                spans.carried += usize::from(!zero);
                spans.longest = spans.longest.max(end - first);
                first = end;
            }
            spans.rows.push(all);
        }
        spans
    }

    /// How many threads it is worth.
    pub fn threads(&self) -> usize {
        let states = self.heads * self.head_dim * self.d_state;
        match self.batch * self.time * states < WORTH_SHARING {
            true => 1,
            false => threads(),
        }
    }

    /// How many elements a head's state has.
    pub fn states(&self) -> usize {
        self.head_dim * self.d_state
    }

    /// The heads in `own`, group by group.
    pub fn by_group(&self, own: Range<usize>) -> impl Iterator<Item = (usize, Range<usize>)> {
        let width = self.heads / self.groups;
        let groups = own.start / width..own.end.div_ceil(width);
        groups.map(move |group| {
            let first = own.start.max(group * width);
            (group, first..own.end.min((group + 1) * width))
        })
    }

    /// The place of a head's values of a step, in units of what each head has.
    pub(super) fn place(&self, Head { row, head }: Head, step: usize) -> usize {
        (row * self.time + step) * self.heads + head
    }

    /// B or C of a group, from `step` on: a matrix of a step a row.
    pub fn group<'s>(&self, of: &'s [R], row: usize, group: usize, step: usize) -> Matrix<'s, R> {
        let at = ((row * self.time + step) * self.groups + group) * self.d_state;
        Matrix::rows(&of[at..], self.groups * self.d_state)
    }

    /// x or a tensor of its shape of a head, from `step` on: a matrix of a step a row.
    pub(super) fn channels<'s>(&self, of: &'s [R], head: Head, step: usize) -> Matrix<'s, R> {
        let at = self.place(head, step) * self.head_dim;
        Matrix::rows(&of[at..], self.heads * self.head_dim)
    }

    /// The channels of a head at `step`, of a tensor of the shape of x.
    pub(super) fn channels_at<'s>(&self, of: &'s [R], head: Head, step: usize) -> &'s [R] {
        &of[self.place(head, step) * self.head_dim..][..self.head_dim]
    }
}

/// What is left of one step at another, of one head and span.
pub(super) struct Decays<R> {
    /// Elements from one row of a square to the next: whole registers.
    pub stride: usize,
    /// `[i, j]`: of step j after step i; zero above the diagonal.
    pub square: Buffer<R>,
    /// Of the state before at each step.
    pub since_begin: Buffer<R>,
    /// Of each step after the last.
    pub until_end: Buffer<R>,
    /// The step sizes, or ones.
    pub dt: Buffer<R>,
    /// Sums of logarithms from each step on.
    sums: Buffer<R>,
}

impl<R: Real> Decays<R> {
    /// Room for spans of up to `longest` steps, for registers of `lanes`.
    pub fn new(longest: usize, lanes: usize) -> Self {
        let stride = longest.next_multiple_of(lanes);
        let vector = || Buffer::zeroed(stride);
        Self {
            stride,
            square: Buffer::zeroed(longest * stride),
            since_begin: vector(),
            until_end: vector(),
            dt: vector(),
            sums: vector(),
        }
    }

    /// Fills it for a head and a span.
    #[inline(always)]
    pub fn fill<S: Simd>(&mut self, s: S, problem: &Problem<'_, R>, head: Head, span: &Span) {
        let (lanes, stride) = (R::lanes::<S>(), self.stride);
        let len = span.steps.len();
        let square = self.square.as_mut_slice();
        let [since_begin, until_end, dt, sums] = [
            &mut self.since_begin,
            &mut self.until_end,
            &mut self.dt,
            &mut self.sums,
        ]
        .map(Buffer::as_mut_slice);
        sums.fill(R::ZERO);
        dt.fill(R::ZERO);
        let mut begun = R::ZERO;
        for i in 0..len {
            let at = problem.place(head, span.steps.start + i);
            let log_decay = problem.log_decay[at];
            dt[i] = problem.dt.map_or(R::ONE, |dt| dt[at]);
            begun += log_decay;
            since_begin[i] = begun;
            // The sum from each step on, never a difference of two sums: that would lose all digits.
            sums[..i].iter_mut().for_each(|sum| *sum += log_decay);
            let row = &mut square[i * stride..][..stride];
            for j in (0..stride).step_by(lanes) {
                let count = (i + 1).saturating_sub(j).min(lanes);
                // SAFETY: a register inside the row, and the sums are as long.
                unsafe {
                    let decays = match count {
                        0 => R::splat(s, R::ZERO),
                        _ => R::exp(s, R::load(s, sums.as_ptr().add(j))),
                    };
                    R::store(s, row.as_mut_ptr().add(j), R::splat(s, R::ZERO));
                    R::store_first(s, row.as_mut_ptr().add(j), count, decays);
                }
            }
        }
        for j in (0..stride).step_by(lanes) {
            // SAFETY: registers inside the vectors.
            unsafe {
                let begun = R::exp(s, R::load(s, since_begin.as_ptr().add(j)));
                R::store(s, since_begin.as_mut_ptr().add(j), begun);
                let left = R::exp(s, R::load(s, sums.as_ptr().add(j)));
                R::store(s, until_end.as_mut_ptr().add(j), left);
            }
        }
    }
}

/// The sum of products.
#[inline(always)]
pub(super) fn dot<R: Real, S: Simd>(s: S, a: &[R], b: &[R]) -> R {
    let lanes = R::lanes::<S>();
    let mut sums = [R::splat(s, R::ZERO); 4];
    for (i, (a, b)) in a.chunks(lanes).zip(b.chunks(lanes)).enumerate() {
        // SAFETY: the elements of both chunks.
        let [a, b] = unsafe {
            [
                R::load_first(s, a.as_ptr(), a.len()),
                R::load_first(s, b.as_ptr(), b.len()),
            ]
        };
        sums[i % 4] = R::mul_add(s, a, b, sums[i % 4]);
    }
    let [first, second, third, fourth] = sums;
    let sum = R::vadd(s, R::vadd(s, first, second), R::vadd(s, third, fourth));
    R::reduce_sum(s, sum)
}

/// `out += factor * x`
#[inline(always)]
pub(super) fn add_scaled<R: Real>(out: &mut [R], factor: R, x: &[R]) {
    out.iter_mut()
        .zip(x)
        .for_each(|(out, &x)| *out += factor * x);
}

/// `out = factor * x`
#[inline(always)]
pub(super) fn scaled<R: Real>(out: &mut [R], factor: R, x: &[R]) {
    out.iter_mut()
        .zip(x)
        .for_each(|(out, &x)| *out = factor * x);
}
