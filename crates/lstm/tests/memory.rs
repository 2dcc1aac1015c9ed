//! What inference allocates does not depend on how many steps there are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use burn::tensor::{Device, Distribution, Tensor};
use seq_lstm::{LstmConfig, SequenceLayer};

/// Counts the allocations of all threads, and the bytes that live at once.
struct Counting;

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

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The allocations of one forward pass, and the most bytes it needed beside its input.
fn measure(device: &Device, time: usize) -> (usize, usize) {
    const HIDDEN: usize = 64;
    device.seed(1);
    let lstm = LstmConfig::new(8, HIDDEN).init(device);
    let x = Tensor::<3>::random([1, time, 8], Distribution::Default, device);
    let mut last = (0, 0);
    // The first passes start threads and fill the pools.
    for _ in 0..3 {
        let (count, live) = (COUNT.load(SeqCst), LIVE.load(SeqCst));
        PEAK.store(live, SeqCst);
        let (y, _state) = lstm.forward(x.clone(), None);
        last = (COUNT.load(SeqCst) - count, PEAK.load(SeqCst) - live);
        assert_eq!(y.dims(), [1, time, HIDDEN]);
    }
    (last.0, last.1 - time * HIDDEN * size_of::<f32>())
}

#[test]
fn inference_allocates_nothing_in_the_time_loop() {
    for backend in seq_core::BackendName::compiled() {
        if !["ndarray", "flex"].contains(&backend.name()) {
            continue;
        }
        let device = backend.device();
        let (short, long) = (measure(&device, 1024), measure(&device, 8192));
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
