//! Products of a few rows, as of the step of a stream: every element of the right matrix is read once,
//! where it lies, as fast as the memory gives it.

use std::ops::Range;

use super::Product;
use crate::cpu::tile::{tiles, with_rows};
use crate::cpu::{Arch, Member, Parts, Real, Shared, SharedParts, Simd, Team, WithSimd, prefetch};

/// How many rows are few.
pub(super) const FEW: usize = 8;

/// How many rows of the right matrix, or of its transpose, are read side by side.
const SIDE: usize = 4;

/// As many for a single row of the left matrix, whose factors all stay in registers.
const SIDE_OF_ONE: usize = 8;

/// How many columns are summed at a time: their sums stay in the nearest cache.
const COLUMNS: usize = 2048;

/// How many bytes of the right matrix are on their way.
const AHEAD: usize = 8192;

/// Whether a product is one that [`run`] takes: the rows lie along the depth, and those of the right matrix or of its
/// transpose in one piece.
pub(super) fn fits<R>(product: &Product<'_, R>) -> bool {
    let (a, b) = (&product.a, &product.b);
    let in_pieces = b.column_stride == 1 || b.row_stride == 1;
    product.size[0] <= FEW && a.column_stride == 1 && in_pieces
}

/// Runs a product that [`fits`], on `count` threads.
///
/// # Safety
///
/// As of [`Product::run`].
pub(super) unsafe fn run<R: Real>(product: &Product<'_, R>, count: usize) {
    let arch = Arch::new();
    if product.b.column_stride != 1 {
        return Team::run(count, |member| arch.dispatch(Columns { product, member }));
    }
    let [m, _, n] = product.size;
    let mut parts = Parts::new(count, m * n);
    let parts = parts.shared(product.out);
    Team::run(count, |member| {
        arch.dispatch(Depth {
            product,
            parts,
            member,
        });
    });
}

/// A thread reads whole rows of the right matrix, one after the other as they lie in memory; a piece of every row
/// would come a third slower.
struct Depth<'a, 'm, R> {
    product: &'a Product<'a, R>,
    parts: SharedParts<R>,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for Depth<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let [m, k, n] = self.product.size;
        let (member, parts) = (self.member, self.parts);
        // SAFETY: the part is this thread's own, and so is its share of the sum when all have met.
        unsafe {
            let part = parts.of(member.index());
            self.product
                .steps(s, member.share(k), member.index() == 0, part);
            member.wait();
            parts.add_up(member.count(), member.share(m * n));
        }
    }
}

/// A thread reads columns of the right matrix, which lie in one piece.
struct Columns<'a, 'm, R> {
    product: &'a Product<'a, R>,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for Columns<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let [_, _, n] = self.product.size;
        // Parts end where cache lines do, if rows do.
        let line = 64 / size_of::<R>();
        let lines = self.member.share(n.div_ceil(line));
        let own = lines.start * line..n.min(lines.end * line);
        // SAFETY: the columns are this thread's own.
        unsafe { self.product.dots(s, own) };
    }
}

