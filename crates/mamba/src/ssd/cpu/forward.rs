use std::ops::Range;
use std::sync::Arc;

use seq_core::cpu::{
    Arch, Buffer, Matrix, Member, Real, Shared, Simd, Team, WithSimd, product, reserve,
};

use super::plan::{Decays, Head, Problem, Span, Spans, scaled};

/// What a scan gives.
pub(crate) struct Outputs<R> {
    /// `[batch, time, heads, head_dim]`
    pub y: Vec<R>,
    /// `[batch, heads, head_dim, d_state]`
    pub state: Vec<R>,
    /// What the backward pass needs, if it was asked for.
    pub saved: Option<Saved<R>>,
}

/// The states before the spans that have one, `[carried, heads, head_dim, d_state]`.
pub(crate) type Saved<R> = Arc<Buffer<R>>;

/// Runs a scan; with `keep`, keeps what the backward pass needs.
pub(crate) fn forward<R: Real>(problem: &Problem<'_, R>, keep: bool) -> Outputs<R> {
    let spans = &problem.spans();
    let states = problem.heads * problem.states();
    let elements = problem.batch * problem.time * problem.heads * problem.head_dim;
    // SAFETY: the threads write the state before every span that has one, and no others are read.
    let mut saved = unsafe { Buffer::uninit(if keep { spans.carried * states } else { 0 }) };
    let mut y = reserve(elements);
    let mut state = match problem.state {
        Some(state) => state.to_vec(),
        None => vec![R::ZERO; problem.batch * states],
    };
    let pass = Pass {
        problem,
        spans,
        keep,
        saved: saved.shared(),
        y: Shared::new(y.as_mut_ptr()),
        state: Shared::new(state.as_mut_ptr()),
    };
    let arch = Arch::new();
    Team::run(problem.threads(), |member| {
        arch.dispatch(Thread {
            pass: &pass,
            member,
        });
    });
    // SAFETY: the threads have written every step of every head.
    unsafe { y.set_len(elements) };
    Outputs {
        y,
        state,
        saved: keep.then(|| Arc::new(saved)),
    }
}

/// A run, as all threads see it.
struct Pass<'a, R> {
    problem: &'a Problem<'a, R>,
    spans: &'a Spans,
    keep: bool,
    saved: Shared<R>,
    y: Shared<R>,
    /// First the states before the spans, at last those after all.
    state: Shared<R>,
}

/// One thread of it, which owns some heads of some rows.
struct Thread<'a, 'm, R> {
    pass: &'a Pass<'a, R>,
    member: &'a Member<'m>,
}

