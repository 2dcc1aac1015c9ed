//! Registers of real numbers, which are one plane, and of complex ones, which are two.

use crate::cpu::{Real, Shared, Simd};

/// `N` neighbouring registers of numbers, plane by plane.
pub(super) type Numbers<R, S, const N: usize, const P: usize> = [[<R as Real>::V<S>; N]; P];

/// Zeros.
#[inline(always)]
pub(super) fn zeros<R: Real, S: Simd, const N: usize, const P: usize>(s: S) -> Numbers<R, S, N, P> {
    [[R::splat(s, R::ZERO); N]; P]
}

/// a b + c
#[inline(always)]
pub(super) fn mul_add<R: Real, S: Simd, const N: usize, const P: usize>(
    s: S,
    a: Numbers<R, S, N, P>,
    b: Numbers<R, S, N, P>,
    mut c: Numbers<R, S, N, P>,
) -> Numbers<R, S, N, P> {
    for n in 0..N {
        for p in 0..P {
            c[p][n] = R::mul_add(s, a[0][n], b[p][n], c[p][n]);
        }
        if P == 2 {
            c[0][n] = R::neg_mul_add(s, a[1][n], b[1][n], c[0][n]);
            c[1][n] = R::mul_add(s, a[1][n], b[0][n], c[1][n]);
        }
    }
    c
}

/// a times the conjugate of b.
#[inline(always)]
pub(super) fn mul_conj<R: Real, S: Simd, const N: usize, const P: usize>(
    s: S,
    a: Numbers<R, S, N, P>,
    b: Numbers<R, S, N, P>,
) -> Numbers<R, S, N, P> {
    let mut out = a;
    for n in 0..N {
        for p in 0..P {
            out[p][n] = R::vmul(s, a[p][n], b[0][n]);
        }
        if P == 2 {
            out[0][n] = R::mul_add(s, a[1][n], b[1][n], out[0][n]);
            out[1][n] = R::neg_mul_add(s, a[0][n], b[1][n], out[1][n]);
        }
    }
    out
}

/// a + b
#[inline(always)]
pub(super) fn add<R: Real, S: Simd, const N: usize, const P: usize>(
    s: S,
    mut a: Numbers<R, S, N, P>,
    b: Numbers<R, S, N, P>,
) -> Numbers<R, S, N, P> {
    for p in 0..P {
        for n in 0..N {
            a[p][n] = R::vadd(s, a[p][n], b[p][n]);
        }
    }
    a
}

/// The registers from element `at` on of slices or of what threads share; of an absent plane, zeros. One
/// register holds the first `count` lanes only; several are whole.
///
/// # Safety
///
/// The elements must be inside each plane.
#[inline(always)]
pub(super) unsafe fn load<R: Real, S: Simd, const N: usize, const P: usize>(
    s: S,
    planes: [impl Plane<R>; P],
    (at, count): (usize, usize),
) -> Numbers<R, S, N, P> {
    let mut out = zeros::<R, S, N, P>(s);
    for p in 0..P {
        // SAFETY: inside the plane by the caller's promise.
        unsafe {
            let Some(first) = planes[p].at(at) else {
                continue;
            };
            for (n, register) in out[p].iter_mut().enumerate() {
                *register = match N {
                    1 => R::load_first(s, first, count),
                    _ => R::load(s, first.add(n * R::lanes::<S>())),
                };
            }
        }
    }
    out
}

/// The reverse of [`load`].
///
/// # Safety
///
/// The elements must be inside each plane, and the calling thread's own.
#[inline(always)]
pub(super) unsafe fn store<R: Real, S: Simd, const N: usize, const P: usize>(
    s: S,
    planes: [Shared<R>; P],
    (at, count): (usize, usize),
    values: Numbers<R, S, N, P>,
) {
    for p in 0..P {
        for (n, &register) in values[p].iter().enumerate() {
            // SAFETY: inside the plane by the caller's promise.
            unsafe {
                let to = planes[p].at(at + n * R::lanes::<S>());
                match N {
                    1 => R::store_first(s, to, count, register),
                    _ => R::store(s, to, register),
                }
            }
        }
    }
}

/// What [`load`] reads.
pub(super) trait Plane<R>: Copy {
    /// The address of an element, if the plane is there.
    ///
    /// # Safety
    ///
    /// The element must be inside the plane, or one beyond its end.
    unsafe fn at(self, index: usize) -> Option<*const R>;
}

impl<R> Plane<R> for &[R] {
    #[inline(always)]
    unsafe fn at(self, index: usize) -> Option<*const R> {
        // SAFETY: inside the slice by the caller's promise.
        Some(unsafe { self.as_ptr().add(index) })
    }
}

impl<R> Plane<R> for Option<&[R]> {
    #[inline(always)]
    unsafe fn at(self, index: usize) -> Option<*const R> {
        // SAFETY: as above.
        self.map(|plane| unsafe { plane.as_ptr().add(index) })
    }
}

impl<R: Real> Plane<R> for Shared<R> {
    #[inline(always)]
    unsafe fn at(self, index: usize) -> Option<*const R> {
        // SAFETY: as above.
        Some(unsafe { Shared::at(self, index) }.cast_const())
    }
}
