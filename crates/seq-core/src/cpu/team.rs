use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// How long an idle thread watches for more work before it sleeps: the steps of a stream find it
/// awake, and a program that does something else has its core back soon.
const WATCH: Duration = Duration::from_micros(200);

/// How often a thread looks at a barrier before it lets others have the core.
const SPINS: u32 = 1 << 14;

static THREADS: AtomicUsize = AtomicUsize::new(0);

/// How many threads the kernels use: what [`set_threads`] said, else the environment variable
/// `SEQ_NUM_THREADS`, else one for each core.
pub fn threads() -> usize {
    let set = THREADS.load(Ordering::Relaxed);
    if set > 0 {
        return set;
    }
    let from_environment = std::env::var("SEQ_NUM_THREADS")
        .ok()
        .and_then(|n| n.parse().ok());
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let count = from_environment.filter(|&n| n > 0).unwrap_or_else(cores);
    THREADS.store(count, Ordering::Relaxed);
    count
}

/// Sets how many threads the kernels use, the calling one included; at least one.
pub fn set_threads(count: usize) {
    THREADS.store(count.max(1), Ordering::Relaxed);
}

/// The threads that run kernels. There is one team in a process; a kernel that finds it busy runs
/// on the calling thread alone.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering};
/// use seq_core::cpu::Team;
///
/// let sum = AtomicUsize::new(0);
/// Team::run(2, |member| {
///     for i in member.share(10) {
///         sum.fetch_add(i, Ordering::Relaxed);
///     }
///     member.wait();
///     assert_eq!(sum.load(Ordering::Relaxed), 45);
/// });
/// ```
pub struct Team {
    /// Held by the caller whose job runs.
    busy: Mutex<()>,
    /// The number of the latest job times 256, and its thread count.
    latest: AtomicU64,
    job: UnsafeCell<Option<Job>>,
    /// Workers that have finished the latest job.
    done: AtomicUsize,
    spawned: AtomicUsize,
    sleeping: AtomicUsize,
    sleep: Mutex<()>,
    wake: Condvar,
}

/// What a worker runs, given its index. Lives on the caller's stack until all are done.
#[derive(Clone, Copy)]
struct Job(*const (dyn Fn(usize) + Sync));

// SAFETY: `job` is written by the caller that holds `busy` while no worker reads it: workers read
// it after `latest` has announced it, and the caller waits for all of them.
unsafe impl Sync for Team {}
// SAFETY: the closure behind the pointer is Sync.
unsafe impl Send for Job {}

impl Team {
    /// Runs `work` on `count` threads at once, the calling one among them, and returns when all have
    /// finished. `work` may be run by fewer: it must look at [`Member::count`].
    ///
    /// # Panics
    ///
    /// When `work` panics on any thread.
    pub fn run(count: usize, work: impl Fn(&Member<'_>) + Sync) {
        let team = Self::global();
        let count = count.clamp(1, 255);
        let busy = match team.busy.try_lock() {
            Ok(guard) => Some(guard),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        };
        match busy {
            Some(guard) if count > 1 => team.run_together(guard, count, work),
            _ => work(&Member {
                index: 0,
                barrier: &Barrier::new(1),
            }),
        }
    }

    fn global() -> &'static Self {
        static TEAM: OnceLock<Team> = OnceLock::new();
        TEAM.get_or_init(|| Self {
            busy: Mutex::new(()),
            latest: AtomicU64::new(0),
            job: UnsafeCell::new(None),
            done: AtomicUsize::new(0),
            spawned: AtomicUsize::new(0),
            sleeping: AtomicUsize::new(0),
            sleep: Mutex::new(()),
            wake: Condvar::new(),
        })
    }

