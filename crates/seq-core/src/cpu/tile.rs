//! Products with packed weights: the inner loop of the recurrent layers.

use super::{Real, Simd};

/// `acc[m][n][v] += sum_k rows[m][k] * panels[n][k][v]`, `depth` steps of `k`; each panel holds `V`
/// registers a step, one step after the other.
///
/// # Safety
///
/// Every row must be readable for `depth` elements, each panel for `depth * V` registers.
#[inline(always)]
pub unsafe fn accumulate<R: Real, S: Simd, const M: usize, const N: usize, const V: usize>(
    s: S,
    depth: usize,
    rows: [*const R; M],
    panels: [*const R; N],
    acc: &mut [[[R::V<S>; V]; N]; M],
) {
    // A sum takes four cycles until the next can be added to it, and two can begin in each: with few
    // registers in `acc` several sums are kept for each.
    // SAFETY: the caller's promise is that of `chains`.
    unsafe {
        match M * N * V {
            0..=1 => chains::<R, S, M, N, V, 8>(s, depth, rows, panels, acc),
            2..=3 => chains::<R, S, M, N, V, 4>(s, depth, rows, panels, acc),
            4..=7 => chains::<R, S, M, N, V, 2>(s, depth, rows, panels, acc),
            _ => chains::<R, S, M, N, V, 1>(s, depth, rows, panels, acc),
        }
    }
}

/// As [`accumulate`], each sum in the order of the steps: the same whatever the size of the tile.
///
/// # Safety
///
/// As [`accumulate`].
#[inline(always)]
pub unsafe fn accumulate_in_order<
    R: Real,
    S: Simd,
    const M: usize,
    const N: usize,
    const V: usize,
>(
    s: S,
    depth: usize,
    rows: [*const R; M],
    panels: [*const R; N],
    acc: &mut [[[R::V<S>; V]; N]; M],
) {
    // SAFETY: the caller's promise is that of `chains`.
    unsafe { chains::<R, S, M, N, V, 1>(s, depth, rows, panels, acc) }
}

#[inline(always)]
unsafe fn chains<
    R: Real,
    S: Simd,
    const M: usize,
    const N: usize,
    const V: usize,
    const C: usize,
>(
    s: S,
    depth: usize,
    rows: [*const R; M],
    panels: [*const R; N],
    acc: &mut [[[R::V<S>; V]; N]; M],
) {
    let lanes = R::lanes::<S>();
    let mut sums = [[[[R::splat(s, R::ZERO); V]; N]; M]; C];
    sums[0] = *acc;
    let whole = depth / C * C;
    let mut k = 0;
    // SAFETY: `k` stays below `depth`, up to which rows and panels are readable.
    unsafe {
        while k < whole {
            for (c, sums) in sums.iter_mut().enumerate() {
                step(
                    s,
                    k + c,
                    rows,
                    panels.map(|panel| panel.add((k + c) * V * lanes)),
                    sums,
                );
            }
            k += C;
        }
        while k < depth {
            step(
                s,
                k,
                rows,
                panels.map(|panel| panel.add(k * V * lanes)),
                &mut sums[0],
            );
            k += 1;
        }
    }
    for m in 0..M {
        for n in 0..N {
            for v in 0..V {
                let mut sum = sums[0][m][n][v];
                for other in &sums[1..] {
                    sum = R::vadd(s, sum, other[m][n][v]);
                }
                acc[m][n][v] = sum;
            }
        }
    }
}

/// What the rows' elements `k` times the registers at `weights` give.
#[inline(always)]
unsafe fn step<R: Real, S: Simd, const M: usize, const N: usize, const V: usize>(
    s: S,
    k: usize,
    rows: [*const R; M],
    weights: [*const R; N],
    acc: &mut [[[R::V<S>; V]; N]; M],
) {
    let lanes = R::lanes::<S>();
    // SAFETY: readable by the promise to `accumulate`.
    unsafe {
        // Of the two sides the one with fewer values stays in registers, or the sums would not.
        if M <= N * V {
            let x = rows.map(|row| R::splat(s, *row.add(k)));
            for (n, weights) in weights.into_iter().enumerate() {
                for v in 0..V {
                    let w = R::load(s, weights.add(v * lanes));
                    for (x, acc) in x.iter().zip(&mut *acc) {
                        acc[n][v] = R::mul_add(s, *x, w, acc[n][v]);
                    }
                }
            }
            return;
        }
        let mut w = [[R::splat(s, R::ZERO); V]; N];
        for (w, weights) in w.iter_mut().zip(weights) {
            for (v, w) in w.iter_mut().enumerate() {
                *w = R::load(s, weights.add(v * lanes));
            }
        }
        for (row, acc) in rows.iter().zip(acc) {
            let x = R::splat(s, *row.add(k));
            for (w, acc) in w.iter().zip(acc) {
                for (w, acc) in w.iter().zip(acc) {
                    *acc = R::mul_add(s, x, *w, *acc);
                }
            }
        }
    }
}

/// The left side of [`multiply`]: element `(m, k)` lies at `data + m * row_stride + k * step`.
#[derive(Clone, Copy)]
pub struct Left<R> {
    /// The first element.
    pub data: *const R,
    /// From one row to the next.
    pub row_stride: usize,
    /// From one element of a row to the next.
    pub step: usize,
}

