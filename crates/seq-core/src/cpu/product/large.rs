//! Products of many rows: panels of the right matrix are packed, each by the thread that is about to
//! use it, and stay in its second cache while the rows pass by.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::panels::{DEPTH, Part, REGISTERS, pack, registers};
use super::{Matrix, Product};
use crate::cpu::tile::{accumulate_in_order, tiles, with_rows};
use crate::cpu::{Arch, Buffer, Member, Real, Simd, Team, WithSimd, prefetch};

/// How many rows one piece of work has at most: few enough that they stay in the second cache or near it, many
/// enough to be worth packing a panel.
const ROWS: usize = 512;

/// How many pieces each thread should find, so that none waits long for another.
const PIECES: usize = 4;

/// Runs a product on `count` threads.
///
/// # Safety
///
/// As of [`Product::run`].
pub(super) unsafe fn run<R: Real>(product: &Product<'_, R>, count: usize) {
    let [m, k, _] = product.size;
    let a = &product.a;
    // The rows are read along the depth.
    let mut lying = match a.column_stride == 1 || k <= 1 {
        true => None,
        // SAFETY: the threads write all of it before they read.
        false => Some(unsafe { Buffer::uninit(m * k) }),
    };
    let lying = lying.as_mut().map(Buffer::shared);
    let taken: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
    let arch = Arch::new();
    Team::run(count, |member| {
        let rows = match lying {
            Some(lying) => {
                // SAFETY: every thread has its own rows of the buffer `[m, k]`.
                unsafe { transpose(a, member.share(m), k, lying.at(0)) };
                member.wait();
                // SAFETY: the threads have written all of it, and write no more.
                Matrix::rows(unsafe { std::slice::from_raw_parts(lying.at(0), m * k) }, k)
            }
            None => *a,
        };
        arch.dispatch(Thread {
            product,
            rows,
            member,
            taken: &taken,
        });
    });
}

/// Copies some rows of a matrix with `columns` columns to the same rows of `out`, where they lie one after the other.
///
/// # Safety
///
/// The rows must be inside the matrix and inside `out`, and nobody else may use those of `out`.
unsafe fn transpose<R: Real>(
    a: &Matrix<'_, R>,
    rows: std::ops::Range<usize>,
    columns: usize,
    out: *mut R,
) {
    const BLOCK: usize = 16;
    for column in (0..columns).step_by(BLOCK) {
        let columns_here = column..columns.min(column + BLOCK);
        for row in rows.clone().step_by(BLOCK) {
            for row in row..rows.end.min(row + BLOCK) {
                for column in columns_here.clone() {
                    // SAFETY: the caller's promise.
                    unsafe {
                        let from = a.data.as_ptr();
                        *out.add(row * columns + column) =
                            *from.add(row * a.row_stride + column * a.column_stride);
                    }
                }
            }
        }
    }
}

struct Thread<'a, 'm, R> {
    product: &'a Product<'a, R>,
    /// The left matrix, rows along the depth.
    rows: Matrix<'a, R>,
    member: &'a Member<'m>,
    /// How many pieces of each thread's share are begun.
    taken: &'a [AtomicUsize],
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let [m, k, n] = self.product.size;
        let lanes = R::lanes::<S>();
        let width = REGISTERS * lanes;
        let panels = n.div_ceil(width);
        let wanted = (PIECES * self.member.count()).div_ceil(panels);
        let blocks = wanted.min(m.div_ceil(ROWS / 8)).max(m.div_ceil(ROWS));
        let room = match self.product.panels {
            Some(_) => 0,
            None => width * k.clamp(1, DEPTH),
        };
        // SAFETY: `pack` writes what is read.
        let mut panel = unsafe { Buffer::uninit(room) };
        // What the panel holds: which columns and which depth.
        let mut packed = None;
        for piece in self.pieces(blocks * panels) {
            let (block, column) = (piece / panels, piece % panels * width);
            let rows = block * m / blocks..(block + 1) * m / blocks;
            let columns = width.min(n - column);
            let registers = registers(columns, lanes);
            // Without a depth there is still a bias.
            for first in (0..k.max(1)).step_by(DEPTH) {
                let part = Part {
                    column,
                    columns,
                    first,
                    depth: DEPTH.min(k - first),
                };
                let panel = match self.product.panels {
                    Some(panels) => panels.panel(column, first, registers * lanes),
                    None => {
                        let panel = panel.as_mut_slice();
                        if packed != Some((column, first)) {
                            // SAFETY: inside of the matrix, and the panel holds it.
                            unsafe { pack(&self.product.b, part, registers * lanes, panel) };
                            packed = Some((column, first));
                        }
                        &*panel
                    }
                };
                let rows = rows.clone();
                let piece = Piece { rows, part };
                // SAFETY: the piece is inside of the product and this thread's own; the panel holds it.
                unsafe {
                    match registers {
                        1 => self.multiply::<S, 1>(s, &piece, panel),
                        2 => self.multiply::<S, 2>(s, &piece, panel),
                        _ => self.multiply::<S, REGISTERS>(s, &piece, panel),
                    }
                }
            }
        }
    }
}

