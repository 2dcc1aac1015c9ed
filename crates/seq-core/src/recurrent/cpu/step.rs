use super::forward::Outputs;
use super::plan::Problem;
use crate::cpu::tile::{max_rows, tiles};
use crate::cpu::{Arch, Member, Real, Shared, Simd, Team, WithSimd};
use crate::recurrent::cell::{Cell, State};
use crate::with_rows;

/// Units whose weights are multiplied at once.
const ROWS: usize = 4;

/// One step with the weights where they lie: packing them would cost more than the step.
pub(crate) fn step<R: Real, C, const G: usize, const I: usize, const H: usize, const U: usize>(
    cell: &C,
    problem: &Problem<'_, R>,
) -> Outputs<R>
where
    C: Cell<G, I, H, U>,
{
    let Problem {
        batch,
        d_input,
        d_hidden,
        ..
    } = *problem;
    let mut hidden = Vec::with_capacity(batch * d_hidden);
    let mut memory = Vec::with_capacity(if C::MEMORY { batch * d_hidden } else { 0 });
    let pass = Pass {
        cell,
        problem,
        hidden: Shared::new(hidden.as_mut_ptr()),
        memory: Shared::new(memory.as_mut_ptr()),
    };
    let arch = Arch::new();
    Team::run(
        problem.threads(batch * d_hidden * (I * d_input + H * d_hidden)),
        |member| {
            arch.dispatch(Thread {
                pass: &pass,
                member,
            });
        },
    );
    // SAFETY: the threads have written every unit of every sequence.
    unsafe {
        hidden.set_len(batch * d_hidden);
        memory.set_len(memory.capacity().min(batch * d_hidden));
    }
    Outputs {
        y: hidden.clone(),
        hidden,
        cell: memory,
        saved: None,
    }
}

struct Pass<'a, R, C> {
    cell: &'a C,
    problem: &'a Problem<'a, R>,
    hidden: Shared<R>,
    memory: Shared<R>,
}

struct Thread<'a, 'm, R, C, const G: usize, const I: usize, const H: usize, const U: usize> {
    pass: &'a Pass<'a, R, C>,
    member: &'a Member<'m>,
}

impl<R: Real, C, const G: usize, const I: usize, const H: usize, const U: usize> WithSimd
    for Thread<'_, '_, R, C, G, I, H, U>
where
    C: Cell<G, I, H, U>,
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let problem = self.pass.problem;
        for block in self
            .member
            .share(problem.d_hidden.div_ceil(R::lanes::<S>()))
        {
            for (first, count) in tiles::<S>(problem.batch) {
                debug_assert!(count <= max_rows::<S>());
                // SAFETY: the block is this thread's own.
                unsafe { with_rows!(count, M => self.advance::<S, M>(s, first, block)) }
            }
        }
    }
}

impl<R: Real, C, const G: usize, const I: usize, const H: usize, const U: usize>
    Thread<'_, '_, R, C, G, I, H, U>
