use seq_core::cpu::{Arch, Buffer, Matrix, Member, Real, Shared, Simd, Team, WithSimd, product};

use super::forward::Saved;
use super::plan::{Decays, Head, Problem, Span, Spans, add_scaled, dot, scaled};

/// The gradients that come in: of the outputs `[batch, time, heads, head_dim]` and of the last state
/// `[batch, heads, head_dim, d_state]`.
pub(crate) struct Incoming<'a, R> {
    pub y: Option<&'a [R]>,
    pub state: Option<&'a [R]>,
}

/// The gradients that go out, each of the shape of what it belongs to.
pub(crate) struct Gradients<R> {
    pub x: Vec<R>,
    pub log_decay: Vec<R>,
    pub dt: Vec<R>,
    pub b: Vec<R>,
    pub c: Vec<R>,
    pub d: Vec<R>,
    pub state: Vec<R>,
}

/// The gradients of a scan: span by span from the last one, what is inside a span made again.
pub(crate) fn backward<R: Real>(
    problem: &Problem<'_, R>,
    saved: &Saved<R>,
    incoming: &Incoming<'_, R>,
) -> Gradients<R> {
    let spans = &problem.spans();
    let steps = problem.batch * problem.time;
    let channels = problem.heads * problem.head_dim;
    let mut x = vec![R::ZERO; steps * channels];
    let mut log_decay = vec![R::ZERO; steps * problem.heads];
    let mut dt = vec![R::ZERO; steps * problem.heads];
    let mut state = match incoming.state {
        Some(state) => state.to_vec(),
        None => vec![R::ZERO; problem.batch * problem.heads * problem.states()],
    };
    let zeros = match incoming.y {
        Some(_) => Vec::new(),
        None => vec![R::ZERO; steps * channels],
    };
    let count = problem.threads();
    let projected = steps * problem.groups * problem.d_state;
    // The threads may share groups and heads: each has sums of its own, of B, C and D.
    let sizes = [projected, projected, channels];
    let mut sums = sizes.map(|size| Buffer::zeroed(count * size));
    let pass = Pass {
        problem,
        spans,
        saved,
        y: incoming.y.unwrap_or(&zeros),
        x: Shared::new(x.as_mut_ptr()),
        log_decay: Shared::new(log_decay.as_mut_ptr()),
        dt: Shared::new(dt.as_mut_ptr()),
        state: Shared::new(state.as_mut_ptr()),
        sums: sums.each_mut().map(Buffer::shared),
        sizes,
    };
    let arch = Arch::new();
    Team::run(count, |member| {
        arch.dispatch(Thread {
            pass: &pass,
            member,
        });
    });
    let total = |which: usize| {
        let mut parts = sums[which].as_slice().chunks(sizes[which].max(1));
        let mut total = parts.next().map(<[R]>::to_vec).unwrap_or_default();
        parts.for_each(|part| add_scaled(&mut total, R::ONE, part));
        total
    };
    Gradients {
        x,
        log_decay,
        dt,
        b: total(0),
        c: total(1),
        d: total(2),
        state,
    }
}

/// A backward run, as all threads see it.
struct Pass<'a, R> {
    problem: &'a Problem<'a, R>,
    spans: &'a Spans,
    saved: &'a Saved<R>,
    /// The gradient of the outputs.
    y: &'a [R],
    x: Shared<R>,
    log_decay: Shared<R>,
    dt: Shared<R>,
    /// First the gradients of the last states, at last those of the first.
    state: Shared<R>,
    /// Of B, C and D, one after the other for every thread.
    sums: [Shared<R>; 3],
    sizes: [usize; 3],
}

/// One thread of it, which owns some heads of some rows.
struct Thread<'a, 'm, R> {
    pass: &'a Pass<'a, R>,
    member: &'a Member<'m>,
}

