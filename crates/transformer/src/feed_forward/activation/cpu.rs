//! The activations on slices, of which the threads share the elements.

use seq_core::cpu::{Arch, Member, Real, Shared, Simd, Team, WithSimd, reserve, threads};

use super::{Activation, CUBIC, SQRT_2_OVER_PI};

/// Below this many elements a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 13;

/// Beyond it `GeluTanh` is 0 or x to the last bit, while x³ may not be a number.
const GELU_TANH_MAX: f64 = 23.0;

/// Beyond it `Silu` is 0 or x to the last bit, in `f64`, too.
const SILU_MAX: f64 = 800.0;

fn threads_for(elements: usize) -> usize {
    match elements < WORTH_SHARING {
        true => 1,
        false => threads(),
    }
}

/// `act(x)`, times `up` if it is there.
pub(super) fn forward<R: Real>(x: &[R], up: Option<&[R]>, activation: Activation) -> Vec<R> {
    let mut out = reserve(x.len());
    // SAFETY: room for as many elements as there are, and a vector overlaps nothing.
    unsafe { run(x.as_ptr(), x.len(), up, out.as_mut_ptr(), activation) };
    // SAFETY: every element is written.
    unsafe { out.set_len(x.len()) };
    out
}

/// The same, in the place of x.
pub(super) fn forward_in_place<R: Real>(x: &mut [R], up: Option<&[R]>, activation: Activation) {
    let out = x.as_mut_ptr();
    // SAFETY: the elements are there and borrowed for writing.
    unsafe { run(out, x.len(), up, out, activation) };
}

/// # Safety
///
/// `x` must be readable and `out` writable for `len` elements; they may be the same, or else may not overlap.
unsafe fn run<R: Real>(
    x: *const R,
    len: usize,
    up: Option<&[R]>,
    out: *mut R,
    activation: Activation,
) {
    if let Some(up) = up {
        assert_eq!(
            up.len(),
            len,
            "the elements of the gate and of what it multiplies"
        );
    }
    // A pointer that is only read, in the type that threads may share.
    let (x, out) = (Shared::new(x.cast_mut()), Shared::new(out));
    let arch = Arch::new();
    Team::run(threads_for(len), |member| {
        arch.dispatch(Forward {
            x,
            up,
            out,
            len,
            activation,
            member,
        });
    });
}

/// The gradients of x and, if it is there, of `up`, given that of the output.
pub(super) fn backward<R: Real>(
    x: &[R],
    up: Option<&[R]>,
    output: &[R],
    activation: Activation,
) -> (Vec<R>, Option<Vec<R>>) {
    let len = x.len();
    assert_eq!(output.len(), len, "the elements of x and of its gradient");
    let mut d_x = reserve(len);
    let mut d_up = up.map(|up| {
        assert_eq!(
            up.len(),
            len,
            "the elements of the gate and of what it multiplies"
        );
        reserve(len)
    });
    let pass = Backward {
        x,
        up,
        output,
        activation,
        d_x: Shared::new(d_x.as_mut_ptr()),
        d_up: d_up
            .as_mut()
            .map(|d_up: &mut Vec<R>| Shared::new(d_up.as_mut_ptr())),
    };
    let arch = Arch::new();
    Team::run(threads_for(len), |member| {
        arch.dispatch(BackwardThread {
            pass: &pass,
            member,
        });
    });
    // SAFETY: the threads have written every element.
    unsafe {
        d_x.set_len(len);
        if let Some(d_up) = &mut d_up {
            d_up.set_len(len);
        }
    }
    (d_x, d_up)
}

struct Forward<'a, 'm, R> {
    x: Shared<R>,
    up: Option<&'a [R]>,
    out: Shared<R>,
    len: usize,
    activation: Activation,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for Forward<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        // The function is chosen once, outside of the loop.
        match self.activation {
            Activation::Relu => self.apply(s, |x| R::max(s, R::splat(s, R::ZERO), x)),
            Activation::Gelu => self.apply(s, |x| R::gelu(s, x)),
            Activation::GeluTanh => self.apply(s, |x| gelu_tanh::<R, S>(s, x)),
            Activation::Silu => self.apply(s, |x| R::silu(s, x)),
        }
    }
}

impl<R: Real> Forward<'_, '_, R> {
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, function: impl Fn(R::V<S>) -> R::V<S>) {
        let share = self.member.share(self.len);
        let lanes = R::lanes::<S>();
        for i in share.clone().step_by(lanes) {
            let count = lanes.min(share.end - i);
            // SAFETY: inside the tensors, of which the share is this thread's own; it is read before it is
            // written.
            unsafe {
                let y = function(load(s, self.x.at(i), count));
                let y = match self.up {
                    Some(up) => R::vmul(s, y, load(s, up.as_ptr().add(i), count)),
                    None => y,
                };
                store(s, self.out.at(i), count, y);
            }
        }
    }
}

/// A backward run, as all threads see it.
struct Backward<'a, R> {
    x: &'a [R],
    up: Option<&'a [R]>,
    output: &'a [R],
    activation: Activation,
    d_x: Shared<R>,
    /// There where `up` is.
    d_up: Option<Shared<R>>,
}

struct BackwardThread<'a, 'm, R> {
    pass: &'a Backward<'a, R>,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for BackwardThread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        match self.pass.activation {
            Activation::Relu => self.apply(s, |x| {
                let (zero, one) = (R::splat(s, R::ZERO), R::splat(s, R::ONE));
                (R::max(s, zero, x), R::select_lt(s, zero, x, one, zero))
            }),
            Activation::Gelu => self.apply(s, |x| R::gelu_with_slope(s, x)),
            Activation::GeluTanh => self.apply(s, |x| gelu_tanh_with_slope::<R, S>(s, x)),
            Activation::Silu => self.apply(s, |x| silu_with_slope::<R, S>(s, x)),
        }
    }
}

