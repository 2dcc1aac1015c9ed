//! The weights of a layer, as the step of a stream reads them.

use std::ops::Range;

use seq_core::cpu::{Real, Simd};

/// From this batch on, products of whole matrices are faster than the kernel of a step, which reads all
/// weights for every row.
pub(crate) const ROWS: usize = 4;

/// Below this many weights a second thread costs more than it saves.
pub(crate) const WORTH_SHARING: usize = 1 << 15;

/// How many registers of sums a product has at once.
const PANEL: usize = 8;

/// A matrix whose rows lie one after the other.
pub(crate) struct Weight<'a, R> {
    values: &'a [R],
    columns: usize,
}

impl<'a, R: Real> Weight<'a, R> {
    pub fn new(values: &'a [R], columns: usize) -> Self {
        Self { values, columns }
    }

    /// `out[i] = bias[column] + sum of x[row] * weight[row, column]` over some rows, for column `i` of some.
    ///
    /// # Safety
    ///
    /// The rows and columns must be inside, `x` readable for these rows and `out` writable for as many
    /// elements as there are columns.
    #[inline(always)]
    pub unsafe fn multiply<S: Simd>(
        &self,
        s: S,
        x: *const R,
        rows: Range<usize>,
        columns: Range<usize>,
        bias: Option<&[R]>,
        out: *mut R,
    ) {
        let lanes = R::lanes::<S>();
        let mut first = columns.start;
        // SAFETY: by the caller's promise, and a matrix has the elements that its width says.
        unsafe {
            while first + PANEL * lanes <= columns.end {
                let mut sums = [R::splat(s, R::ZERO); PANEL];
                for row in rows.clone() {
                    let factor = R::splat(s, *x.add(row));
                    let weights = self.values.as_ptr().add(row * self.columns + first);
                    for (i, sum) in sums.iter_mut().enumerate() {
                        let weight = R::load(s, weights.add(i * lanes));
                        *sum = R::mul_add(s, factor, weight, *sum);
                    }
                }
                for (i, &sum) in sums.iter().enumerate() {
                    let column = first + i * lanes;
                    let sum = match bias {
                        Some(bias) => R::vadd(s, sum, R::load(s, bias.as_ptr().add(column))),
                        None => sum,
                    };
                    R::store(s, out.add(column - columns.start), sum);
                }
                first += PANEL * lanes;
            }
            while first < columns.end {
                let count = lanes.min(columns.end - first);
                // Two sums, as each waits for its last addition.
                let mut sums = [R::splat(s, R::ZERO); 2];
                for row in rows.clone() {
                    let factor = R::splat(s, *x.add(row));
                    let weights = self.values.as_ptr().add(row * self.columns + first);
                    let weight = R::load_first(s, weights, count);
                    sums[row % 2] = R::mul_add(s, factor, weight, sums[row % 2]);
                }
                let mut sum = R::vadd(s, sums[0], sums[1]);
                if let Some(bias) = bias {
                    let bias = R::load_first(s, bias.as_ptr().add(first), count);
                    sum = R::vadd(s, sum, bias);
                }
                R::store_first(s, out.add(first - columns.start), count, sum);
                first += count;
            }
        }
    }
}
