//! Products of a few rows, as of the step of a stream: every element of the right matrix is read once,
//! where it lies, as fast as the memory gives it.

use std::ops::Range;

use super::Product;
use crate::cpu::tile::{tiles, with_rows};
use crate::cpu::{Arch, Member, Real, Simd, Team, WithSimd, prefetch};

/// How many rows are few.
pub(super) const FEW: usize = 8;

/// How many rows of the right matrix, or of its transpose, are read side by side.
const SIDE: usize = 4;

/// How many columns are summed at a time: their sums stay in the nearest cache.
const COLUMNS: usize = 1024;

/// Whether a product is one that [`run`] takes: the rows lie along the depth, and those of the right matrix or of its
/// transpose in one piece.
pub(super) fn fits<R>(product: &Product<'_, R>) -> bool {
    let (a, b) = (&product.a, &product.b);
    let few = match (b.column_stride, b.row_stride) {
        // Here the sums of more rows would not stay in the first cache.
        (1, _) => FEW / 2,
        (_, 1) => FEW,
        _ => 0,
    };
    product.size[0] <= few && a.column_stride == 1
}

/// Runs a product that [`fits`], on `count` threads.
///
/// # Safety
///
/// As of [`Product::run`].
pub(super) unsafe fn run<R: Real>(product: &Product<'_, R>, count: usize) {
    let arch = Arch::new();
    Team::run(count, |member| arch.dispatch(Thread { product, member }));
}

struct Thread<'a, 'm, R> {
    product: &'a Product<'a, R>,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let [_, _, n] = self.product.size;
        // Parts end where cache lines do, if rows do.
        let line = 64 / size_of::<R>();
        let lines = self.member.share(n.div_ceil(line));
        let own = lines.start * line..n.min(lines.end * line);
        // SAFETY: the columns are this thread's own.
        unsafe {
            match self.product.b.column_stride {
                1 => self.product.columns(s, own),
                _ => self.product.dots(s, own),
            }
        }
    }
}

impl<R: Real> Product<'_, R> {
    /// What a sum begins with.
    #[inline(always)]
    fn begin(&self, column: usize) -> R {
        self.bias.map_or(R::ZERO, |bias| bias[column])
    }

    /// Some columns of a product with a matrix whose rows lie in one piece.
    ///
    /// # Safety
    ///
    /// The columns must be inside of the product and this thread's own.
    #[inline(always)]
    pub(super) unsafe fn columns<S: Simd>(&self, s: S, columns: Range<usize>) {
        for first in columns.clone().step_by(COLUMNS) {
            // SAFETY: some of the columns.
            unsafe { self.piece(s, first..columns.end.min(first + COLUMNS)) };
        }
    }

    /// As many columns as are summed at a time.
    ///
    /// # Safety
    ///
    /// As [`columns`](Self::columns).
    #[inline(always)]
    unsafe fn piece<S: Simd>(&self, s: S, columns: Range<usize>) {
        let product = self;
        let [m, k, _] = product.size;
        // SAFETY: by the promise.
        unsafe {
            for row in 0..m {
                for column in columns.clone() {
                    let begin = self.begin(column);
                    *product.out.at(row * product.size[2] + column) = begin;
                }
            }
            let whole = k / SIDE * SIDE;
            for step in (0..whole).step_by(SIDE) {
                self.steps::<S, SIDE>(s, step, columns.clone());
            }
            for step in whole..k {
                self.steps::<S, 1>(s, step, columns.clone());
            }
        }
    }

    /// Adds what `N` steps of the depth give to the columns.
    ///
    /// # Safety
    ///
    /// As [`columns`](Self::columns), the steps being inside of the depth.
    #[inline(always)]
    unsafe fn steps<S: Simd, const N: usize>(&self, s: S, step: usize, columns: Range<usize>) {
        let product = self;
        let (m, lanes) = (product.size[0], R::lanes::<S>());
        let (a, b) = (&product.a, &product.b);
        // SAFETY: by the promise; a register that is cut off by the last column is read and written in part.
        unsafe {
            let from: [*const R; N] =
                std::array::from_fn(|i| b.data.as_ptr().add((step + i) * b.row_stride));
            let mut column = columns.start;
            while column < columns.end {
                let count = lanes.min(columns.end - column);
                let w = from.map(|from| {
                    let from = from.add(column);
                    prefetch(from.wrapping_add(N * b.row_stride));
                    match count == lanes {
                        true => R::load(s, from),
                        false => R::load_first(s, from, count),
                    }
                });
                for row in 0..m {
                    let x = a.data.as_ptr().add(row * a.row_stride + step);
                    let out = product.out.at(row * product.size[2] + column);
                    let mut sum = match count == lanes {
                        true => R::load(s, out),
                        false => R::load_first(s, out, count),
                    };
                    for (i, w) in w.into_iter().enumerate() {
                        sum = R::mul_add(s, R::splat(s, *x.add(i)), w, sum);
                    }
                    match count == lanes {
                        true => R::store(s, out, sum),
                        false => R::store_first(s, out, count, sum),
                    }
                }
                column += lanes;
            }
        }
    }

    /// Some columns of a product with a matrix whose columns lie in one piece.
    ///
    /// # Safety
    ///
    /// The columns must be inside of the product and this thread's own.
    #[inline(always)]
    unsafe fn dots<S: Simd>(&self, s: S, columns: Range<usize>) {
        let rows = self.size[0];
        let whole = columns.start + columns.len() / SIDE * SIDE;
        // SAFETY: by the promise.
        unsafe {
            for column in (columns.start..whole).step_by(SIDE) {
                for (row, count) in tiles::<S>(rows) {
                    with_rows!(count, M => self.dot::<S, M, SIDE>(s, row, column));
                }
            }
            for column in whole..columns.end {
                for (row, count) in tiles::<S>(rows) {
                    with_rows!(count, M => self.dot::<S, M, 1>(s, row, column));
                }
            }
        }
    }

    /// `M` rows times `N` columns.
    ///
    /// # Safety
    ///
    /// As [`dots`](Self::dots), with rows inside of the product.
    #[inline(always)]
    unsafe fn dot<S: Simd, const M: usize, const N: usize>(&self, s: S, row: usize, column: usize) {
        let product = self;
        let (k, lanes) = (product.size[1], R::lanes::<S>());
        let (a, b) = (&product.a, &product.b);
        // SAFETY: by the promise; a register that is cut off by the depth is read in part.
        unsafe {
            let x: [*const R; M] =
                std::array::from_fn(|i| a.data.as_ptr().add((row + i) * a.row_stride));
            let w: [*const R; N] =
                std::array::from_fn(|j| b.data.as_ptr().add((column + j) * b.column_stride));
            let mut acc = [[R::splat(s, R::ZERO); N]; M];
            let mut step = 0;
            while step < k {
                let count = lanes.min(k - step);
                let load = |p: *const R| match count == lanes {
                    true => R::load(s, p.add(step)),
                    false => R::load_first(s, p.add(step), count),
                };
                let x = x.map(load);
                for (j, w) in w.into_iter().enumerate() {
                    prefetch(w.wrapping_add(step + N * b.column_stride));
                    let w = load(w);
                    for (x, acc) in x.iter().zip(&mut acc) {
                        acc[j] = R::mul_add(s, *x, w, acc[j]);
                    }
                }
                step += lanes;
            }
            for (i, acc) in acc.into_iter().enumerate() {
                for (j, acc) in acc.into_iter().enumerate() {
                    let sum = self.begin(column + j) + R::reduce_sum(s, acc);
                    *product.out.at((row + i) * product.size[2] + column + j) = sum;
                }
            }
        }
    }
}