impl<R: Real> BackwardThread<'_, '_, R> {
    /// `function` gives the value and the derivative.
    #[inline(always)]
    fn apply<S: Simd>(&self, s: S, function: impl Fn(R::V<S>) -> (R::V<S>, R::V<S>)) {
        let pass = self.pass;
        let share = self.member.share(pass.x.len());
        let lanes = R::lanes::<S>();
        for i in share.clone().step_by(lanes) {
            let count = lanes.min(share.end - i);
            // SAFETY: inside the tensors, of whose gradients the share is this thread's own.
            unsafe {
                let (value, slope) = function(load(s, pass.x.as_ptr().add(i), count));
                let mut output = load(s, pass.output.as_ptr().add(i), count);
                if let (Some(up), Some(d_up)) = (pass.up, pass.d_up) {
                    store(s, d_up.at(i), count, R::vmul(s, output, value));
                    output = R::vmul(s, output, load(s, up.as_ptr().add(i), count));
                }
                store(s, pass.d_x.at(i), count, R::vmul(s, output, slope));
            }
        }
    }
}

/// A register, or the first `count` of its elements.
///
/// # Safety
///
/// `p` must be readable for `count` elements, at most a register of them.
#[inline(always)]
unsafe fn load<R: Real, S: Simd>(s: S, p: *const R, count: usize) -> R::V<S> {
    // SAFETY: by the caller's promise; whole registers need no mask, which not every machine has.
    unsafe {
        match count == R::lanes::<S>() {
            true => R::load(s, p),
            false => R::load_first(s, p, count),
        }
    }
}

/// Writes as [`load`] reads.
///
/// # Safety
///
/// `p` must be writable for `count` elements, at most a register of them.
#[inline(always)]
unsafe fn store<R: Real, S: Simd>(s: S, p: *mut R, count: usize, v: R::V<S>) {
    // SAFETY: by the caller's promise.
    unsafe {
        match count == R::lanes::<S>() {
            true => R::store(s, p, v),
            false => R::store_first(s, p, count, v),
        }
    }
}

/// x between minus and plus `bound`; NaN stays NaN, as the bounds are the first operands.
#[inline(always)]
fn clamp<R: Real, S: Simd>(s: S, x: R::V<S>, bound: f64) -> R::V<S> {
    let bound = R::splat(s, R::from_f64(bound));
    R::min(s, bound, R::max(s, R::vneg(s, bound), x))
}

/// x sigmoid(2 y), which is x (1 + tanh y) / 2 and has the digits of negative values, with y = sqrt(2 / pi)
/// (x + 0.044715 x³).
#[inline(always)]
fn gelu_tanh<R: Real, S: Simd>(s: S, x: R::V<S>) -> R::V<S> {
    let low = R::max(s, R::splat(s, R::from_f64(-GELU_TANH_MAX)), x);
    let (sigmoid, _) = sigmoid_of_cubic::<R, S>(s, clamp::<R, S>(s, x, GELU_TANH_MAX));
    R::vmul(s, low, sigmoid)
}

#[inline(always)]
fn gelu_tanh_with_slope<R: Real, S: Simd>(s: S, x: R::V<S>) -> (R::V<S>, R::V<S>) {
    let one = R::splat(s, R::ONE);
    let low = R::max(s, R::splat(s, R::from_f64(-GELU_TANH_MAX)), x);
    let x = clamp::<R, S>(s, x, GELU_TANH_MAX);
    let (sigmoid, square) = sigmoid_of_cubic::<R, S>(s, x);
    // The derivative of 2 y.
    let inner = R::mul_add(
        s,
        square,
        R::splat(s, R::from_f64(6.0 * SQRT_2_OVER_PI * CUBIC)),
        R::splat(s, R::from_f64(2.0 * SQRT_2_OVER_PI)),
    );
    let rest = R::vmul(s, R::vmul(s, x, R::vsub(s, one, sigmoid)), inner);
    let slope = R::mul_add(s, sigmoid, rest, sigmoid);
    (R::vmul(s, low, sigmoid), slope)
}

/// sigmoid(2 y), and x².
#[inline(always)]
fn sigmoid_of_cubic<R: Real, S: Simd>(s: S, x: R::V<S>) -> (R::V<S>, R::V<S>) {
    let square = R::vmul(s, x, x);
    let line = R::splat(s, R::from_f64(2.0 * SQRT_2_OVER_PI));
    let cubic = R::splat(s, R::from_f64(2.0 * SQRT_2_OVER_PI * CUBIC));
    let y = R::vmul(s, x, R::mul_add(s, square, cubic, line));
    (R::sigmoid(s, y), square)
}

#[inline(always)]
fn silu_with_slope<R: Real, S: Simd>(s: S, x: R::V<S>) -> (R::V<S>, R::V<S>) {
    let one = R::splat(s, R::ONE);
    let sigmoid = R::sigmoid(s, x);
    // silu' = sigmoid (1 + x (1 - sigmoid))
    let rest = R::vmul(s, clamp::<R, S>(s, x, SILU_MAX), R::vsub(s, one, sigmoid));
    (R::silu(s, x), R::mul_add(s, sigmoid, rest, sigmoid))
}