/// Some rows of the output, and what they are multiplied by.
struct Piece {
    rows: std::ops::Range<usize>,
    part: Part,
}

impl<R: Real> Thread<'_, '_, R> {
    /// The pieces of work of this thread: those of its share, whose rows its cache may hold, then those that the
    /// others have not come to.
    #[inline(always)]
    fn pieces(&self, count: usize) -> impl Iterator<Item = usize> {
        let (index, threads) = (self.member.index(), self.taken.len());
        (0..threads).flat_map(move |i| {
            let owner = (index + i) % threads;
            let [first, end] = [owner, owner + 1].map(|owner| owner * count / threads);
            let taken = &self.taken[owner];
            let next = move || Some(first + taken.fetch_add(1, Ordering::Relaxed));
            std::iter::from_fn(move || next().filter(|piece| *piece < end))
        })
    }

    /// Multiplies the rows of a piece with a panel of `V` registers a step.
    ///
    /// # Safety
    ///
    /// The piece must be inside of the product and this thread's own, and the panel hold it.
    #[inline(always)]
    unsafe fn multiply<S: Simd, const V: usize>(&self, s: S, piece: &Piece, panel: &[R]) {
        for (row, count) in tiles::<S>(piece.rows.len()) {
            let row = piece.rows.start + row;
            // The rows that come next lie apart: each has to be asked for, which is then followed.
            for next in row + count..row + 2 * count {
                let at = next * self.rows.row_stride + piece.part.first;
                prefetch(self.rows.data.as_ptr().wrapping_add(at));
            }
            // SAFETY: the caller's promise.
            with_rows!(count, M => unsafe { self.tile::<S, M, V>(s, piece, row, panel) });
        }
    }

    /// # Safety
    ///
    /// As [`multiply`](Self::multiply), `M` rows from `row` on being inside of the piece.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize, const V: usize>(
        &self,
        s: S,
        piece: &Piece,
        row: usize,
        panel: &[R],
    ) {
        let lanes = R::lanes::<S>();
        let (product, rows) = (self.product, &self.rows);
        // SAFETY: by the promise; a register that is cut off by the last column is read and written in part.
        unsafe {
            let from: [*const R; M] = std::array::from_fn(|i| {
                rows.data
                    .as_ptr()
                    .add((row + i) * rows.row_stride + piece.part.first)
            });
            let out: [*mut R; M] = std::array::from_fn(|i| {
                product
                    .out
                    .at((row + i) * product.size[2] + piece.part.column)
            });
            let count = |v: usize| lanes.min(piece.part.columns.saturating_sub(v * lanes));
            let zero = R::splat(s, R::ZERO);
            let mut acc = [[[zero; V]; 1]; M];
            let whole = piece.part.columns == V * lanes;
            if piece.part.first > 0 {
                for (acc, out) in acc.iter_mut().zip(out) {
                    for (v, acc) in acc[0].iter_mut().enumerate() {
                        let p = out.add(v * lanes);
                        *acc = match whole {
                            true => R::load(s, p),
                            false if count(v) > 0 => R::load_first(s, p, count(v)),
                            false => zero,
                        };
                    }
                }
            } else if let Some(bias) = product.bias {
                for v in 0..V {
                    if count(v) > 0 {
                        let p = bias.as_ptr().add(piece.part.column + v * lanes);
                        let bias = R::load_first(s, p, count(v));
                        acc.iter_mut().for_each(|acc| acc[0][v] = bias);
                    }
                }
            }
            // So that a row does not depend on how many there are.
            accumulate_in_order(s, piece.part.depth, from, [panel.as_ptr()], &mut acc);
            for (acc, out) in acc.iter().zip(out) {
                for (v, acc) in acc[0].iter().enumerate() {
                    let p = out.add(v * lanes);
                    match whole {
                        true => R::store(s, p, *acc),
                        false if count(v) > 0 => R::store_first(s, p, count(v), *acc),
                        false => (),
                    }
                }
            }
        }
    }
}
