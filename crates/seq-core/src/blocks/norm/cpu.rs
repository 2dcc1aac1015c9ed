//! The norm on slices. A thread owns rows; what a row needs stays in the nearest cache.

use super::Options;
use crate::cpu::{Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, reserve, threads};

/// Below this many elements a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 15;

/// The most elements of a register.
const MAX_LANES: usize = 16;

/// A norm with the inputs that its gradient needs, too; all row-major.
pub(super) struct Problem<'a, R> {
    /// `[rows, width]`
    pub x: &'a [R],
    /// `[width]`
    pub gamma: &'a [R],
    pub options: Options,
}

impl<R: Real> Problem<'_, R> {
    fn rows(&self) -> usize {
        self.x.len() / self.gamma.len().max(1)
    }

    fn threads(&self) -> usize {
        match self.x.len() < WORTH_SHARING {
            true => 1,
            false => threads().min(self.rows()),
        }
    }

    /// The mean of a row, zero where it stays, and what the centred row is multiplied by.
    ///
    /// # Safety
    ///
    /// The row must be readable for the width.
    #[inline(always)]
    unsafe fn statistics<S: Simd>(&self, s: S, row: *const R) -> [R::V<S>; 2] {
        let (width, lanes) = (self.gamma.len(), R::lanes::<S>());
        let count = R::from_f64(width as f64);
        let ones = [R::ONE; MAX_LANES];
        // SAFETY: `sum` asks for elements inside the row, and a register has no more lanes than `ones`.
        unsafe {
            let mean = match self.options.centred {
                true => sum::<R, S>(s, width, |i, n| read::<R, S>(s, row.add(i), n)) / count,
                false => R::ZERO,
            };
            let mean = R::splat(s, mean);
            // The squares around the mean, in a second pass: their sum less that of the mean's square
            // would lose what is small beside the mean.
            let squares = sum::<R, S>(s, width, |i, n| {
                let mut x = R::vsub(s, read::<R, S>(s, row.add(i), n), mean);
                if n < lanes {
                    x = R::vmul(s, x, R::load_first(s, ones.as_ptr(), n));
                }
                R::vmul(s, x, x)
            });
            let scale = 1.0 / (squares.to_f64() / width as f64 + self.options.epsilon).sqrt();
            [mean, R::splat(s, R::from_f64(scale))]
        }
    }
}

/// Reads `n` elements, all lanes or fewer.
///
/// # Safety
///
/// They must be readable.
#[inline(always)]
unsafe fn read<R: Real, S: Simd>(s: S, p: *const R, n: usize) -> R::V<S> {
    // SAFETY: the caller's promise.
    unsafe {
        match n == R::lanes::<S>() {
            true => R::load(s, p),
            false => R::load_first(s, p, n),
        }
    }
}

/// Writes `n` elements, all lanes or fewer.
///
/// # Safety
///
/// They must be writable.
#[inline(always)]
unsafe fn write<R: Real, S: Simd>(s: S, p: *mut R, n: usize, v: R::V<S>) {
    // SAFETY: the caller's promise.
    unsafe {
        match n == R::lanes::<S>() {
            true => R::store(s, p, v),
            false => R::store_first(s, p, n, v),
        }
    }
}

/// The sum over `width` elements of `term`, which is asked for the first element and the number of
/// elements of a register, and gives zero in the lanes beyond.
#[inline(always)]
fn sum<R: Real, S: Simd>(s: S, width: usize, term: impl Fn(usize, usize) -> R::V<S>) -> R {
    let lanes = R::lanes::<S>();
    // A sum takes several cycles until the next can be added to it.
    let mut sums = [R::splat(s, R::ZERO); 4];
    let mut i = 0;
    while i + 4 * lanes <= width {
        for (part, sum) in sums.iter_mut().enumerate() {
            *sum = R::vadd(s, *sum, term(i + part * lanes, lanes));
        }
        i += 4 * lanes;
    }
    while i < width {
        sums[0] = R::vadd(s, sums[0], term(i, lanes.min(width - i)));
        i += lanes;
    }
    let [a, b, c, d] = sums;
    R::reduce_sum(s, R::vadd(s, R::vadd(s, a, b), R::vadd(s, c, d)))
}

/// The outputs, `[rows, width]`; `beta` is `[width]`.
pub(super) fn forward<R: Real>(problem: &Problem<'_, R>, beta: Option<&[R]>) -> Vec<R> {
    assert!(
        beta.is_none_or(|beta| beta.len() == problem.gamma.len()),
        "gamma and beta differ in width"
    );
    let len = problem.rows() * problem.gamma.len();
    let mut y = reserve(len);
    let out = Shared::new(y.as_mut_ptr());
    let arch = Arch::new();
    Team::run(problem.threads(), |member| {
        arch.dispatch(Forward {
            problem,
            beta,
            member,
            out,
        });
    });
    // SAFETY: the threads have written every row.
    unsafe { y.set_len(len) };
    y
}

