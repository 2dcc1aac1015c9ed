use std::sync::Mutex;
use std::time::{Duration, Instant};

use seq_core::cpu::{Matrix, Team, product, threads};

/// Times one operation a round at a time, so that rounds of several can take turns.
pub struct Timer {
    /// What is timed in one round at the least, if more than one sample fits.
    budget: Duration,
    /// Runs in a sample: as many as make it long against the clock.
    runs: u32,
    milliseconds: Vec<f64>,
}

/// What the times of an operation come to.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// Milliseconds a run.
    pub median: f64,
    /// The fastest.
    pub min: f64,
    /// The slowest.
    pub max: f64,
    /// How many were taken.
    pub n: usize,
}

impl Timer {
    const SHORTEST: Duration = Duration::from_millis(5);

    /// A timer that has warmed `run` up with one call and knows about how long it takes.
    pub fn new(budget: Duration, run: impl Fn()) -> Self {
        let start = Instant::now();
        run();
        let once = start.elapsed().max(Duration::from_nanos(1));
        let runs = Self::SHORTEST.as_nanos().div_ceil(once.as_nanos()) as u32;
        Self {
            budget,
            runs,
            milliseconds: Vec::new(),
        }
    }

    /// Takes samples for one round: one at least.
    pub fn round(&mut self, run: impl Fn()) {
        let round = Instant::now();
        loop {
            let start = Instant::now();
            for _ in 0..self.runs {
                run();
            }
            self.milliseconds
                .push(start.elapsed().as_secs_f64() * 1e3 / f64::from(self.runs));
            if round.elapsed() >= self.budget {
                break;
            }
        }
    }

    /// The times of one of `steps` equal parts of a run.
    ///
    /// # Panics
    ///
    /// When no round was taken.
    pub fn sample(&self, steps: usize) -> Sample {
        let mut ms: Vec<f64> = self
            .milliseconds
            .iter()
            .map(|ms| ms / steps as f64)
            .collect();
        ms.sort_by(f64::total_cmp);
        let n = ms.len();
        let median = (ms[(n - 1) / 2] + ms[n / 2]) / 2.0;
        Sample {
            median,
            min: ms[0],
            max: ms[n - 1],
            n,
        }
    }
}

/// The highest rate of matrix products in `f32` that this machine shows with the threads set, in
/// GFLOP/s: the `gemm` crate, square matrices of 1024 to 2048, the best of several runs each.
pub fn gemm_peak() -> f64 {
    let rate = |n: usize| {
        let (a, b) = (vec![0.5_f32; n * n], vec![0.25_f32; n * n]);
        let mut out = vec![0.0_f32; n * n];
        let fastest = (0..5).fold(f64::INFINITY, |fastest, _| {
            let start = Instant::now();
            product(
                [n, n, n],
                Matrix::rows(&a, n),
                Matrix::rows(&b, n),
                &mut out,
                n,
                false,
            );
            fastest.min(start.elapsed().as_secs_f64())
        });
        2.0 * (n as f64).powi(3) / fastest / 1e9
    };
    [1024, 1536, 2048].map(rate).into_iter().fold(0.0, f64::max)
}

/// Memory far beyond what caches hold, 512 MB, which all threads read in a row: what a workload that memory bounds
/// is timed beside.
pub struct Memory(Vec<f32>);

impl Default for Memory {
    fn default() -> Self {
        Self(vec![1.0; 1 << 27])
    }
}

impl Memory {
    /// Reads all of it.
    pub fn read(&self) {
        std::hint::black_box(sum(&self.0));
    }

    /// Bytes a second, where a reading takes so long.
    pub fn rate(&self, milliseconds: f64) -> f64 {
        size_of_val(&self.0[..]) as f64 / milliseconds * 1e3
    }
}

/// The sum of all values, by all threads.
fn sum(values: &[f32]) -> f64 {
    let total = Mutex::new(0.0);
    Team::run(threads(), |member| {
        // As many sums at once as keep the loads going.
        let mut sums = [0.0_f32; 64];
        let values = &values[member.share(values.len())];
        let chunks = values.chunks_exact(sums.len());
        let rest = chunks.remainder().iter().sum::<f32>();
        for chunk in chunks {
            sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum += x);
        }
        let own = f64::from(sums.iter().sum::<f32>() + rest);
        *total.lock().expect("no thread panicked") += own;
    });
    total.into_inner().expect("no thread panicked")
}

/// The most memory in bytes that this process has had so far, where Linux tells it.
pub fn peak_memory() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(milliseconds: &[f64], steps: usize) -> Sample {
        let milliseconds = milliseconds.to_vec();
        Timer {
            budget: Duration::ZERO,
            runs: 1,
            milliseconds,
        }
        .sample(steps)
    }

    #[test]
    fn the_median_is_the_middle_or_between_the_middle_two() {
        let odd = sample(&[3.0, 1.0, 20.0], 1);
        assert_eq!((odd.median, odd.min, odd.max, odd.n), (3.0, 1.0, 20.0, 3));
        assert_eq!(sample(&[8.0, 2.0, 4.0, 1.0], 2).median, 1.5);
    }

    #[test]
    fn short_runs_are_timed_together() {
        let timer = Timer::new(Duration::ZERO, || ());
        assert!(timer.runs > 100);
        let timer = Timer::new(Duration::ZERO, || std::thread::sleep(Timer::SHORTEST));
        assert_eq!(timer.runs, 1);
    }

    #[test]
    fn every_value_is_read() {
        let values: Vec<f32> = (0..1003).map(|i| i as f32).collect();
        assert_eq!(sum(&values), 1002.0 * 1003.0 / 2.0);
        assert_eq!(Memory(values).rate(2.0), 4.0 * 1003.0 / 2e-3);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_peak_of_memory_is_that_of_the_process() {
        let held = vec![1_u8; 64 << 20];
        let peak = peak_memory().expect("Linux tells it");
        assert!(peak >= held.len(), "{peak} bytes");
    }
}
