mod few;
mod large;
mod panels;

pub use panels::Panels;

use std::ops::Range;

use super::{Real, Shared, Simd, Team, reserve, threads};

/// Below this many multiplications a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 17;

/// A matrix somewhere in memory: the address of its first element and the distances between
/// neighbours in a column and in a row.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a, R> {
    /// The memory, from the first element on.
    pub data: &'a [R],
    /// From one row to the next.
    pub row_stride: usize,
    /// From one column to the next.
    pub column_stride: usize,
}

impl<'a, R> Matrix<'a, R> {
    /// Rows one after the other, `row_stride` apart.
    pub fn rows(data: &'a [R], row_stride: usize) -> Self {
        Self {
            data,
            row_stride,
            column_stride: 1,
        }
    }

    /// The same memory with rows and columns exchanged.
    pub fn transposed(self) -> Self {
        Self {
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }

    fn holds(&self, rows: usize, columns: usize) -> bool {
        let last = |n: usize, stride: usize| n.saturating_sub(1) * stride;
        rows == 0
            || columns == 0
            || last(rows, self.row_stride) + last(columns, self.column_stride) < self.data.len()
    }
}

/// `out = a b`, or `out += a b` with `add`: `[m, k]` times `[k, n]`, on all [`threads`] of the [`Team`].
/// The rows of `out` are `out_stride` apart. For matrices of every size, small ones above all.
///
/// # Panics
///
/// When a matrix reaches beyond its memory.
pub fn product<R: Real>(
    [m, k, n]: [usize; 3],
    a: Matrix<'_, R>,
    b: Matrix<'_, R>,
    out: &mut [R],
    out_stride: usize,
    add: bool,
) {
    assert!(
        Matrix::rows(&*out, out_stride).holds(m, n) && a.holds(m, k) && b.holds(k, n),
        "a product [{m}, {k}] x [{k}, {n}] reaches beyond its memory"
    );
    let out = Shared::new(out.as_mut_ptr());
    let strides =
        |matrix: &Matrix<'_, R>| (matrix.column_stride as isize, matrix.row_stride as isize);
    let ((a_columns, a_rows), (b_columns, b_rows)) = (strides(&a), strides(&b));
    Team::run(count([m, k, n]), |member| {
        // The longer side is cut, so that less is packed twice.
        let (rows, columns) = match m >= n {
            true => (member.share(m), 0..n),
            false => (0..m, member.share(n)),
        };
        if rows.is_empty() || columns.is_empty() {
            return;
        }
        // SAFETY: the three matrices are inside their memory, and every member writes its own part of
        // `out`.
        unsafe {
            gemm::gemm(
                rows.len(),
                columns.len(),
                k,
                out.at(rows.start * out_stride + columns.start),
                1,
                out_stride as isize,
                add,
                a.data.as_ptr().add(rows.start * a.row_stride),
                a_columns,
                a_rows,
                b.data.as_ptr().add(columns.start * b.column_stride),
                b_columns,
                b_rows,
                R::ONE,
                R::ONE,
                false,
                false,
                false,
                gemm::Parallelism::None,
            );
        }
    });
}

/// `a b`, and the bias `[n]` added to every row, as a new vector `[m, n]`; for the large matrices of linear
/// maps, and for few rows.
///
/// # Panics
///
/// When a matrix reaches beyond its memory, or the bias has not `n` elements.
pub fn product_of<R: Real>(
    size: [usize; 3],
    a: Matrix<'_, R>,
    b: Matrix<'_, R>,
    bias: Option<&[R]>,
) -> Vec<R> {
    new_product(size, a, b, None, bias)
}

/// As [`product_of`], of whose right matrix [`Panels`] are at hand.
///
/// # Panics
///
/// As [`product_of`], or when the panels are of a matrix of another size.
pub fn product_with<R: Real>(
    size: [usize; 3],
    a: Matrix<'_, R>,
    b: Matrix<'_, R>,
    panels: &Panels<R>,
    bias: Option<&[R]>,
) -> Vec<R> {
    new_product(size, a, b, Some(panels), bias)
}

fn new_product<R: Real>(
    size: [usize; 3],
    a: Matrix<'_, R>,
    b: Matrix<'_, R>,
    panels: Option<&Panels<R>>,
    bias: Option<&[R]>,
) -> Vec<R> {
    let [m, k, n] = size;
    if let Some(panels) = panels {
        let found = panels.size;
        assert_eq!(
            found,
            [k, n],
            "the panels are of {found:?}, the matrix is [{k}, {n}]"
        );
    }
    if let Some(bias) = bias {
        assert_eq!(bias.len(), n, "the elements of a bias");
    }
    let mut out = reserve(m * n);
    let product = Product {
        size,
        a,
        b,
        panels,
        bias,
        out: Shared::new(out.as_mut_ptr()),
    };
    // SAFETY: there is room for `[m, n]`, all of which the product writes.
    unsafe {
        product.run();
        out.set_len(m * n);
    }
    out
}

/// What some steps of the depth of `a b` add up to, with the bias if there is one, on the calling thread: `[m, k]`
/// times `[k, n]` to `out` `[m, n]`, for kernels that have products among other things, whose threads share the depth
/// and add their [`Parts`](super::Parts) up. Every element of the matrix `b` is read once for all of the few rows of
/// `a`; the rows of both lie in one piece.
///
/// # Safety
///
/// The matrices must be inside their memory and have neighbouring columns, the steps be inside of the product, the bias
/// have `n` elements, and `out` be writable, where nobody else may use it.
#[inline(always)]
pub unsafe fn product_steps<R: Real, S: Simd>(
    s: S,
    size: [usize; 3],
    [a, b]: [Matrix<'_, R>; 2],
    bias: Option<&[R]>,
    steps: Range<usize>,
    out: Shared<R>,
) {
    let product = Product {
        size,
        a,
        b,
        panels: None,
        bias,
        out,
    };
    // SAFETY: the caller's promise.
    unsafe { product.steps(s, steps, true, out) };
}

/// How many threads share a product.
fn count([m, k, n]: [usize; 3]) -> usize {
    match m * k * n < WORTH_SHARING {
        true => 1,
        false => threads(),
    }
}

/// A product into new memory.
struct Product<'a, R> {
    /// `[m, k, n]`
    size: [usize; 3],
    a: Matrix<'a, R>,
    b: Matrix<'a, R>,
    /// Of `b`, where they are at hand.
    panels: Option<&'a Panels<R>>,
    bias: Option<&'a [R]>,
    /// `[m, n]`
    out: Shared<R>,
}

impl<R: Real> Product<'_, R> {
    /// Computes it; `out` need not be initialised.
    ///
    /// # Safety
    ///
    /// `out` must be writable for `[m, n]`, and nobody else may use it.
    unsafe fn run(&self) {
        let [m, k, n] = self.size;
        assert!(
            self.a.holds(m, k) && self.b.holds(k, n),
            "a product [{m}, {k}] x [{k}, {n}] reaches beyond its memory"
        );
        if m == 0 || n == 0 {
            return;
        }
        let count = count(self.size);
        // SAFETY: the matrices are inside their memory, and `out` by the caller's promise.
        unsafe {
            match few::fits(self) {
                true => few::run(self, count),
                false => large::run(self, count),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Small integers, whose sums are exact.
    fn integers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|i| ((i * step) % 7) as f32 - 3.0).collect()
    }

    /// Compares with three loops; `transposed` are `a` and `b`, `gap` elements lie between rows of `out`.
    fn check([m, k, n]: [usize; 3], transposed: [bool; 2], gap: usize, add: bool) {
        let (a, b) = (integers(m * k, 5), integers(k * n, 3));
        let matrix = |data, rows, columns, transposed| match transposed {
            true => Matrix::rows(data, rows).transposed(),
            false => Matrix::rows(data, columns),
        };
        let (a, b) = (
            matrix(&a, m, k, transposed[0]),
            matrix(&b, k, n, transposed[1]),
        );
        let begin = integers(m * (n + gap), 2);
        let mut out = begin.clone();
        product([m, k, n], a, b, &mut out, n + gap, add);
        let bias = integers(n, 4);
        let new = product_of([m, k, n], a, b, None);
        let biased = product_of([m, k, n], a, b, Some(&bias));
        let panels = Panels::new(b, [k, n]);
        assert_eq!(product_with([m, k, n], a, b, &panels, Some(&bias)), biased);

        let at = |x: &Matrix<'_, f32>, row: usize, column: usize| {
            x.data[row * x.row_stride + column * x.column_stride]
        };
        for (index, (&found, &before)) in out.iter().zip(&begin).enumerate() {
            let (row, column) = (index / (n + gap), index % (n + gap));
            let expected = match column < n {
                true => {
                    let sum: f32 = (0..k).map(|i| at(&a, row, i) * at(&b, i, column)).sum();
                    if add { before + sum } else { sum }
                }
                false => before,
            };
            assert_eq!(found, expected, "row {row}, column {column}");
            if column < n && !add {
                let new = [new[row * n + column], biased[row * n + column]];
                assert_eq!(
                    new,
                    [expected, expected + bias[column]],
                    "a new one, row {row}, column {column}"
                );
            }
        }
    }

    #[test]
    fn products_are_those_of_three_loops() {
        // Empty ones, odd ones, and some that several threads share; of few rows, of more than a tile or a
        // piece has, and deeper than a panel is.
        let sizes = [
            [0, 3, 2],
            [3, 0, 2],
            [20, 0, 70],
            [1, 1, 1],
            [5, 7, 3],
            [8, 21, 2100],
            [9, 21, 17],
            [70, 65, 33],
            [33, 65, 70],
            [1, 400, 401],
            [401, 400, 1],
            [14, 1030, 131],
            [530, 9, 150],
            [7, 203, 130],
        ];
        for size in sizes {
            for transposed in [[false, false], [true, false], [false, true], [true, true]] {
                for (gap, add) in [(0, false), (0, true), (5, false), (5, true)] {
                    check(size, transposed, gap, add);
                }
            }
        }
    }

    /// All that is left of a tile's rows and registers.
    #[test]
    fn products_of_every_remainder() {
        for m in 1..15 {
            for n in (1..70).step_by(3) {
                check([m, 5, n], [false, m % 2 == 0], 0, false);
            }
        }
    }
}