/// The right side and the outcome of [`multiply`]: rows of whole registers, `stride` apart.
#[derive(Clone, Copy)]
pub struct Rows<P> {
    /// The first element.
    pub data: P,
    /// From one row to the next.
    pub stride: usize,
}

/// `out = left right`, or `out += left right` with `add`: `rows` times `depth`, and `registers` registers of columns
/// that lie next to one another. In tiles whose sums stay in registers.
///
/// # Safety
///
/// `left` must be readable for all its elements, `right` for `depth` rows and `out` writable for `rows` rows of
/// `registers` registers; with `add` they must be initialised.
#[inline(always)]
pub unsafe fn multiply<R: Real, S: Simd>(
    s: S,
    [rows, depth, registers]: [usize; 3],
    left: Left<R>,
    right: Rows<*const R>,
    out: Rows<*mut R>,
    add: bool,
) {
    for (first_row, count) in tiles::<S>(rows) {
        with_panels!(0..registers, max_panels(1), first, N => {
            with_rows!(count, M => {
                // SAFETY: the tile is a part of what the caller promises.
                unsafe {
                    let at = |lanes: usize| (first_row, first * lanes);
                    part::<R, S, M, N>(s, depth, at(R::lanes::<S>()), left, right, out, add)
                }
            })
        });
    }
}

/// `M` rows and `N` registers of [`multiply`].
#[inline(always)]
unsafe fn part<R: Real, S: Simd, const M: usize, const N: usize>(
    s: S,
    depth: usize,
    (row, column): (usize, usize),
    left: Left<R>,
    right: Rows<*const R>,
    out: Rows<*mut R>,
    add: bool,
) {
    let lanes = R::lanes::<S>();
    // SAFETY: inside what the caller promises for these rows and columns.
    unsafe {
        let out: [*mut R; M] =
            std::array::from_fn(|m| out.data.add((row + m) * out.stride + column));
        let mut acc = [[[R::splat(s, R::ZERO); N]; 1]; M];
        if add {
            for (acc, out) in acc.iter_mut().zip(out) {
                for (n, acc) in acc[0].iter_mut().enumerate() {
                    *acc = R::load(s, out.add(n * lanes));
                }
            }
        }
        let rows: [*const R; M] =
            std::array::from_fn(|m| left.data.add((row + m) * left.row_stride));
        let right_column = right.data.add(column);
        for k in 0..depth {
            let weights = [right_column.add(k * right.stride)];
            step(s, k * left.step, rows, weights, &mut acc);
        }
        for (acc, out) in acc.iter().zip(out) {
            for (n, &acc) in acc[0].iter().enumerate() {
                R::store(s, out.add(n * lanes), acc);
            }
        }
    }
}

/// How many panels of `registers` registers a step a tile should take at once. For one alone every product
/// takes a row's value out of memory, and there are fewer loads than products in a cycle.
#[inline(always)]
pub fn max_panels(registers: usize) -> usize {
    match registers {
        1 => 4,
        _ => 1,
    }
}

/// How many rows a tile takes at most, so that its sums stay in registers.
#[inline(always)]
pub fn max_rows<S: Simd>() -> usize {
    if S::REGISTER_COUNT >= 32 { 6 } else { 3 }
}

/// Cuts `rows` into tiles of nearly equal size, none over [`max_rows`]: the first row and the number
/// of rows of each.
#[inline(always)]
pub fn tiles<S: Simd>(rows: usize) -> impl Iterator<Item = (usize, usize)> {
    let count = rows.div_ceil(max_rows::<S>());
    (0..count).map(move |i| {
        let first = i * rows / count;
        (first, (i + 1) * rows / count - first)
    })
}

/// Runs `$body` with the constant `$M` equal to `$rows`, from 1 to 6.
macro_rules! with_rows {
    ($rows:expr, $M:ident => $body:expr) => {
        match $rows {
            1 => {
                const $M: usize = 1;
                $body
            }
            2 => {
                const $M: usize = 2;
                $body
            }
            3 => {
                const $M: usize = 3;
                $body
            }
            4 => {
                const $M: usize = 4;
                $body
            }
            5 => {
                const $M: usize = 5;
                $body
            }
            6 => {
                const $M: usize = 6;
                $body
            }
            rows => unreachable!("a tile of {rows} rows"),
        }
    };
}

/// Runs `$body` for some of `$blocks` at a time, `$first` on: `$N`, a constant, 4, 2 or 1 of them, and
/// `$most` at most.
macro_rules! with_panels {
    ($blocks:expr, $most:expr, $first:ident, $N:ident => $body:expr) => {{
        let (blocks, most) = ($blocks, $most);
        let mut $first = blocks.start;
        while $first < blocks.end {
            match most.min(blocks.end - $first) {
                4.. => {
                    const $N: usize = 4;
                    $body;
                    $first += $N;
                }
                2..4 => {
                    const $N: usize = 2;
                    $body;
                    $first += $N;
                }
                _ => {
                    const $N: usize = 1;
                    $body;
                    $first += $N;
                }
            }
        }
    }};
}

pub(crate) use {with_panels, with_rows};
