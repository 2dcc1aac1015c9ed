//! Signals between their tensors and the buffers of a thread.

use std::ops::Range;

use rustfft::num_complex::Complex;
use rustfft::num_traits::Zero;

use super::plan::{Plan, Signals, Transformed};
use crate::cpu::{Real, Shared};

/// Steps that are moved together: a cache line of a complex signal in `f32`.
const TILE: usize = 8;

/// Reads some channels of a row `[time, width]`, times the powers of the root of i.
#[inline(always)]
pub fn load<R: Transformed>(
    plan: &Plan<R>,
    x: &[R],
    width: usize,
    channels: Range<usize>,
    signals: &mut Signals<R>,
) {
    let time = x.len() / width;
    for first in (0..time).step_by(TILE) {
        let roots = &plan.roots[first..time.min(first + TILE)];
        for (i, channel) in channels.clone().enumerate() {
            let to = &mut signals.of(i)[first..][..roots.len()];
            for (step, (to, root)) in to.iter_mut().zip(roots).enumerate() {
                // SAFETY: a step and a channel of the row.
                let x = unsafe { *x.get_unchecked((first + step) * width + channel) };
                *to = root.scale(x);
            }
        }
    }
    for i in 0..channels.len() {
        signals.of(i)[time..].fill(Complex::zero());
    }
}

/// Writes some channels of a row `[time, width]`: the real part of what [`load`] made of it, divided by
/// the size.
///
/// # Safety
///
/// There must be `time` steps of `width` values from `at` on, and nobody else may use these channels.
#[inline(always)]
pub unsafe fn store<R: Transformed>(
    plan: &Plan<R>,
    [time, width]: [usize; 2],
    channels: Range<usize>,
    signals: &mut Signals<R>,
    (to, at): (Shared<R>, usize),
) {
    let scale = R::ONE / <R as Real>::from_f64(plan.size as f64);
    for first in (0..time).step_by(TILE) {
        let roots = &plan.roots[first..time.min(first + TILE)];
        for (i, channel) in channels.clone().enumerate() {
            let from = &signals.of(i)[first..][..roots.len()];
            for (step, (from, root)) in from.iter().zip(roots).enumerate() {
                let value = (from.re * root.re + from.im * root.im) * scale;
                // SAFETY: a step and a channel of the row, by the caller's promise.
                unsafe { to.at(at + (first + step) * width + channel).write(value) };
            }
        }
    }
}

/// Reads a channel's taps: those of later steps come round with the factor -i.
#[inline(always)]
pub fn load_kernel<R: Transformed>(
    plan: &Plan<R>,
    [kernel, ahead]: [&[R]; 2],
    signal: &mut [Complex<R>],
) {
    let (taps, rest) = signal.split_at_mut(kernel.len());
    for ((to, root), &tap) in taps.iter_mut().zip(&plan.roots).zip(kernel) {
        *to = root.scale(tap);
    }
    rest.fill(Complex::zero());
    let last = signal.iter_mut().zip(&plan.roots).rev();
    for ((to, root), &tap) in last.zip(ahead) {
        *to = *to + Complex::new(root.im, -root.re).scale(tap);
    }
}

/// Writes the taps of a channel, as [`load_kernel`] reads them: those of later steps are the negative
/// imaginary part.
#[inline(always)]
pub fn store_kernel<R: Transformed>(
    plan: &Plan<R>,
    signal: &[Complex<R>],
    [kernel, ahead]: [&mut [R]; 2],
) {
    let scale = R::ONE / <R as Real>::from_f64(plan.size as f64);
    let signal = signal.iter().zip(&plan.roots);
    for (to, (from, root)) in kernel.iter_mut().zip(signal.clone()) {
        *to = (from.re * root.re + from.im * root.im) * scale;
    }
    for (to, (from, root)) in ahead.iter_mut().zip(signal.rev()) {
        *to = (from.re * root.im - from.im * root.re) * scale;
    }
}
