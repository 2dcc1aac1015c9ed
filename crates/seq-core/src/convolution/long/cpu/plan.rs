use std::collections::BTreeMap;
use std::f64::consts::FRAC_PI_2;
use std::sync::{Arc, Mutex, PoisonError};

use rustfft::num_complex::Complex;
use rustfft::{Fft, FftNum, FftPlanner};

use crate::cpu::{Buffer, Real};

/// What a size may be beside a factor of a power of two: the steps from one to the next are a fifth at
/// most, and rustfft has fast code for all of them.
const FACTORS: [usize; 6] = [1, 3, 5, 7, 9, 15];

/// A float type of transforms, which keeps the plans that were made.
pub trait Transformed: Real + FftNum {
    /// One for each size there was.
    fn plans() -> &'static Mutex<BTreeMap<usize, Arc<Plan<Self>>>>;
}

macro_rules! transformed {
    ($($real:ident)*) => {$(
        impl Transformed for $real {
            fn plans() -> &'static Mutex<BTreeMap<usize, Arc<Plan<Self>>>> {
                static PLANS: Mutex<BTreeMap<usize, Arc<Plan<$real>>>> = Mutex::new(BTreeMap::new());
                &PLANS
            }
        }
    )*};
}

transformed!(f32 f64);

/// How signals of one size are transformed.
pub struct Plan<R> {
    pub size: usize,
    forward: Arc<dyn Fft<R>>,
    inverse: Arc<dyn Fft<R>>,
    /// The powers of the root of i.
    pub roots: Vec<Complex<R>>,
}

impl<R: Transformed> Plan<R> {
    /// That of the smallest good size for `time` steps.
    pub fn of(time: usize) -> Arc<Self> {
        let size = good_size(time);
        let mut plans = R::plans().lock().unwrap_or_else(PoisonError::into_inner);
        let plan = plans
            .entry(size)
            .or_insert_with(|| Arc::new(Self::new(size)));
        Arc::clone(plan)
    }

    fn new(size: usize) -> Self {
        let mut planner = FftPlanner::new();
        let root = |n: usize| {
            let (im, re) = (FRAC_PI_2 * n as f64 / size as f64).sin_cos();
            Complex::new(<R as Real>::from_f64(re), <R as Real>::from_f64(im))
        };
        Self {
            size,
            forward: planner.plan_fft_forward(size),
            inverse: planner.plan_fft_inverse(size),
            roots: (0..size).map(root).collect(),
        }
    }

    /// Room that both transforms need.
    pub fn scratch(&self) -> Signals<R> {
        let [a, b] = [&self.forward, &self.inverse].map(|fft| fft.get_inplace_scratch_len());
        Signals::zeroed(1, a.max(b))
    }

    /// Transforms in place.
    pub fn forward(&self, signal: &mut [Complex<R>], scratch: &mut Signals<R>) {
        self.forward.process_with_scratch(signal, scratch.of(0));
    }

    /// The reverse, but for the factor of the size.
    pub fn inverse(&self, signal: &mut [Complex<R>], scratch: &mut Signals<R>) {
        self.inverse.process_with_scratch(signal, scratch.of(0));
    }
}

fn good_size(time: usize) -> usize {
    let sizes = FACTORS.map(|factor| factor * time.div_ceil(factor).next_power_of_two());
    sizes.into_iter().min().expect("a size of each factor")
}

/// Complex signals of several channels.
pub struct Signals<R> {
    values: Buffer<R>,
    size: usize,
    /// From one signal to the next, in numbers; such that powers of two do not share cache sets.
    stride: usize,
}

impl<R: Real> Signals<R> {
    pub fn zeroed(channels: usize, size: usize) -> Self {
        let line = super::LINE / size_of::<R>();
        let stride = (2 * size).next_multiple_of(line) + line;
        Self {
            values: Buffer::zeroed(channels * stride),
            size,
            stride,
        }
    }

    /// The signal of one channel.
    #[inline(always)]
    pub fn of(&mut self, channel: usize) -> &mut [Complex<R>] {
        let values = &mut self.values.as_mut_slice()[channel * self.stride..][..2 * self.size];
        // SAFETY: a complex number is two numbers, one after the other.
        unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), self.size) }
    }
}

#[cfg(test)]
mod tests {
    use super::good_size;

    #[test]
    fn good_sizes_are_near() {
        for time in 1..5000 {
            let size = good_size(time);
            assert!(time <= size && size * 5 <= time * 6, "{size} for {time}");
        }
        assert_eq!(good_size(65_521), 65_536);
        assert_eq!(good_size(1024), 1024);
    }
}