/// Memory for one span. What is `[steps, steps]` has the stride of the decays.
struct Scratch<R> {
    decays: Decays<R>,
    /// C B^T of a group.
    scores: Buffer<R>,
    /// The gradient of it, of all heads of a group.
    d_scores: Buffer<R>,
    /// What each step's input does to each output.
    effect: Buffer<R>,
    /// The gradient of it, and then that of the sums of logarithms.
    d_effect: Buffer<R>,
    /// `[steps, head_dim]`, like the next two.
    d_x: Buffer<R>,
    left: Buffer<R>,
    read: Buffer<R>,
    /// Sums over the steps from one on, `[steps]` like the next two.
    later: Buffer<R>,
    d_log_decay: Buffer<R>,
    d_dt: Buffer<R>,
}

impl<R: Real> Scratch<R> {
    fn new(longest: usize, head_dim: usize, lanes: usize) -> Self {
        let decays = Decays::new(longest, lanes);
        let stride = decays.stride;
        let square = || Buffer::zeroed(longest * stride);
        let channels = || Buffer::zeroed(longest * head_dim);
        let vector = || Buffer::zeroed(stride);
        Self {
            decays,
            scores: square(),
            d_scores: square(),
            effect: square(),
            d_effect: square(),
            d_x: channels(),
            left: channels(),
            read: channels(),
            later: vector(),
            d_log_decay: vector(),
            d_dt: vector(),
        }
    }
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { pass, member } = self;
        let Pass { problem, spans, .. } = *pass;
        let d_state = problem.d_state;
        let lanes = R::lanes::<S>();
        let mut scratch = Scratch::new(spans.longest, problem.head_dim, lanes);
        let stride = scratch.decays.stride;
        for (row, own) in member.rows(problem.batch, problem.heads) {
            for span in spans.rows[row].iter().rev() {
                let (first, len) = (span.steps.start, span.steps.len());
                for (group, heads) in problem.by_group(own.clone()) {
                    let part = |of| problem.group(of, row, group, first);
                    let (b, c) = (part(problem.b), part(problem.c));
                    let scores = scratch.scores.as_mut_slice();
                    product(
                        [len, d_state, len],
                        c,
                        b.transposed(),
                        scores,
                        stride,
                        false,
                    );
                    scratch.d_scores.as_mut_slice().fill(R::ZERO);
                    let width = b.row_stride;
                    let at = (row * problem.time + first) * width + group * d_state;
                    let sums = |which: usize| {
                        let size = pass.sizes[which];
                        // SAFETY: every thread has its part of the sums.
                        unsafe {
                            let from = pass.sums[which].at(member.index() * size + at);
                            std::slice::from_raw_parts_mut(from, size - at)
                        }
                    };
                    let (d_b, d_c) = (sums(0), sums(1));
                    for head in heads {
                        let head = Head { row, head };
                        let sums = [&mut *d_b, &mut *d_c];
                        // SAFETY: the head of this row is this thread's own.
                        unsafe { self.span(s, head, group, span, sums, &mut scratch) };
                    }
                    let d_scores = Matrix::rows(scratch.d_scores.as_slice(), stride);
                    product([len, len, d_state], d_scores, b, d_c, width, true);
                    product(
                        [len, len, d_state],
                        d_scores.transposed(),
                        c,
                        d_b,
                        width,
                        true,
                    );
                }
            }
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// Goes back through one span of a head, and takes the gradient of its state from after it to before
    /// it. `d_b` and `d_c` are sums from the first step of the group on.
    #[inline(always)]
    unsafe fn span<S: Simd>(
        &self,
        s: S,
        head: Head,
        group: usize,
        span: &Span,
        [d_b, d_c]: [&mut [R]; 2],
        scratch: &mut Scratch<R>,
    ) {
        let pass = self.pass;
        let problem = pass.problem;
        let (head_dim, d_state, states) = (problem.head_dim, problem.d_state, problem.states());
        let (first, len) = (span.steps.start, span.steps.len());
        scratch.decays.fill(s, problem, head, span);
        let x = problem.channels(problem.x, head, first);
        let d_y = problem.channels(pass.y, head, first);
        let b = problem.group(problem.b, head.row, group, first);
        let c = problem.group(problem.c, head.row, group, first);
        // SAFETY: the state of this head is this thread's own.
        let d_state_after = unsafe {
            let at = (head.row * problem.heads + head.head) * states;
            std::slice::from_raw_parts_mut(pass.state.at(at), states)
        };

        scratch.inside(s, len, d_y, x, head_dim);
        let Scratch {
            decays,
            effect,
            d_x,
            left,
            read,
            later,
            d_log_decay,
            d_dt,
            ..
        } = scratch;
        let (stride, dt) = (decays.stride, decays.dt.as_slice());
        let until_end = decays.until_end.as_slice();
        let since_begin = decays.since_begin.as_slice();
        let [d_log_decay, d_dt] = [d_log_decay, d_dt].map(Buffer::as_mut_slice);
        let [d_x, left, read] = [d_x, left, read].map(Buffer::as_mut_slice);
        let effect = Matrix::rows(effect.as_slice(), stride).transposed();
        product([len, len, head_dim], effect, d_y, d_x, head_dim, false);

        // What the inputs leave after the last step.
        let after = Matrix::rows(&*d_state_after, d_state);
        product(
            [len, d_state, head_dim],
            b,
            after.transposed(),
            read,
            head_dim,
            false,
        );
        let mut earlier = R::ZERO;
        for (i, step) in span.steps.clone().enumerate() {
            let x = problem.channels_at(problem.x, head, step);
            let written = &read[i * head_dim..][..head_dim];
            let weight = until_end[i] * dt[i];
            let slope = dot(s, written, x);
            d_dt[i] += until_end[i] * slope;
            d_log_decay[i] += earlier;
            earlier += weight * slope;
            add_scaled(&mut d_x[i * head_dim..][..head_dim], weight, written);
            scaled(&mut left[i * head_dim..][..head_dim], weight, x);
        }
        let weighted = Matrix::rows(&*left, head_dim);
        product(
            [len, head_dim, d_state],
            weighted,
            after,
            d_b,
            b.row_stride,
            true,
        );

        // What the state before leaves in the outputs and in the state after.
        if let Some(place) = span.before {
            let at = (place * problem.heads + head.head) * states;
            let state = &pass.saved.as_slice()[at..at + states];
            let before = Matrix::rows(state, d_state);
            product(
                [len, d_state, head_dim],
                c,
                before.transposed(),
                read,
                head_dim,
                false,
            );
            let decay = since_begin[len - 1];
            let later = later.as_mut_slice();
            for (i, step) in span.steps.clone().enumerate() {
                let d_y = problem.channels_at(pass.y, head, step);
                later[i] = since_begin[i] * dot(s, d_y, &read[i * head_dim..][..head_dim]);
                scaled(&mut left[i * head_dim..][..head_dim], since_begin[i], d_y);
            }
            later[len - 1] += decay * dot(s, d_state_after, state);
            let mut sum = R::ZERO;
            for i in (0..len).rev() {
                sum += later[i];
                d_log_decay[i] += sum;
            }
            let weighted = Matrix::rows(&*left, head_dim);
            product(
                [len, head_dim, d_state],
                weighted,
                before,
                d_c,
                c.row_stride,
                true,
            );
            d_state_after.iter_mut().for_each(|d| *d *= decay);
            let weighted = weighted.transposed();
            product(
                [head_dim, len, d_state],
                weighted,
                c,
                d_state_after,
                d_state,
                true,
            );
        } else {
            d_state_after.fill(R::ZERO);
        }

        // SAFETY: every thread has its part of the sums of D, and the steps of this head.
        unsafe {
            let at = self.member.index() * pass.sizes[2] + head.head * head_dim;
            let d_d = std::slice::from_raw_parts_mut(pass.sums[2].at(at), head_dim);
            for (i, step) in span.steps.clone().enumerate() {
                let x = problem.channels_at(problem.x, head, step);
                let d_y = problem.channels_at(pass.y, head, step);
                let d_x = &mut d_x[i * head_dim..][..head_dim];
                if let Some(d) = problem.d {
                    let d = &d[head.head * head_dim..][..head_dim];
                    let sums = d_x.iter_mut().zip(d_d.iter_mut());
                    for (((d_x, d_d), (&x, &d_y)), &d) in sums.zip(x.iter().zip(d_y)).zip(d) {
                        *d_x += d * d_y;
                        *d_d += x * d_y;
                    }
                }
                let place = problem.place(head, step);
                let to = pass.x.at(place * head_dim);
                to.copy_from_nonoverlapping(d_x.as_ptr(), head_dim);
                pass.log_decay.at(place).write(d_log_decay[i]);
                pass.dt.at(place).write(d_dt[i]);
            }
        }
    }
}

impl<R: Real> Scratch<R> {
    /// What goes on inside a span: the effect of the inputs on the outputs, and the gradients of scores,
    /// step sizes and logarithms that come of it.
    #[inline(always)]
    fn inside<S: Simd>(
        &mut self,
        s: S,
        len: usize,
        d_y: Matrix<'_, R>,
        x: Matrix<'_, R>,
        head_dim: usize,
    ) {
        let (lanes, stride) = (R::lanes::<S>(), self.decays.stride);
        let d_effect = self.d_effect.as_mut_slice();
        product(
            [len, head_dim, len],
            d_y,
            x.transposed(),
            d_effect,
            stride,
            false,
        );
        let [later, d_log_decay, d_dt] =
            [&mut self.later, &mut self.d_log_decay, &mut self.d_dt].map(Buffer::as_mut_slice);
        later.fill(R::ZERO);
        d_dt.fill(R::ZERO);
        let dt = self.decays.dt.as_slice().as_ptr();
        let decays = self.decays.square.as_slice().as_ptr();
        let scores = self.scores.as_slice().as_ptr();
        let effect = self.effect.as_mut_slice().as_mut_ptr();
        let d_scores = self.d_scores.as_mut_slice().as_mut_ptr();
        let d_effect = d_effect.as_ptr();
        for i in (0..len).rev() {
            let mut passed = R::splat(s, R::ZERO);
            for j in (0..stride).step_by(lanes) {
                let at = i * stride + j;
                let count = (i + 1).saturating_sub(j).min(lanes);
                // SAFETY: registers inside the squares, of which there are `len` rows of whole ones, and
                // inside the vectors, which are as long as a row.
                unsafe {
                    if count == 0 {
                        R::store(s, effect.add(at), R::splat(s, R::ZERO));
                        continue;
                    }
                    // Above the diagonal scores may be anything; decays are zero there.
                    let score = R::load_first(s, scores.add(at), count);
                    let d_effect = R::load_first(s, d_effect.add(at), count);
                    let decay = R::load(s, decays.add(at));
                    let dt = R::load(s, dt.add(j));
                    let decayed = R::vmul(s, decay, score);
                    let all = R::vmul(s, decayed, dt);
                    R::store(s, effect.add(at), all);
                    let sum = R::load(s, d_dt.as_ptr().add(j));
                    let sum = R::mul_add(s, d_effect, decayed, sum);
                    R::store(s, d_dt.as_mut_ptr().add(j), sum);
                    let weight = R::vmul(s, decay, dt);
                    let sum = R::load(s, d_scores.add(at));
                    R::store(s, d_scores.add(at), R::mul_add(s, d_effect, weight, sum));
                    // The logarithm of step i is in the sums from every step before it to every one from
                    // it on.
                    let before = i.saturating_sub(j).min(lanes);
                    let sum = R::load(s, later.as_ptr().add(j));
                    let sum = R::mul_add(s, d_effect, all, sum);
                    R::store_first(s, later.as_mut_ptr().add(j), before, sum);
                    let sum = R::load_first(s, later.as_ptr().add(j), before);
                    passed = R::vadd(s, passed, sum);
                }
            }
            d_log_decay[i] = R::reduce_sum(s, passed);
        }
    }
}
