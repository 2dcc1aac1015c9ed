//! What a layer allocates, and whether its kernels keep to their memory.

use std::alloc::{GlobalAlloc, Layout, System};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use burn::tensor::{Device, Distribution, Tensor};

use super::cpu_backends;
use crate::recurrent::RecurrentConfig;
use crate::{Lengths, SequenceLayer};

/// An allocator that counts the allocations of all threads, and the bytes that live at once; to be the
/// global one of a test.
///
/// ```
/// use seq_core::testing::recurrent::memory::Counting;
///
/// #[global_allocator]
/// static ALLOCATOR: Counting = Counting;
/// ```
#[derive(Debug)]
pub struct Counting;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static LIVE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.fetch_add(1, SeqCst);
        let live = LIVE.fetch_add(layout.size(), SeqCst) + layout.size();
        PEAK.fetch_max(live, SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Checks on the CPU backends that neither the allocations of a forward pass nor the bytes it needs
/// beside its output depend on how many steps there are.
///
/// # Panics
///
/// When they do, or when [`Counting`] is not the global allocator.
pub fn inference_allocates_nothing_in_the_time_loop(config: &impl RecurrentConfig) {
    for backend in cpu_backends() {
        let device = backend.device();
        let (short, long) = (
            measure(config, &device, 1024),
            measure(config, &device, 8192),
        );
        assert!(short.0 > 0, "`Counting` is not the global allocator");
        assert_eq!(
            short.0, long.0,
            "{backend}: allocations of 1,024 and of 8,192 steps"
        );
        assert!(
            long.1 <= short.1 + 4096,
            "{backend}: {} bytes for 1,024 steps, {} for 8,192",
            short.1,
            long.1
        );
    }
}

/// The allocations of one forward pass, and the most bytes it needed beside its output.
fn measure(config: &impl RecurrentConfig, device: &Device, time: usize) -> (usize, usize) {
    device.seed(1);
    let layer = config.init(device);
    let shape = [1, time, layer.d_input()];
    let x = Tensor::<3>::random(shape, Distribution::Default, device);
    let mut last = (0, 0);
    // The first passes start threads and fill the pools.
    for _ in 0..3 {
        last = allocated(|| {
            let (y, _state) = layer.forward(x.clone(), None);
            assert_eq!(y.dims(), [1, time, layer.d_output()]);
        });
    }
    (last.0, last.1 - time * layer.d_output() * size_of::<f32>())
}

/// How often `run` allocates, and the most bytes that live at once of those it allocates; nothing where
/// [`Counting`] is not the global allocator.
pub fn allocated(run: impl FnOnce()) -> (usize, usize) {
    let (count, live) = (COUNT.load(SeqCst), LIVE.load(SeqCst));
    PEAK.store(live, SeqCst);
    run();
    (COUNT.load(SeqCst) - count, PEAK.load(SeqCst) - live)
}

/// Runs forward, backward and step on the CPU backends, at sizes around those of a register, with and
/// without lengths, for layers of `configure(d_input, d_hidden)`.
///
/// # Panics
///
/// When a gradient is not of numbers.
pub fn run_kernels<K: RecurrentConfig>(configure: impl Fn(usize, usize) -> K) {
    for backend in cpu_backends() {
        let device = backend.device().autodiff();
        let sizes = [(1, 1, 1, 1), (2, 3, 5, 7), (3, 4, 2, 16), (7, 2, 9, 33)];
        for (batch, time, d_input, d_hidden) in sizes {
            let layer = configure(d_input, d_hidden).init(&device);
            let shape = [batch, time, d_input];
            let x = Tensor::<3>::random(shape, Distribution::Default, &device).require_grad();
            let lengths = Lengths::new((0..batch).map(|row| row % (time + 1)));
            let (y, state) = layer.forward_padded(x.clone(), &lengths, None);
            let (z, _) = layer.step(x.clone().narrow(1, 0, 1).squeeze_dim(1), state);
            let gradients = (y.sum() + z.sum()).backward();
            let x = x
                .grad(&gradients)
                .expect("the gradient of a tracked input")
                .into_data();
            let values = x.as_slice::<f32>().expect("f32");
            assert!(values.iter().all(|value| value.is_finite()), "{values:?}");
        }
        // Packed weights that are used again.
        let layer = configure(5, 33).init(&backend.device());
        let x = Tensor::<3>::random([1, 40, 5], Distribution::Default, &backend.device());
        let (_, state) = layer.forward(x.clone(), None);
        let (y, _) = layer.forward(x, Some(state));
        assert!(y.is_finite().all().into_scalar::<bool>());
    }
}

/// Runs another test of the same binary in a process of its own under valgrind, where that is
/// installed.
///
/// # Panics
///
/// When the test fails, or leaves the memory that is its own.
pub fn under_valgrind(test: &str) {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("valgrind is not installed: the kernels were run without it");
        return;
    }
    let binary = std::env::current_exe().expect("the path of this test");
    // Addresses alone: of values, optimised code looks at enum tags before it knows that they count,
    // and the kernels' own memory is poisoned in debug builds.
    let output = Command::new("valgrind")
        .args(["--quiet", "--undef-value-errors=no", "--error-exitcode=9"])
        .arg(binary)
        .args(["--exact", test, "--test-threads=1"])
        .env("SEQ_NUM_THREADS", "2")
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .expect("valgrind runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "valgrind: {}\n{text}",
        output.status
    );
    let ran = String::from_utf8_lossy(&output.stdout);
    assert!(ran.contains("1 passed"), "there is no test `{test}`");
}