    fn run_together(
        &'static self,
        _busy: MutexGuard<'_, ()>,
        count: usize,
        work: impl Fn(&Member<'_>) + Sync,
    ) {
        let count = 1 + self.spawn(count - 1);
        let barrier = Barrier::new(count);
        let panic: Mutex<Option<Box<dyn Any + Send>>> = Mutex::new(None);
        let member = |index: usize| {
            let run = || {
                work(&Member {
                    index,
                    barrier: &barrier,
                })
            };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(run)) {
                barrier.broken.store(true, Ordering::Release);
                let mut first = panic.lock().unwrap_or_else(PoisonError::into_inner);
                first.get_or_insert(payload);
            }
        };
        let job: &(dyn Fn(usize) + Sync) = &member;
        // SAFETY: only the lifetime changes. The closure outlives the job: this function waits for
        // every worker below, and `member` cannot unwind.
        let job = unsafe {
            std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(job)
        };
        // SAFETY: `busy` is held and the workers of the job before have finished, so none reads it.
        unsafe { *self.job.get() = Some(Job(job)) };
        self.done.store(0, Ordering::Relaxed);
        let number = (self.latest.load(Ordering::Relaxed) >> 8) + 1;
        self.latest
            .store(number << 8 | count as u64, Ordering::SeqCst);
        if self.sleeping.load(Ordering::SeqCst) > 0 {
            let _guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
            self.wake.notify_all();
        }
        member(0);
        let mut spins = 0;
        while self.done.load(Ordering::Acquire) < count - 1 {
            pause(&mut spins);
        }
        if let Some(payload) = panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            resume_unwind(payload);
        }
    }

    /// Makes sure that there are workers; returns how many of those wanted there are.
    fn spawn(&'static self, wanted: usize) -> usize {
        let mut spawned = self.spawned.load(Ordering::Relaxed);
        while spawned < wanted {
            let index = spawned + 1;
            let seen = self.latest.load(Ordering::Relaxed);
            let thread = std::thread::Builder::new().name(format!("seq-{index}"));
            if thread.spawn(move || self.work(index, seen)).is_err() {
                break;
            }
            spawned += 1;
            self.spawned.store(spawned, Ordering::Relaxed);
        }
        spawned.min(wanted)
    }

    fn work(&self, index: usize, mut seen: u64) {
        loop {
            let latest = self.next_job(seen);
            seen = latest;
            if index < (latest & 255) as usize {
                // SAFETY: the job was written before `latest` announced it, and stays until this
                // worker has counted itself done.
                let Some(Job(job)) = (unsafe { *self.job.get() }) else {
                    continue;
                };
                // SAFETY: the caller keeps the closure alive until all are done.
                unsafe { (*job)(index) };
                self.done.fetch_add(1, Ordering::Release);
            }
        }
    }

    fn next_job(&self, seen: u64) -> u64 {
        let since = Instant::now();
        loop {
            for _ in 0..64 {
                let latest = self.latest.load(Ordering::Acquire);
                if latest != seen {
                    return latest;
                }
                std::hint::spin_loop();
            }
            if since.elapsed() > WATCH {
                break;
            }
        }
        let mut guard = self.sleep.lock().unwrap_or_else(PoisonError::into_inner);
        self.sleeping.fetch_add(1, Ordering::SeqCst);
        let latest = loop {
            let latest = self.latest.load(Ordering::SeqCst);
            if latest != seen {
                break latest;
            }
            guard = self
                .wake
                .wait(guard)
                .unwrap_or_else(PoisonError::into_inner);
        };
        self.sleeping.fetch_sub(1, Ordering::SeqCst);
        latest
    }
}

/// One thread of a team while it runs a job.
pub struct Member<'a> {
    index: usize,
    barrier: &'a Barrier,
}

