use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::RefCell;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, Ordering};

use super::Real;

/// A cache line, and a register of AVX-512.
const LINE: usize = 64;

/// A large page. With small ones, weights that would fit the cache may share its sets with one
/// another, as their pages lie anywhere; and every page costs a fault when it is first written.
const PAGE: usize = 2 << 20;

/// How much memory a thread keeps for its next buffers.
const KEEP: usize = 128 << 20;

thread_local! {
    /// Memory of buffers dropped on this thread: fresh memory costs more time than packing weights.
    static POOL: RefCell<Vec<Memory>> = const { RefCell::new(Vec::new()) };
}

/// An allocation.
struct Memory {
    pointer: NonNull<u8>,
    bytes: usize,
}

// SAFETY: it owns what it points to.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// `bytes` rounded up to what will be allocated.
    fn rounded(bytes: usize) -> usize {
        bytes
            .max(1)
            .next_multiple_of(if bytes >= PAGE / 8 { PAGE } else { LINE })
    }

    fn layout(bytes: usize) -> Layout {
        let align = if bytes >= PAGE { PAGE } else { LINE };
        Layout::from_size_align(bytes, align).expect("a buffer smaller than the address space")
    }

    fn new(bytes: usize) -> Self {
        let layout = Self::layout(bytes);
        // SAFETY: `rounded` gives at least one line.
        let pointer =
            NonNull::new(unsafe { alloc(layout) }).unwrap_or_else(|| handle_alloc_error(layout));
        advise(pointer.as_ptr(), bytes);
        Self { pointer, bytes }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout.
        unsafe { dealloc(self.pointer.as_ptr(), Self::layout(self.bytes)) };
    }
}

/// Asks for large pages where whole ones lie inside of memory that was just allocated.
fn advise(pointer: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        let before = pointer.align_offset(PAGE);
        let inside = bytes.saturating_sub(before) / PAGE * PAGE;
        if inside > 0 {
            // SAFETY: advice on whole pages inside of the allocation; refusal does no harm.
            unsafe { libc::madvise(pointer.add(before).cast(), inside, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (pointer, bytes);
}

/// Whether [`keep_memory`] was called.
static KEEPS: AtomicBool = AtomicBool::new(false);

/// Whether the program would rather have time than memory.
pub(crate) fn keeps_memory() -> bool {
    KEEPS.load(Ordering::Relaxed)
}

/// Asks the C library to keep the memory of dropped tensors for new ones; the system, which it would go back
/// to, hands it out page by page, cleared, and for long sequences that takes as long as the kernels do.
///
/// For the first lines of `main`: it is a setting of the process, which a library does not make by itself. Up
/// to two gigabytes that are not used are kept, of tensors up to 32 MiB each. Says whether it was done; it is
/// by glibc, on Linux, where no other allocator is set.
///
/// On every system, layers that run by [`linear_packed`](crate::linear_packed) then keep their weights a second time,
/// in the order in which products of many rows read them.
///
/// ```
/// let kept = seq_core::cpu::keep_memory();
/// assert!(kept || !cfg!(all(target_os = "linux", target_env = "gnu")));
/// ```
pub fn keep_memory() -> bool {
    KEEPS.store(true, Ordering::Relaxed);
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        // SAFETY: both are sizes that the C library allows, and threads may go on allocating.
        unsafe {
            libc::mallopt(libc::M_MMAP_THRESHOLD, 32 << 20) == 1
                && libc::mallopt(libc::M_TRIM_THRESHOLD, i32::MAX) == 1
        }
    }
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    false
}

/// An empty vector with room for `len` elements of a new tensor, which a kernel writes once.
pub fn reserve<R: Real>(len: usize) -> Vec<R> {
    let mut vector = Vec::<R>::with_capacity(len);
    advise(vector.as_mut_ptr().cast(), len * size_of::<R>());
    if cfg!(debug_assertions) {
        // NaN, so that an element that is never written shows.
        for element in vector.spare_capacity_mut() {
            element.write(R::from_f64(f64::NAN));
        }
    }
    vector
}

/// Asks for the cache line of an address that will be read or written soon; it may lie anywhere.
#[inline(always)]
pub fn prefetch<R>(address: *const R) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: a hint, which changes nothing that a program sees.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T1>(address.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = address;
}

/// Memory for a kernel, aligned to cache lines and used again by later buffers of the same thread.
///
/// ```
/// use seq_core::cpu::Buffer;
///
/// let mut buffer = Buffer::<f32>::zeroed(100);
/// buffer.as_mut_slice()[3] = 1.0;
/// assert_eq!(buffer.as_slice().iter().sum::<f32>(), 1.0);
/// ```
pub struct Buffer<R> {
    /// There until it is dropped.
    memory: Option<Memory>,
    pointer: NonNull<R>,
    len: usize,
    of: PhantomData<R>,
}

// SAFETY: it owns its elements.
unsafe impl<R: Send> Send for Buffer<R> {}
// SAFETY: it is changed through `&mut` alone.
unsafe impl<R: Sync> Sync for Buffer<R> {}

impl<R> Drop for Buffer<R> {
    fn drop(&mut self) {
        // A thread that ends has no pool any more; the memory is then freed.
        let _ = POOL.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            let kept: usize = pool.iter().map(|memory| memory.bytes).sum();
            let memory = self.memory.take();
            pool.extend(memory.filter(|memory| kept + memory.bytes <= KEEP));
        });
    }
}

