use super::{Real, threads};

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

/// `out = a b`, or `out += a b` with `add`: `[m, k]` times `[k, n]`, on all [`threads`]. The rows of
/// `out` are `out_stride` apart.
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
        a.holds(m, k) && b.holds(k, n) && Matrix::rows(&*out, out_stride).holds(m, n),
        "a product [{m}, {k}] x [{k}, {n}] reaches beyond its memory"
    );
    let parallelism = match threads() {
        1 => gemm::Parallelism::None,
        threads => gemm::Parallelism::Rayon(threads),
    };
    let strides =
        |matrix: &Matrix<'_, R>| (matrix.column_stride as isize, matrix.row_stride as isize);
    let ((a_columns, a_rows), (b_columns, b_rows)) = (strides(&a), strides(&b));
    // SAFETY: the three matrices are inside their slices, and `out` is borrowed alone.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            out.as_mut_ptr(),
            1,
            out_stride as isize,
            add,
            a.data.as_ptr(),
            a_columns,
            a_rows,
            b.data.as_ptr(),
            b_columns,
            b_rows,
            R::ONE,
            R::ONE,
            false,
            false,
            false,
            parallelism,
        );
    }
}