/// The gradients of x, gamma and beta, given that of y.
pub(super) fn backward<R: Real>(problem: &Problem<'_, R>, dy: &[R]) -> [Vec<R>; 3] {
    let width = problem.gamma.len();
    let len = problem.rows() * width;
    assert_eq!(
        dy.len(),
        len,
        "the gradient has not the shape of the output"
    );
    let mut dx = reserve(len);
    let count = problem.threads().max(1);
    // The threads share gamma and beta: each has sums of its own.
    let mut sums = Buffer::zeroed(count * 2 * width);
    let pass = Backward {
        problem,
        dy,
        dx: Shared::new(dx.as_mut_ptr()),
        sums: sums.shared(),
    };
    let arch = Arch::new();
    Team::run(count, |member| {
        arch.dispatch(BackwardThread {
            pass: &pass,
            member,
        });
    });
    // SAFETY: the threads have written every row.
    unsafe { dx.set_len(len) };
    let [mut dgamma, mut dbeta] = [(); 2].map(|()| vec![R::ZERO; width]);
    for sums in sums.as_slice().chunks_exact((2 * width).max(1)) {
        let (gamma, beta) = sums.split_at(width);
        for (total, part) in [(&mut dgamma, gamma), (&mut dbeta, beta)] {
            let both = total.iter_mut().zip(part);
            both.for_each(|(total, &sum)| *total += sum);
        }
    }
    [dx, dgamma, dbeta]
}

struct Forward<'a, 'm, R> {
    problem: &'a Problem<'a, R>,
    beta: Option<&'a [R]>,
    member: &'a Member<'m>,
    out: Shared<R>,
}

impl<R: Real> WithSimd for Forward<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { problem, beta, .. } = self;
        let (width, lanes) = (problem.gamma.len(), R::lanes::<S>());
        for row in self.member.share(problem.rows()) {
            // SAFETY: inside the tensors, of whose outputs the row is this thread's own.
            unsafe {
                let x = problem.x.as_ptr().add(row * width);
                let out = self.out.at(row * width);
                let [mean, scale] = problem.statistics(s, x);
                for i in (0..width).step_by(lanes) {
                    let n = lanes.min(width - i);
                    let x = R::vsub(s, read::<R, S>(s, x.add(i), n), mean);
                    let x = R::vmul(s, x, scale);
                    let gamma = read::<R, S>(s, problem.gamma.as_ptr().add(i), n);
                    let y = match beta {
                        Some(beta) => {
                            R::mul_add(s, x, gamma, read::<R, S>(s, beta.as_ptr().add(i), n))
                        }
                        None => R::vmul(s, x, gamma),
                    };
                    write::<R, S>(s, out.add(i), n, y);
                }
            }
        }
    }
}

/// A backward run, as all threads see it.
struct Backward<'a, R> {
    problem: &'a Problem<'a, R>,
    dy: &'a [R],
    dx: Shared<R>,
    /// `[threads, 2, width]`: the gradients of gamma and of beta.
    sums: Shared<R>,
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
        let (width, lanes) = (problem.gamma.len(), R::lanes::<S>());
        let count = R::from_f64(width as f64);
        for row in member.share(problem.rows()) {
            // SAFETY: inside the tensors, of whose gradients the row is this thread's own, and inside its
            // sums.
            unsafe {
                let x = problem.x.as_ptr().add(row * width);
                let dy = pass.dy.as_ptr().add(row * width);
                let dx = pass.dx.at(row * width);
                let dgamma = pass.sums.at(member.index() * 2 * width);
                let dbeta = dgamma.add(width);
                let [mean, scale] = problem.statistics(s, x);
                // The normalised features, and the gradient of those.
                let part = |i: usize, n: usize| {
                    let x = R::vsub(s, read::<R, S>(s, x.add(i), n), mean);
                    let gamma = read::<R, S>(s, problem.gamma.as_ptr().add(i), n);
                    (
                        R::vmul(s, x, scale),
                        R::vmul(s, read::<R, S>(s, dy.add(i), n), gamma),
                    )
                };
                // What the scale and the mean take off the gradient.
                let along = sum::<R, S>(s, width, |i, n| {
                    let (x, d) = part(i, n);
                    R::vmul(s, x, d)
                });
                let along = R::splat(s, along / count);
                let shift = match problem.options.centred {
                    true => sum::<R, S>(s, width, |i, n| part(i, n).1) / count,
                    false => R::ZERO,
                };
                let shift = R::splat(s, shift);
                for i in (0..width).step_by(lanes) {
                    let n = lanes.min(width - i);
                    let (x, d) = part(i, n);
                    let d = R::vsub(s, R::neg_mul_add(s, x, along, d), shift);
                    write::<R, S>(s, dx.add(i), n, R::vmul(s, d, scale));
                    let dy = read::<R, S>(s, dy.add(i), n);
                    let sum = R::mul_add(s, dy, x, read::<R, S>(s, dgamma.add(i), n));
                    write::<R, S>(s, dgamma.add(i), n, sum);
                    let sum = R::vadd(s, dy, read::<R, S>(s, dbeta.add(i), n));
                    write::<R, S>(s, dbeta.add(i), n, sum);
                }
            }
        }
    }
}