impl Member<'_> {
    /// Which thread this is, from zero.
    pub fn index(&self) -> usize {
        self.index
    }

    /// How many threads run the job.
    pub fn count(&self) -> usize {
        self.barrier.rounds.len()
    }

    /// This thread's part of `0..items`; the parts differ by one item at most.
    pub fn share(&self, items: usize) -> Range<usize> {
        let (index, count) = (self.index, self.count());
        index * items / count..(index + 1) * items / count
    }

    /// This thread's part of `rows` rows of `items` each: rows, and which of their items.
    pub fn rows(&self, rows: usize, items: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
        let share = self.share(rows * items);
        let items = items.max(1);
        (share.start / items..share.end.div_ceil(items)).map(move |row| {
            let first = row * items;
            let begin = share.start.max(first) - first;
            (row, begin..share.end.min(first + items) - first)
        })
    }

    /// Waits until every thread is here. What any of them wrote before, all see afterwards.
    #[inline]
    pub fn wait(&self) {
        self.barrier.wait(self.index);
    }
}

/// Every thread announces its round in a cache line of its own and watches those of the others: one
/// transfer between cores a meeting.
struct Barrier {
    rounds: Box<[Round]>,
    /// A thread has panicked and will not come.
    broken: AtomicBool,
}

#[derive(Default)]
#[repr(align(128))]
struct Round(AtomicUsize);

impl Barrier {
    fn new(count: usize) -> Self {
        Self {
            rounds: (0..count).map(|_| Round::default()).collect(),
            broken: AtomicBool::new(false),
        }
    }

    #[inline]
    fn wait(&self, index: usize) {
        let own = &self.rounds[index].0;
        let round = own.load(Ordering::Relaxed).wrapping_add(1);
        own.store(round, Ordering::Release);
        for other in &self.rounds {
            let mut spins = 0;
            while (other.0.load(Ordering::Acquire).wrapping_sub(round) as isize) < 0 {
                assert!(
                    !self.broken.load(Ordering::Relaxed),
                    "another thread of the team panicked"
                );
                pause(&mut spins);
            }
        }
    }
}

/// Spins for a while and then yields, as the thread waited for may need this core.
#[inline]
fn pause(spins: &mut u32) {
    if *spins < SPINS {
        *spins += 1;
        std::hint::spin_loop();
    } else {
        std::thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_share_everything_once() {
        for count in [1, 2, 3, 5] {
            for items in [0, 1, 7, 64] {
                let seen: Vec<AtomicUsize> = (0..items).map(|_| AtomicUsize::new(0)).collect();
                Team::run(count, |member| {
                    for i in member.share(items) {
                        seen[i].fetch_add(1, Ordering::Relaxed);
                    }
                });
                assert!(
                    seen.iter().all(|n| n.load(Ordering::Relaxed) == 1),
                    "{count} {items}"
                );
            }
        }
    }

    #[test]
    fn members_share_rows_once() {
        for (count, rows, items) in [(1, 3, 4), (2, 3, 5), (3, 1, 7), (5, 2, 2), (2, 4, 0)] {
            let seen: Vec<AtomicUsize> = (0..rows * items).map(|_| AtomicUsize::new(0)).collect();
            Team::run(count, |member| {
                for (row, own) in member.rows(rows, items) {
                    for item in own {
                        seen[row * items + item].fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            assert!(
                seen.iter().all(|n| n.load(Ordering::Relaxed) == 1),
                "{count} {rows} {items}"
            );
        }
    }

    #[test]
    fn a_barrier_makes_writes_visible() {
        let turns = AtomicUsize::new(0);
        Team::run(3, |member| {
            for round in 1..2000 {
                turns.fetch_add(1, Ordering::Relaxed);
                member.wait();
                assert_eq!(turns.load(Ordering::Relaxed), round * member.count());
                member.wait();
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_team_goes_on() {
        let panicked = catch_unwind(|| {
            Team::run(2, |member| {
                assert!(member.index() != member.count() - 1, "on purpose");
                member.wait();
            });
        });
        assert!(panicked.is_err());
        let runs = AtomicUsize::new(0);
        Team::run(2, |_| {
            runs.fetch_add(1, Ordering::Relaxed);
        });
        assert!(runs.into_inner() >= 1);
    }

    #[test]
    fn a_team_within_a_team_runs_alone() {
        Team::run(2, |_| Team::run(2, |inner| assert_eq!(inner.count(), 1)));
    }
}
