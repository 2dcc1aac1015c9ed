use super::numbers::{add, load, mul_conj, store, zeros};
use super::walk::{Problem, Tile, Walk, shared};
use crate::cpu::{Buffer, Real, Shared, Simd, reserve};

/// What the gradient of the decay is made of.
pub(in crate::scan) struct Saved<'a, R, const P: usize> {
    /// After each step, `[batch, time, width]`.
    pub states: [&'a [R]; P],
    /// Before the first one, `[batch, width]`.
    pub state: [Option<&'a [R]>; P],
}

/// The gradients that come in: of the states `[batch, time, width]` and of the last one
/// `[batch, width]`.
pub(in crate::scan) struct Incoming<'a, R, const P: usize> {
    pub states: [Option<&'a [R]>; P],
    pub last: [Option<&'a [R]>; P],
}

/// The gradients that go out, each of the shape of what it belongs to.
pub(in crate::scan) struct Gradients<R, const P: usize> {
    pub decay: Option<[Vec<R>; P]>,
    pub x: Option<[Vec<R>; P]>,
    pub state: [Vec<R>; P],
}

/// The gradients of a scan: that of the decay if there is what it is made of, that of the input if it is
/// wanted.
pub(in crate::scan) fn backward<R: Real, const P: usize>(
    problem: &Problem<'_, R, P>,
    saved: Option<Saved<'_, R, P>>,
    incoming: &Incoming<'_, R, P>,
    x_wanted: bool,
) -> Gradients<R, P> {
    let (batch, width) = (problem.batch, problem.width);
    let planes = || std::array::from_fn(|_| reserve(problem.elements()));
    let mut x = x_wanted.then(planes);
    let mut decay = (saved.is_some() && problem.varying).then(planes);
    let mut state = incoming.last.map(|last| match last {
        Some(last) => last.to_vec(),
        None => vec![R::ZERO; batch * width],
    });
    let summed = saved.is_some() && !problem.varying;
    // The threads may share columns: each has sums of its own.
    let size = if summed { P * width } else { 0 };
    let mut sums = Buffer::zeroed(problem.threads() * size);
    problem.walk(&Backward {
        problem,
        saved,
        states: incoming.states,
        state: shared(&mut state),
        x: x.as_mut().map(shared),
        decay: decay.as_mut().map(shared),
        sums: sums.shared(),
    });
    for plane in [&mut x, &mut decay].into_iter().flatten().flatten() {
        // SAFETY: the threads have written every step of every column.
        unsafe { plane.set_len(problem.elements()) };
    }
    if summed {
        let mut total: [Vec<R>; P] = std::array::from_fn(|_| vec![R::ZERO; width]);
        for part in sums.as_slice().chunks(size.max(1)) {
            for (total, part) in total.iter_mut().zip(part.chunks(width)) {
                total.iter_mut().zip(part).for_each(|(t, &p)| *t += p);
            }
        }
        decay = Some(total);
    }
    Gradients { decay, x, state }
}

/// A backward run, as all threads see it.
struct Backward<'a, R, const P: usize> {
    problem: &'a Problem<'a, R, P>,
    saved: Option<Saved<'a, R, P>>,
    states: [Option<&'a [R]>; P],
    /// The gradients of the states between two tiles.
    state: [Shared<R>; P],
    x: Option<[Shared<R>; P]>,
    /// That of a decay that varies.
    decay: Option<[Shared<R>; P]>,
    /// Those of one that does not, `[threads, P, width]`.
    sums: Shared<R>,
}

impl<R: Real, const P: usize> Walk<R> for Backward<'_, R, P> {
    const BACKWARDS: bool = true;

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
        // SAFETY: inside the tensors and the sums, and this thread's own, by the caller's promise.
        unsafe {
            let mut carried = load::<R, S, N, P>(s, self.state, state);
            let mut sum = zeros::<R, S, N, P>(s);
            for step in tile.steps.rev() {
                let at = (row * time + step) * width + column;
                let gradient = load::<R, S, N, P>(s, self.states, (at, count));
                let gradient = add::<R, S, N, P>(s, gradient, carried);
                if let Some(x) = self.x {
                    store::<R, S, N, P>(s, x, (at, count), gradient);
                }
                let mut slope = zeros::<R, S, N, P>(s);
                if resets.is_some_and(|resets| resets[step]) {
                    carried = slope;
                } else {
                    let decay_at = if varying { at } else { column };
                    let decay = load::<R, S, N, P>(s, decay, (decay_at, count));
                    carried = mul_conj::<R, S, N, P>(s, gradient, decay);
                    if let Some(saved) = &self.saved {
                        let before = match step {
                            0 => load::<R, S, N, P>(s, saved.state, state),
                            _ => load::<R, S, N, P>(s, saved.states, (at - width, count)),
                        };
                        slope = mul_conj::<R, S, N, P>(s, gradient, before);
                    }
                }
                match self.decay {
                    Some(decay) => store::<R, S, N, P>(s, decay, (at, count), slope),
                    None => sum = add::<R, S, N, P>(s, sum, slope),
                }
            }
            store::<R, S, N, P>(s, self.state, state, carried);
            if self.saved.is_some() && !varying {
                let first = tile.thread * P * width;
                let sums = std::array::from_fn(|p| Shared::new(self.sums.at(first + p * width)));
                let total = load::<R, S, N, P>(s, sums, (column, count));
                let total = add::<R, S, N, P>(s, total, sum);
                store::<R, S, N, P>(s, sums, (column, count), total);
            }
        }
    }

    fn padded(&self) -> impl Iterator<Item = Shared<R>> {
        [self.x, self.decay].into_iter().flatten().flatten()
    }
}
