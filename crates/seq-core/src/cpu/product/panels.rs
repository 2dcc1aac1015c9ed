//! The right matrix of a product in the order in which it is read.

use super::Matrix;
use crate::cpu::{Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, threads};

/// How many registers of columns a panel holds a step.
pub(super) const REGISTERS: usize = 4;

/// The depth of a panel: with 64 columns of `f32` it takes an eighth of a megabyte.
pub(super) const DEPTH: usize = 512;

/// Bytes of the widest registers.
const WIDEST: usize = 64;

/// A matrix in the order in which [`product_with`](super::product_with) reads it: for one that many products have to
/// their right, as the weights of a linear map, which without them each product packs anew. It takes as much memory
/// as the matrix again.
///
/// ```
/// use seq_core::cpu::{Matrix, Panels, product_of, product_with};
///
/// let (a, b) = (vec![1.0_f32; 20 * 3], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
/// let (a, b) = (Matrix::rows(&a, 3), Matrix::rows(&b, 2));
/// let panels = Panels::new(b, [3, 2]);
/// let y = product_with([20, 3, 2], a, b, &panels, None);
/// assert_eq!(y, product_of([20, 3, 2], a, b, None));
/// ```
pub struct Panels<R> {
    /// Panel by panel, each part of the depth after the other: `[depth, width]`.
    elements: Buffer<R>,
    /// `[k, n]`
    pub(super) size: [usize; 2],
}

impl<R: Real> Panels<R> {
    /// Packs a matrix `[k, n]`.
    ///
    /// # Panics
    ///
    /// When the matrix reaches beyond its memory.
    pub fn new(b: Matrix<'_, R>, size: [usize; 2]) -> Self {
        let [k, n] = size;
        assert!(
            b.holds(k, n),
            "a matrix [{k}, {n}] reaches beyond its memory"
        );
        // The last panel is as wide as the widest registers make it, or less.
        let width = REGISTERS * WIDEST / size_of::<R>();
        let mut elements = Buffer::zeroed(k * n.next_multiple_of(width));
        let arch = Arch::new();
        let out = elements.shared();
        let b = &b;
        Team::run(threads(), |member| {
            arch.dispatch(Packer {
                b,
                size,
                out,
                member,
            });
        });
        Self { elements, size }
    }

    /// The panel of `width` columns from `column` on, from the row `first` on.
    #[inline(always)]
    pub(super) fn panel(&self, column: usize, first: usize, width: usize) -> &[R] {
        let [k, _] = self.size;
        let depth = DEPTH.min(k - first);
        &self.elements.as_slice()[k * column + first * width..][..depth * width]
    }
}

/// How many registers a panel of so many columns takes: a tile is 1, 2 or 4 wide.
#[inline(always)]
pub(super) fn registers(columns: usize, lanes: usize) -> usize {
    match columns.div_ceil(lanes) {
        3 => REGISTERS,
        registers => registers,
    }
}

/// One thread that packs some panels.
struct Packer<'a, 'm, R> {
    b: &'a Matrix<'a, R>,
    size: [usize; 2],
    out: Shared<R>,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for Packer<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let ([k, n], lanes) = (self.size, R::lanes::<S>());
        let width = REGISTERS * lanes;
        for column in self.member.share(n.div_ceil(width)).map(|i| i * width) {
            let columns = width.min(n - column);
            let here = registers(columns, lanes) * lanes;
            for first in (0..k).step_by(DEPTH) {
                let depth = DEPTH.min(k - first);
                let part = Part {
                    column,
                    columns,
                    first,
                    depth,
                };
                // SAFETY: the panel is this thread's own and inside of the buffer, the part inside of the matrix.
                unsafe {
                    let panel = self.out.at(k * column + first * here);
                    let panel = std::slice::from_raw_parts_mut(panel, depth * here);
                    pack(self.b, part, here, panel);
                }
            }
        }
    }
}

/// Some columns of a matrix, and a part of its depth.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub column: usize,
    pub columns: usize,
    pub first: usize,
    pub depth: usize,
}

/// Copies a part of a matrix, `width` columns of each row one after the other, those beyond the matrix zeros.
///
/// # Safety
///
/// The part must be inside of the matrix, and `panel` hold `depth * width` elements.
#[inline(always)]
pub(super) unsafe fn pack<R: Real>(b: &Matrix<'_, R>, part: Part, width: usize, panel: &mut [R]) {
    let Part {
        column,
        columns,
        first,
        depth,
    } = part;
    let panel = &mut panel[..depth * width];
    // SAFETY: inside of the matrix and the panel.
    unsafe {
        let from = b
            .data
            .as_ptr()
            .add(first * b.row_stride + column * b.column_stride);
        if b.column_stride == 1 {
            for (i, out) in panel.chunks_exact_mut(width).enumerate() {
                let row = std::slice::from_raw_parts(from.add(i * b.row_stride), columns);
                out[..columns].copy_from_slice(row);
                out[columns..].fill(R::ZERO);
            }
            return;
        }
        // A cache line of each column at a time.
        const BLOCK: usize = 16;
        for block in (0..depth).step_by(BLOCK) {
            let steps = BLOCK.min(depth - block);
            for j in 0..columns {
                let from = from.add(block * b.row_stride + j * b.column_stride);
                let out = panel.as_mut_ptr().add(block * width + j);
                for i in 0..steps {
                    *out.add(i * width) = *from.add(i * b.row_stride);
                }
            }
            for out in panel[block * width..(block + steps) * width].chunks_exact_mut(width) {
                out[columns..].fill(R::ZERO);
            }
        }
    }
}