impl<R: Real> Product<'_, R> {
    /// What a sum begins with.
    #[inline(always)]
    fn begin(&self, column: usize) -> R {
        self.bias.map_or(R::ZERO, |bias| bias[column])
    }

    /// What some steps of the depth give to `out` `[m, n]`, of a product with a matrix whose rows lie in one piece; with
    /// the bias if `biased`.
    ///
    /// # Safety
    ///
    /// The steps must be inside of the product, and `out` this thread's own.
    #[inline(always)]
    pub(super) unsafe fn steps<S: Simd>(
        &self,
        s: S,
        steps: Range<usize>,
        biased: bool,
        out: Shared<R>,
    ) {
        let [m, _, n] = self.size;
        for first in (0..n).step_by(COLUMNS) {
            let columns = first..n.min(first + COLUMNS);
            // SAFETY: some of the columns.
            unsafe {
                for row in 0..m {
                    for column in columns.clone() {
                        let begin = if biased { self.begin(column) } else { R::ZERO };
                        *out.at(row * n + column) = begin;
                    }
                }
                match m {
                    1 => self.piece::<S, SIDE_OF_ONE>(s, steps.clone(), columns, out),
                    _ => self.piece::<S, SIDE>(s, steps.clone(), columns, out),
                }
            }
        }
    }

    /// As many columns as are summed at a time, `N` steps side by side.
    ///
    /// # Safety
    ///
    /// As [`steps`](Self::steps).
    #[inline(always)]
    unsafe fn piece<S: Simd, const N: usize>(
        &self,
        s: S,
        steps: Range<usize>,
        columns: Range<usize>,
        out: Shared<R>,
    ) {
        let whole = steps.start + steps.len() / N * N;
        // Steps that will be there when it is their turn.
        let ahead = (AHEAD / size_of::<R>()).div_ceil(columns.len() * N) * N;
        // SAFETY: by the promise.
        unsafe {
            for step in (steps.start..whole).step_by(N) {
                let ahead = if step + ahead < whole { ahead } else { 0 };
                self.side::<S, N>(s, step, ahead, columns.clone(), out);
            }
            for step in whole..steps.end {
                self.side::<S, 1>(s, step, 0, columns.clone(), out);
            }
        }
    }

    /// Adds what `N` steps give to the columns of every row, and asks for those that are `ahead` of them.
    ///
    /// # Safety
    ///
    /// As [`steps`](Self::steps).
    #[inline(always)]
    unsafe fn side<S: Simd, const N: usize>(
        &self,
        s: S,
        step: usize,
        ahead: usize,
        columns: Range<usize>,
        out: Shared<R>,
    ) {
        let from = self.b.data.as_ptr();
        // SAFETY: by the promise.
        unsafe {
            let from = from.add(step * self.b.row_stride);
            match self.size[0] {
                1 => self.rows::<S, 1, N>(s, [0, step], from, ahead, columns, out),
                m => {
                    for (row, count) in tiles::<S>(m) {
                        let (at, columns) = ([row, step], columns.clone());
                        // Rows after the first find them in the cache.
                        let ahead = if row == 0 { ahead } else { 0 };
                        with_rows!(count, M => self.rows::<S, M, N>(s, at, from, ahead, columns, out));
                    }
                }
            }
        }
    }

    /// Adds what `N` steps give to the columns of `M` rows: of the row and step `at`, whose row of the right matrix is
    /// `from`.
    ///
    /// # Safety
    ///
    /// As [`steps`](Self::steps), with rows inside of the product.
    #[inline(always)]
    unsafe fn rows<S: Simd, const M: usize, const N: usize>(
        &self,
        s: S,
        at: [usize; 2],
        from: *const R,
        ahead: usize,
        columns: Range<usize>,
        out: Shared<R>,
    ) {
        let [row, step] = at;
        let (a, stride, n) = (&self.a, self.b.row_stride, self.size[2]);
        let lanes = R::lanes::<S>();
        // SAFETY: by the promise; a register that is cut off by the last column is read and written in part.
        unsafe {
            let mut factors = [[R::splat(s, R::ZERO); N]; M];
            for (i, factors) in factors.iter_mut().enumerate() {
                let x = a.data.as_ptr().add((row + i) * a.row_stride + step);
                for (j, factor) in factors.iter_mut().enumerate() {
                    *factor = R::splat(s, *x.add(j));
                }
            }
            let mut column = columns.start;
            while column < columns.end {
                let count = lanes.min(columns.end - column);
                let whole = count == lanes;
                let mut w = [R::splat(s, R::ZERO); N];
                for (j, w) in w.iter_mut().enumerate() {
                    let from = from.add(j * stride + column);
                    if ahead > 0 {
                        prefetch(from.wrapping_add(ahead * stride));
                    }
                    *w = match whole {
                        true => R::load(s, from),
                        false => R::load_first(s, from, count),
                    };
                }
                for (i, factors) in factors.iter().enumerate() {
                    let out = out.at((row + i) * n + column);
                    let mut sum = match whole {
                        true => R::load(s, out),
                        false => R::load_first(s, out, count),
                    };
                    for (factor, w) in factors.iter().zip(&w) {
                        sum = R::mul_add(s, *factor, *w, sum);
                    }
                    match whole {
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