impl<R: Real> Clone for Buffer<R> {
    fn clone(&self) -> Self {
        // SAFETY: every element is written here.
        let mut buffer = unsafe { Self::uninit(self.len) };
        buffer.as_mut_slice().copy_from_slice(self.as_slice());
        buffer
    }
}

impl<R: Real> Buffer<R> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        // SAFETY: every element is written here.
        let mut buffer = unsafe { Self::uninit(len) };
        buffer.as_mut_slice().fill(R::ZERO);
        buffer
    }

    /// `len` elements that are not yet written; NaN in debug builds, so that a read before the first
    /// write shows.
    ///
    /// # Safety
    ///
    /// Every element must be written before it is read.
    pub unsafe fn uninit(len: usize) -> Self {
        let bytes = Memory::rounded(len * size_of::<R>());
        let pooled = POOL.with_borrow_mut(|pool| {
            let index = pool.iter().position(|memory| memory.bytes == bytes)?;
            Some(pool.swap_remove(index))
        });
        let memory = pooled.unwrap_or_else(|| Memory::new(bytes));
        if cfg!(debug_assertions) {
            // SAFETY: inside the allocation.
            unsafe { memory.pointer.write_bytes(0xff, bytes) };
        }
        Self {
            pointer: memory.pointer.cast(),
            memory: Some(memory),
            len,
            of: PhantomData,
        }
    }

    /// The elements.
    pub fn as_slice(&self) -> &[R] {
        // SAFETY: the memory holds `len` elements, and every bit pattern is a value of a Pod type.
        unsafe { std::slice::from_raw_parts(self.pointer.as_ptr(), self.len) }
    }

    /// The elements, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [R] {
        // SAFETY: as in `as_slice`, and borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.pointer.as_ptr(), self.len) }
    }

    /// A pointer that threads may share.
    pub fn shared(&mut self) -> Shared<R> {
        Shared(self.pointer.as_ptr())
    }
}

/// A pointer into memory that several threads write, each its own part.
#[derive(Clone, Copy)]
pub struct Shared<R>(*mut R);

// SAFETY: a pointer is only an address; whoever reads or writes through it promises to be alone there.
unsafe impl<R: Real> Send for Shared<R> {}
// SAFETY: as above.
unsafe impl<R: Real> Sync for Shared<R> {}

impl<R: Real> Shared<R> {
    /// From the memory of a slice or of a vector's spare capacity.
    pub fn new(pointer: *mut R) -> Self {
        Self(pointer)
    }

    /// The address of element `index`, which may lie anywhere, to [`prefetch`].
    #[inline(always)]
    pub fn address(self, index: usize) -> *const R {
        self.0.wrapping_add(index)
    }

    /// The address of element `index`.
    ///
    /// # Safety
    ///
    /// The element must be inside the memory, or one beyond its end.
    #[inline(always)]
    pub unsafe fn at(self, index: usize) -> *mut R {
        // SAFETY: inside the allocation by the caller's promise.
        unsafe { self.0.add(index) }
    }
}
