//! Sums to which every thread of a team adds.

use std::ops::Range;

use super::{Buffer, Real, Shared};

/// Memory for the parts that the members of a team give to a sum; the first of them writes to the sum itself.
///
/// ```
/// use seq_core::cpu::{Parts, Shared, Team};
///
/// let mut sums = [0.0_f32; 4];
/// let mut parts = Parts::new(2, sums.len());
/// let parts = parts.shared(Shared::new(sums.as_mut_ptr()));
/// Team::run(2, |member| {
///     // SAFETY: a thread writes its own part, and then its own share of the sum.
///     unsafe {
///         let part = parts.of(member.index());
///         (0..4).for_each(|i| *part.at(i) = 3.0 / member.count() as f32);
///         member.wait();
///         parts.add_up(member.count(), member.share(4));
///     }
/// });
/// assert_eq!(sums, [3.0; 4]);
/// ```
pub struct Parts<R: Real> {
    len: usize,
    others: Buffer<R>,
}

impl<R: Real> Parts<R> {
    /// For `count` threads and sums of `len` elements.
    pub fn new(count: usize, len: usize) -> Self {
        let others = count.saturating_sub(1) * len;
        Self {
            len,
            // SAFETY: a part is written before it is added.
            others: unsafe { Buffer::uninit(others) },
        }
    }

    /// The parts of the sum `out`.
    pub fn shared(&mut self, out: Shared<R>) -> SharedParts<R> {
        SharedParts {
            len: self.len,
            out,
            others: self.others.shared(),
        }
    }
}

/// [`Parts`] as the threads of a team have them; the example is there.
#[derive(Clone, Copy)]
pub struct SharedParts<R> {
    len: usize,
    out: Shared<R>,
    others: Shared<R>,
}

impl<R: Real> SharedParts<R> {
    /// Where a thread writes its part.
    ///
    /// # Safety
    ///
    /// There must be parts for so many threads.
    #[inline(always)]
    pub unsafe fn of(&self, thread: usize) -> Shared<R> {
        match thread {
            0 => self.out,
            // SAFETY: by the promise.
            _ => Shared::new(unsafe { self.others.at((thread - 1) * self.len) }),
        }
    }

    /// Adds the parts of `count` threads up, of some elements.
    ///
    /// # Safety
    ///
    /// There must be parts for so many, who must have written theirs, and the elements be the calling thread's own.
    #[inline(always)]
    pub unsafe fn add_up(&self, count: usize, own: Range<usize>) {
        // SAFETY: by the promise.
        unsafe {
            let sums = std::slice::from_raw_parts_mut(self.out.at(own.start), own.len());
            for thread in 1..count {
                let part = self.of(thread).at(own.start);
                let part = std::slice::from_raw_parts(part, own.len());
                for (sum, x) in sums.iter_mut().zip(part) {
                    *sum += *x;
                }
            }
        }
    }
}
