use super::numbers::{load, mul_add, store};
use super::walk::{Problem, Tile, Walk, shared};
use crate::cpu::{Real, Shared, Simd, reserve};

/// What a scan gives.
pub(in crate::scan) struct Outputs<R, const P: usize> {
    /// `[batch, time, width]`
    pub states: [Vec<R>; P],
    /// `[batch, width]`
    pub last: [Vec<R>; P],
}

/// Runs a scan of `x` `[batch, time, width]` that begins at `state` `[batch, width]`.
pub(in crate::scan) fn forward<R: Real, const P: usize>(
    problem: &Problem<'_, R, P>,
    x: [&[R]; P],
    state: [Option<&[R]>; P],
) -> Outputs<R, P> {
    let mut states = std::array::from_fn(|_| reserve(problem.elements()));
    let mut last = state.map(|state| match state {
        Some(state) => state.to_vec(),
        None => vec![R::ZERO; problem.batch * problem.width],
    });
    problem.walk(&Forward {
        problem,
        x,
        states: shared(&mut states),
        last: shared(&mut last),
    });
    for plane in &mut states {
        // SAFETY: the threads have written every step of every column.
        unsafe { plane.set_len(problem.elements()) };
    }
    Outputs { states, last }
}

/// A run, as all threads see it.
struct Forward<'a, R, const P: usize> {
    problem: &'a Problem<'a, R, P>,
    x: [&'a [R]; P],
    states: [Shared<R>; P],
    /// The states between two tiles.
    last: [Shared<R>; P],
}

impl<R: Real, const P: usize> Walk<R> for Forward<'_, R, P> {
    const BACKWARDS: bool = false;

    #[inline(always)]
    unsafe fn tile<S: Simd, const N: usize>(&self, s: S, tile: Tile) {
        let Problem {
            time,
            width,
            decay,
            varying,
            ..
        } = *self.problem;
        let Tile {
            row, column, count, ..
        } = tile;
        let resets = self.problem.resets.map(|resets| resets[row].as_slice());
        let state = (row * width + column, count);
        // SAFETY: inside the tensors, and this thread's own, by the caller's promise.
        unsafe {
            let mut h = load::<R, S, N, P>(s, self.last, state);
            for step in tile.steps {
                let at = (row * time + step) * width + column;
                let x = load::<R, S, N, P>(s, self.x, (at, count));
                h = match resets.is_some_and(|resets| resets[step]) {
                    true => x,
                    false => {
                        let decay_at = if varying { at } else { column };
                        let decay = load::<R, S, N, P>(s, decay, (decay_at, count));
                        mul_add::<R, S, N, P>(s, decay, h, x)
                    }
                };
                store::<R, S, N, P>(s, self.states, (at, count), h);
            }
            store::<R, S, N, P>(s, self.last, state, h);
        }
    }

    fn padded(&self) -> impl Iterator<Item = Shared<R>> {
        self.states.into_iter()
    }
}
