//! Long convolutions on slices, by complex transforms of the length of the sequence, not of twice it.
//!
//! A signal is a polynomial, and convolution a product. The kernels take it modulo `z^size - i`: a power
//! of `size` or more comes round with the factor i, a negative one with -i. Signals are real, so what
//! comes round is the imaginary part of the sum, and the outputs are the real part. At the points where
//! `z^size = i`, a polynomial's values are the Fourier transform of its coefficients times the powers of
//! a root of i (Crandall and Fagin 1994, Discrete Weighted Transforms and Large-Integer Arithmetic). No transform of real numbers is needed then, and a kernel that looks ahead costs nothing:
//! it is what comes round from before the first step.

mod backward;
mod channels;
mod forward;
mod plan;

use std::ops::Range;

use crate::cpu::{Member, Real, threads};

pub(super) use backward::{Gradients, backward};
pub(super) use forward::forward;
pub(super) use plan::Transformed;

/// Below this many values a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 12;

/// A cache line: neighbouring channels of a step that are read together.
const LINE: usize = 64;

/// A convolution with its inputs, all row-major.
pub(super) struct Problem<'a, R> {
    pub batch: usize,
    pub time: usize,
    pub width: usize,
    /// `[batch, time, width]`
    pub x: &'a [R],
    /// `[width, length]`, of a length up to `time`.
    pub kernel: &'a [R],
    /// `[width, length]`, of another length below `time`: the taps of later steps, the next one first.
    pub ahead: Option<&'a [R]>,
}

impl<R: Real> Problem<'_, R> {
    /// How many threads it is worth.
    fn threads(&self) -> usize {
        match self.batch * self.time * self.width < WORTH_SHARING {
            true => 1,
            false => threads(),
        }
    }

    /// The channels of one thread, in groups that it works on together.
    fn groups(&self, member: &Member<'_>) -> impl Iterator<Item = Range<usize>> {
        let most = LINE / size_of::<R>();
        let size = most.min(self.width.div_ceil(member.count())).max(1);
        let width = self.width;
        let own = member.share(width.div_ceil(size));
        own.map(move |group| group * size..width.min((group + 1) * size))
    }

    /// The largest of these groups.
    fn group(&self) -> usize {
        (LINE / size_of::<R>()).min(self.width)
    }

    /// Where a row begins.
    fn row(&self, row: usize) -> usize {
        row * self.time * self.width
    }

    /// The taps of a channel, those of earlier steps and of later ones.
    fn taps(&self, channel: usize) -> [&[R]; 2] {
        [self.kernel, self.ahead.unwrap_or_default()].map(|kernel| {
            let length = kernel.len() / self.width;
            &kernel[channel * length..][..length]
        })
    }
}