where
    C: Cell<G, I, H, U>,
{
    /// The step of `M` sequences for one block of units.
    #[inline(always)]
    unsafe fn advance<S: Simd, const M: usize>(&self, s: S, first: usize, block: usize) {
        let pass = self.pass;
        let problem = pass.problem;
        let Problem {
            d_input, d_hidden, ..
        } = *problem;
        let lanes = R::lanes::<S>();
        let unit = block * lanes;
        let units = (d_hidden - unit).min(lanes);
        let inputs: [&[R]; M] =
            std::array::from_fn(|m| &problem.x[(first + m) * d_input..][..d_input]);
        let hiddens: [&[R]; M] =
            std::array::from_fn(|m| &problem.hidden[(first + m) * d_hidden..][..d_hidden]);

        // The sums of the block's units, as the registers of the cell want them.
        let mut sums = [[[R::ZERO; 16]; G]; M];
        for g in 0..G {
            for lane in (0..units).step_by(ROWS) {
                let mut acc = [[R::splat(s, R::ZERO); ROWS]; M];
                // The last units twice rather than one beyond the end.
                let row =
                    |gate: usize, r: usize| gate * d_hidden + unit + (lane + r).min(units - 1);
                if g < I {
                    let rows = std::array::from_fn(|r| {
                        &problem.weight_ih[row(C::INPUT[g], r) * d_input..][..d_input]
                    });
                    dots(s, rows, inputs, &mut acc);
                }
                if g >= G - H {
                    let gate = C::RECURRENT[g - (G - H)];
                    let rows = std::array::from_fn(|r| {
                        &problem.weight_hh[row(gate, r) * d_hidden..][..d_hidden]
                    });
                    dots(s, rows, hiddens, &mut acc);
                }
                for (sums, acc) in sums.iter_mut().zip(&acc) {
                    for (r, &sum) in acc.iter().enumerate() {
                        sums[g][(lane + r).min(units - 1)] = R::reduce_sum(s, sum);
                    }
                }
            }
        }
        // SAFETY: of every vector, only the block's units that there are get read and written.
        unsafe {
            let load = |from: Option<&[R]>, at: usize| match from {
                Some(from) => R::load_first(s, from[at..].as_ptr(), units),
                None => R::splat(s, R::ZERO),
            };
            let weights: [R::V<S>; U] =
                std::array::from_fn(|u| load(problem.weights, u * d_hidden + unit));
            let mut biases = [R::splat(s, R::ZERO); G];
            for (i, gate) in C::INPUT.into_iter().enumerate() {
                biases[i] = load(problem.bias_ih, gate * d_hidden + unit);
            }
            for (h, gate) in C::RECURRENT.into_iter().enumerate() {
                let bias = &mut biases[G - H + h];
                *bias = R::vadd(s, *bias, load(problem.bias_hh, gate * d_hidden + unit));
            }
            for (m, sums) in sums.iter().enumerate() {
                let at = (first + m) * d_hidden + unit;
                let sums: [R::V<S>; G] =
                    std::array::from_fn(|g| R::vadd(s, biases[g], R::load(s, sums[g].as_ptr())));
                let before = State {
                    hidden: load(Some(problem.hidden), at),
                    cell: load(problem.cell, at),
                };
                let after = pass.cell.forward::<R, S>(s, sums, weights, before).state;
                R::store_first(s, pass.hidden.at(at), units, after.hidden);
                if C::MEMORY {
                    R::store_first(s, pass.memory.at(at), units, after.cell);
                }
            }
        }
    }
}

/// `acc[m][r] += rows[r] * vectors[m]`, lane by lane.
#[inline(always)]
fn dots<R: Real, S: Simd, const M: usize>(
    s: S,
    rows: [&[R]; ROWS],
    vectors: [&[R]; M],
    acc: &mut [[R::V<S>; ROWS]; M],
) {
    let (lanes, depth) = (R::lanes::<S>(), rows[0].len());
    let mut k = 0;
    // SAFETY: `k` stays below `depth`, the length of every slice.
    unsafe {
        while k + lanes <= depth {
            let w: [R::V<S>; ROWS] = std::array::from_fn(|r| R::load(s, rows[r].as_ptr().add(k)));
            for (vector, acc) in vectors.iter().zip(acc.iter_mut()) {
                let x = R::load(s, vector.as_ptr().add(k));
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = R::mul_add(s, x, w, *acc);
                }
            }
            k += lanes;
        }
        if k < depth {
            let rest = depth - k;
            let w: [R::V<S>; ROWS] =
                std::array::from_fn(|r| R::load_first(s, rows[r].as_ptr().add(k), rest));
            for (vector, acc) in vectors.iter().zip(acc.iter_mut()) {
                let x = R::load_first(s, vector.as_ptr().add(k), rest);
                for (acc, w) in acc.iter_mut().zip(w) {
                    *acc = R::mul_add(s, x, w, *acc);
                }
            }
        }
    }
}