/// Memory for one span.
struct Scratch<R> {
    decays: Decays<R>,
    /// C B^T of a group, with the stride of the decays.
    scores: Buffer<R>,
    /// `[steps, head_dim]`
    y: Buffer<R>,
    /// What the input leaves after the last step, `[steps, head_dim]`.
    left: Buffer<R>,
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { pass, member } = self;
        let Pass { problem, spans, .. } = *pass;
        let decays = Decays::new(spans.longest, R::lanes::<S>());
        let steps = spans.longest;
        let mut scratch = Scratch {
            scores: Buffer::zeroed(steps * decays.stride),
            decays,
            y: Buffer::zeroed(steps * problem.head_dim),
            left: Buffer::zeroed(steps * problem.head_dim),
        };
        for (row, own) in member.rows(problem.batch, problem.heads) {
            for span in &spans.rows[row] {
                for (group, heads) in problem.by_group(own.clone()) {
                    let len = span.steps.len();
                    let part = |of| problem.group(of, row, group, span.steps.start);
                    product(
                        [len, problem.d_state, len],
                        part(problem.c),
                        part(problem.b).transposed(),
                        scratch.scores.as_mut_slice(),
                        scratch.decays.stride,
                        false,
                    );
                    for head in heads {
                        // SAFETY: the head of this row is this thread's own.
                        unsafe { self.span(s, Head { row, head }, group, span, &mut scratch) };
                    }
                }
            }
            // SAFETY: as above.
            unsafe { self.pad(row, own) };
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// Fills the padding of some heads of a row with zeros.
    unsafe fn pad(&self, row: usize, own: Range<usize>) {
        let problem = self.pass.problem;
        let count = own.len() * problem.head_dim;
        for step in problem.length(row)..problem.time {
            let head = own.start;
            let at = problem.place(Head { row, head }, step) * problem.head_dim;
            for i in at..at + count {
                // SAFETY: inside the outputs, and the heads are this thread's own.
                unsafe { self.pass.y.at(i).write(R::ZERO) };
            }
        }
    }

    /// Does one span of a head, and takes its state from before it to after it.
    #[inline(always)]
    unsafe fn span<S: Simd>(
        &self,
        s: S,
        head: Head,
        group: usize,
        span: &Span,
        scratch: &mut Scratch<R>,
    ) {
        let pass = self.pass;
        let problem = pass.problem;
        let (head_dim, d_state, states) = (problem.head_dim, problem.d_state, problem.states());
        let (first, len) = (span.steps.start, span.steps.len());
        scratch.decays.fill(s, problem, head, span);
        let Decays {
            stride,
            square,
            since_begin,
            until_end,
            dt,
            ..
        } = &mut scratch.decays;
        let (stride, dt) = (*stride, dt.as_slice());
        let scores = scratch.scores.as_slice();
        let rows = square.as_mut_slice().chunks_mut(stride).take(len);
        for (i, (row, scores)) in rows.zip(scores.chunks(stride)).enumerate() {
            let own = row.iter_mut().zip(scores).zip(dt).take(i + 1);
            own.for_each(|((decay, &score), &dt)| *decay *= score * dt);
        }
        // SAFETY: the state of this head is this thread's own.
        let state = unsafe {
            let at = (head.row * problem.heads + head.head) * states;
            std::slice::from_raw_parts_mut(pass.state.at(at), states)
        };
        let x = problem.channels(problem.x, head, first);
        let y = scratch.y.as_mut_slice();
        if let Some(place) = span.before {
            if pass.keep {
                // SAFETY: inside the kept states, at this thread's own head.
                unsafe {
                    let to = pass.saved.at((place * problem.heads + head.head) * states);
                    to.copy_from_nonoverlapping(state.as_ptr(), states);
                }
            }
            let read = problem.group(problem.c, head.row, group, first);
            let before = Matrix::rows(&*state, d_state).transposed();
            product([len, d_state, head_dim], read, before, y, head_dim, false);
            for (y, &decay) in y.chunks_mut(head_dim).zip(since_begin.as_slice()).take(len) {
                y.iter_mut().for_each(|y| *y *= decay);
            }
        }
        let inside = Matrix::rows(square.as_slice(), stride);
        let add = span.before.is_some();
        product([len, len, head_dim], inside, x, y, head_dim, add);

        let left = scratch.left.as_mut_slice();
        for (i, step) in span.steps.clone().enumerate() {
            let x = problem.channels_at(problem.x, head, step);
            let factor = until_end.as_slice()[i] * dt[i];
            scaled(&mut left[i * head_dim..][..head_dim], factor, x);
            let y = &mut y[i * head_dim..][..head_dim];
            if let Some(d) = problem.d {
                let d = &d[head.head * head_dim..][..head_dim];
                let channels = y.iter_mut().zip(x).zip(d);
                channels.for_each(|((y, &x), &d)| *y += d * x);
            }
            // SAFETY: the step's channels of this head, which is this thread's own.
            unsafe {
                let to = pass.y.at(problem.place(head, step) * head_dim);
                to.copy_from_nonoverlapping(y.as_ptr(), head_dim);
            }
        }
        if span.before.is_some() {
            let decay = since_begin.as_slice()[len - 1];
            state.iter_mut().for_each(|state| *state *= decay);
        }
        let left = Matrix::rows(scratch.left.as_slice(), head_dim).transposed();
        let write = problem.group(problem.b, head.row, group, first);
        product([head_dim, len, d_state], left, write, state, d_state, add);
    }
}
