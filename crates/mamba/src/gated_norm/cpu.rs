//! The norm with a gate on slices. A thread owns steps; what a step needs stays in the nearest cache.

use std::ops::Range;

use seq_core::cpu::{Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, threads};

use super::Options;

/// Below this many elements a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 13;

/// A norm with its inputs, all row-major.
pub(super) struct Problem<'a, R> {
    /// `[steps, width]`
    pub y: &'a [R],
    /// `[steps, width]`
    pub z: &'a [R],
    /// `[width]`
    pub weight: &'a [R],
    pub options: Options,
}

impl<R: Real> Problem<'_, R> {
    fn steps(&self) -> usize {
        self.y.len() / self.weight.len().max(1)
    }

    fn threads(&self) -> usize {
        match self.y.len() < WORTH_SHARING {
            true => 1,
            false => threads(),
        }
    }

    /// The elements of each group of each of some steps, and the group's channels.
    fn parts(&self, steps: Range<usize>) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let width = self.weight.len();
        let groups = self.options.groups;
        let group = width / groups;
        steps.flat_map(move |step| {
            (0..groups).map(move |i| {
                let channels = i * group..(i + 1) * group;
                let first = step * width;
                (first + channels.start..first + channels.end, channels)
            })
        })
    }
}

/// The outputs, `[steps, width]`.
pub(super) fn forward<R: Real>(problem: &Problem<'_, R>) -> Vec<R> {
    let mut out = vec![R::ZERO; problem.y.len()];
    let shared = Shared::new(out.as_mut_ptr());
    let arch = Arch::new();
    Team::run(problem.threads(), |member| {
        arch.dispatch(Forward {
            problem,
            member,
            out: shared,
        });
    });
    out
}

/// The gradients of y, z and the weight, given that of the outputs.
pub(super) fn backward<R: Real>(problem: &Problem<'_, R>, output: &[R]) -> [Vec<R>; 3] {
    let (elements, width) = (problem.y.len(), problem.weight.len());
    let [mut d_y, mut d_z] = [(); 2].map(|()| vec![R::ZERO; elements]);
    let count = problem.threads();
    // The threads share the weight: each has sums of its own.
    let mut sums = Buffer::zeroed(count * width);
    let pass = Backward {
        problem,
        output,
        d_y: Shared::new(d_y.as_mut_ptr()),
        d_z: Shared::new(d_z.as_mut_ptr()),
        d_weight: sums.shared(),
    };
    let arch = Arch::new();
    Team::run(count, |member| {
        arch.dispatch(BackwardThread {
            pass: &pass,
            member,
        });
    });
    let mut d_weight = vec![R::ZERO; width];
    for sums in sums.as_slice().chunks(width.max(1)) {
        let both = d_weight.iter_mut().zip(sums);
        both.for_each(|(total, &sum)| *total += sum);
    }
    [d_y, d_z, d_weight]
}

struct Forward<'a, 'm, R> {
    problem: &'a Problem<'a, R>,
    member: &'a Member<'m>,
    out: Shared<R>,
}

impl<R: Real> WithSimd for Forward<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let problem = self.problem;
        let gate_last = problem.options.gate_last;
        let lanes = R::lanes::<S>();
        for (at, channels) in problem.parts(self.member.share(problem.steps())) {
            let mut squares = R::splat(s, R::ZERO);
            // SAFETY: inside the inputs and the outputs, of which the steps are this thread's own.
            unsafe {
                let out = self.out.at(at.start);
                let load = |values: &[R], i: usize, count: usize| {
                    R::load_first(s, values.as_ptr().add(at.start + i), count)
                };
                for i in (0..at.len()).step_by(lanes) {
                    let count = lanes.min(at.len() - i);
                    let mut y = load(problem.y, i, count);
                    if !gate_last {
                        y = R::vmul(s, y, R::silu(s, load(problem.z, i, count)));
                    }
                    squares = R::mul_add(s, y, y, squares);
                    R::store_first(s, out.add(i), count, y);
                }
                let scale = R::splat(
                    s,
                    scale(R::reduce_sum(s, squares), problem.options, at.len()),
                );
                for i in (0..at.len()).step_by(lanes) {
                    let count = lanes.min(at.len() - i);
                    let weight = problem.weight.as_ptr().add(channels.start + i);
                    let weight = R::load_first(s, weight, count);
                    let mut y = R::vmul(s, R::load_first(s, out.add(i), count), scale);
                    y = R::vmul(s, y, weight);
                    if gate_last {
                        y = R::vmul(s, y, R::silu(s, load(problem.z, i, count)));
                    }
                    R::store_first(s, out.add(i), count, y);
                }
            }
        }
    }
}

