use std::ops::Range;

use crate::cpu::{Arch, Member, Real, Shared, Simd, Team, WithSimd, threads};

/// Steps of a chunk: it is done for all columns of a thread before the next, so that what lies side by
/// side in memory is read together.
const CHUNK: usize = 64;

/// Below this many elements a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 15;

/// A scan of numbers in `P` planes without its input, all row-major.
pub(in crate::scan) struct Problem<'a, R, const P: usize> {
    pub batch: usize,
    pub time: usize,
    pub width: usize,
    /// `[batch, time, width]`, or `[width]` if it is constant.
    pub decay: [&'a [R]; P],
    pub varying: bool,
    pub lengths: Option<&'a [usize]>,
    pub resets: Option<&'a [Vec<bool>]>,
}

impl<R: Real, const P: usize> Problem<'_, R, P> {
    /// How many elements a plane of the input has.
    pub fn elements(&self) -> usize {
        self.batch * self.time * self.width
    }

    /// How many threads it is worth.
    pub fn threads(&self) -> usize {
        match P * self.elements() < WORTH_SHARING {
            true => 1,
            false => threads(),
        }
    }

    /// Walks on the threads of the team.
    pub(super) fn walk(&self, walk: &impl Walk<R>) {
        let arch = Arch::new();
        Team::run(self.threads(), |member| {
            arch.dispatch(Thread {
                problem: self,
                walk,
                member,
            });
        });
    }
}

/// What a pass does.
pub(super) trait Walk<R: Real>: Sync {
    /// Whether time runs backwards.
    const BACKWARDS: bool;

    /// Walks with `N` registers of columns through a few steps.
    ///
    /// # Safety
    ///
    /// The tile must be inside the problem, and no other thread may have its columns in its row.
    unsafe fn tile<S: Simd, const N: usize>(&self, s: S, tile: Tile);

    /// The tensors `[batch, time, width]` whose padding is to be zeros.
    fn padded(&self) -> impl Iterator<Item = Shared<R>>;
}

/// Some columns of one row during a few steps.
pub(super) struct Tile {
    /// The thread whose own it is.
    pub thread: usize,
    pub row: usize,
    pub steps: Range<usize>,
    /// The first column, and how many there are.
    pub column: usize,
    pub count: usize,
}

/// One thread, which owns some registers of columns of some rows.
struct Thread<'a, 'm, R, W, const P: usize> {
    problem: &'a Problem<'a, R, P>,
    walk: &'a W,
    member: &'a Member<'m>,
}

impl<R: Real, W: Walk<R>, const P: usize> WithSimd for Thread<'_, '_, R, W, P> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self {
            problem,
            walk,
            member,
        } = self;
        let (time, width) = (problem.time, problem.width);
        let lanes = R::lanes::<S>();
        for (row, own) in member.rows(problem.batch, width.div_ceil(lanes)) {
            let columns = own.start * lanes..width.min(own.end * lanes);
            let length = problem.lengths.map_or(time, |lengths| lengths[row]);
            let chunks = length.div_ceil(CHUNK);
            for i in 0..chunks {
                let chunk = if W::BACKWARDS { chunks - 1 - i } else { i };
                let steps = chunk * CHUNK..length.min((chunk + 1) * CHUNK);
                let mut column = columns.start;
                while column < columns.end {
                    let left = columns.end - column;
                    let tile = |registers: usize| Tile {
                        thread: member.index(),
                        row,
                        steps: steps.clone(),
                        column,
                        count: left.min(registers * lanes),
                    };
                    // Several registers at a time need not wait for one another.
                    // SAFETY: the columns of this row are this thread's own.
                    let registers = unsafe {
                        match left / lanes {
                            8.. if P == 1 => {
                                walk.tile::<S, 8>(s, tile(8));
                                8
                            }
                            4.. => {
                                walk.tile::<S, 4>(s, tile(4));
                                4
                            }
                            _ => {
                                walk.tile::<S, 1>(s, tile(1));
                                1
                            }
                        }
                    };
                    column += registers * lanes;
                }
            }
            for tensor in walk.padded() {
                for step in length..time {
                    let first = (row * time + step) * width + columns.start;
                    for i in 0..columns.len() {
                        // SAFETY: inside the tensor, and as above.
                        unsafe { tensor.at(first + i).write(R::ZERO) };
                    }
                }
            }
        }
    }
}

/// For the threads to write.
pub(super) fn shared<R: Real, const P: usize>(planes: &mut [Vec<R>; P]) -> [Shared<R>; P] {
    planes
        .each_mut()
        .map(|plane| Shared::new(plane.as_mut_ptr()))
}
