use std::marker::PhantomData;

use super::Real;

/// As long as a cache line, and as a register of AVX-512.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "read through pointers")] [u8; 64]);

/// Memory for a kernel, aligned to cache lines.
///
/// ```
/// use seq_core::cpu::Buffer;
///
/// let mut buffer = Buffer::<f32>::zeroed(100);
/// buffer.as_mut_slice()[3] = 1.0;
/// assert_eq!(buffer.as_slice().iter().sum::<f32>(), 1.0);
/// ```
#[derive(Clone)]
pub struct Buffer<R> {
    lines: Vec<Line>,
    len: usize,
    of: PhantomData<R>,
}

impl<R: Real> Buffer<R> {
    /// `len` zeros.
    pub fn zeroed(len: usize) -> Self {
        let lines = vec![Line([0; 64]); (len * size_of::<R>()).div_ceil(64)];
        Self { lines, len, of: PhantomData }
    }

    /// `len` elements that are not yet written; NaN in debug builds, so that a read before the first
    /// write shows.
    ///
    /// # Safety
    ///
    /// Every element must be written before it is read.
    pub unsafe fn uninit(len: usize) -> Self {
        let count = (len * size_of::<R>()).div_ceil(64);
        let mut lines = Vec::with_capacity(count);
        if cfg!(debug_assertions) {
            lines.resize(count, Line([0xff; 64]));
        } else {
            // SAFETY: the capacity is there, and the caller writes an element before reading it.
            unsafe { lines.set_len(count) };
        }
        Self { lines, len, of: PhantomData }
    }

    /// The elements.
    pub fn as_slice(&self) -> &[R] {
        // SAFETY: the lines hold `len` elements, and every bit pattern is a value of a Pod type.
        unsafe { std::slice::from_raw_parts(self.lines.as_ptr().cast(), self.len) }
    }

    /// The elements, to be changed.
    pub fn as_mut_slice(&mut self) -> &mut [R] {
        // SAFETY: as in `as_slice`, and borrowed for writing.
        unsafe { std::slice::from_raw_parts_mut(self.lines.as_mut_ptr().cast(), self.len) }
    }

    /// A pointer that threads may share.
    pub fn shared(&mut self) -> Shared<R> {
        Shared(self.lines.as_mut_ptr().cast())
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