/// What the norm multiplies by.
#[inline(always)]
fn scale<R: Real>(squares: R, options: Options, width: usize) -> R {
    R::from_f64(1.0 / (squares.to_f64() / width as f64 + options.eps).sqrt())
}

/// A backward run, as all threads see it.
struct Backward<'a, R> {
    problem: &'a Problem<'a, R>,
    output: &'a [R],
    d_y: Shared<R>,
    d_z: Shared<R>,
    /// One after the other for every thread.
    d_weight: Shared<R>,
}

struct BackwardThread<'a, 'm, R> {
    pass: &'a Backward<'a, R>,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for BackwardThread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { pass, member } = self;
        let problem = pass.problem;
        let gate_last = problem.options.gate_last;
        let (zero, one) = (R::splat(s, R::ZERO), R::splat(s, R::ONE));
        let lanes = R::lanes::<S>();
        for (at, channels) in problem.parts(member.share(problem.steps())) {
            let mut squares = zero;
            // The sum of what is normalised times the gradient of the norm.
            let mut along = zero;
            // SAFETY: inside the tensors, of whose gradients the steps are this thread's own, and inside
            // its sums.
            unsafe {
                let sums = pass
                    .d_weight
                    .at(member.index() * problem.weight.len() + channels.start);
                let load = |values: &[R], i: usize, count: usize| {
                    R::load_first(s, values.as_ptr().add(at.start + i), count)
                };
                // Of some channels: what is normalised, the gradient of the norm but for the scale, z, its
                // sigmoid, and the gradient of the outputs.
                let part = |i: usize, count: usize| {
                    let (y, z) = (load(problem.y, i, count), load(problem.z, i, count));
                    let output = load(pass.output, i, count);
                    let sigmoid = R::sigmoid(s, z);
                    let gate = R::vmul(s, z, sigmoid);
                    let weight = problem.weight.as_ptr().add(channels.start + i);
                    let weighted = R::vmul(s, output, R::load_first(s, weight, count));
                    match gate_last {
                        true => (y, R::vmul(s, weighted, gate), [z, sigmoid, weighted]),
                        false => (R::vmul(s, y, gate), weighted, [z, sigmoid, y]),
                    }
                };
                for i in (0..at.len()).step_by(lanes) {
                    let (y, d_norm, _) = part(i, lanes.min(at.len() - i));
                    squares = R::mul_add(s, y, y, squares);
                    along = R::mul_add(s, y, d_norm, along);
                }
                let scale = scale(R::reduce_sum(s, squares), problem.options, at.len());
                let along = R::reduce_sum(s, along) * scale * scale;
                let along = R::splat(s, along / R::from_f64(at.len() as f64));
                let scale = R::splat(s, scale);
                for i in (0..at.len()).step_by(lanes) {
                    let count = lanes.min(at.len() - i);
                    let (y, d_norm, [z, sigmoid, other]) = part(i, count);
                    let gate = R::vmul(s, z, sigmoid);
                    // silu' = sigmoid + silu (1 - sigmoid)
                    let slope = R::mul_add(s, gate, R::vsub(s, one, sigmoid), sigmoid);
                    let normed = R::vmul(s, y, scale);
                    let d_y = R::neg_mul_add(s, y, along, d_norm);
                    let d_y = R::vmul(s, d_y, scale);
                    let output = load(pass.output, i, count);
                    let (d_y, d_gate, d_weight) = match gate_last {
                        true => (
                            d_y,
                            R::vmul(s, other, normed),
                            R::vmul(s, R::vmul(s, output, gate), normed),
                        ),
                        false => (
                            R::vmul(s, d_y, gate),
                            R::vmul(s, d_y, other),
                            R::vmul(s, output, normed),
                        ),
                    };
                    R::store_first(s, pass.d_y.at(at.start + i), count, d_y);
                    let d_z = R::vmul(s, d_gate, slope);
                    R::store_first(s, pass.d_z.at(at.start + i), count, d_z);
                    let sum = R::load_first(s, sums.add(i), count);
                    R::store_first(s, sums.add(i), count, R::vadd(s, sum, d_weight));
                }
            }
        }
    }
}
