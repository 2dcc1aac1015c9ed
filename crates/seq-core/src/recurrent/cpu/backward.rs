use super::forward::Saved;
use super::plan::Problem;
use super::retreat::{Pass, Thread};
use crate::cpu::{Arch, Buffer, Matrix, Real, Team, product};
use crate::recurrent::cell::Cell;

/// The gradients that come in: of the outputs `[batch, time, d_hidden]` and of the final states
/// `[batch, d_hidden]`.
pub(crate) struct Incoming<'a, R> {
    pub y: Option<&'a [R]>,
    pub hidden: Option<&'a [R]>,
    pub cell: Option<&'a [R]>,
}

/// The gradients that go out, each of the shape of what it belongs to. Both biases get the same where
/// a gate takes the sum of both.
pub(crate) struct Gradients<R> {
    pub x: Option<Vec<R>>,
    pub weight_ih: Option<Vec<R>>,
    pub weight_hh: Option<Vec<R>>,
    pub bias_ih: Vec<R>,
    pub bias_hh: Vec<R>,
    pub weights: Vec<R>,
    pub hidden: Vec<R>,
    pub cell: Vec<R>,
}

/// Backpropagation through time: the gradients of the sums of the whole sequence first, then those of
/// the weights and of `x` as one product each, if they are `wanted`: `x`, `weight_ih`, `weight_hh`.
pub(crate) fn backward<
    R: Real,
    C,
    const G: usize,
    const I: usize,
    const H: usize,
    const U: usize,
    const D: usize,
>(
    cell: &C,
    problem: &Problem<'_, R>,
    saved: Saved<R>,
    incoming: Incoming<'_, R>,
    [with_x, with_weight_ih, with_weight_hh]: [bool; 3],
) -> Gradients<R>
where
    C: Cell<G, I, H, U, D>,
{
    let Problem {
        batch,
        time,
        d_input,
        d_hidden,
        ..
    } = *problem;
    let padded = problem.padded();
    let row = G * padded;
    // The gradients of the sums take the place of what the forward pass kept, unless someone else
    // will read that again.
    let mut kept = std::sync::Arc::unwrap_or_clone(saved.kept);
    let mut hidden = Buffer::zeroed(batch * padded);
    let mut memory = Buffer::zeroed(batch * padded);
    let mut gated = Buffer::zeroed(if D > 0 { batch * padded } else { 0 });
    let mut biases = Buffer::zeroed(G * padded);
    let mut weights = Buffer::zeroed(U * padded);
    problem.pad(incoming.hidden, hidden.as_mut_slice());
    problem.pad(incoming.cell, memory.as_mut_slice());
    let pass = Pass {
        cell,
        problem,
        padded,
        y: incoming.y,
        states: (&saved.hidden, &saved.cell),
        sums: kept.shared(),
        hidden: hidden.shared(),
        memory: memory.shared(),
        gated: gated.shared(),
        bias_gradients: biases.shared(),
        weight_gradients: weights.shared(),
        weights: &problem.slot_weights(U),
    };
    let arch = Arch::new();
    Team::run(
        problem.threads(batch * d_hidden * (H + D) * d_hidden),
        |member| {
            arch.dispatch(Thread {
                pass: &pass,
                member,
            });
        },
    );

    let sums = Sums {
        sums: kept.as_slice(),
        row,
        padded,
        rows: time * batch,
        d_hidden,
    };
    let x = time_major(problem);
    let mut bias_ih = vec![R::ZERO; I * d_hidden];
    let mut bias_hh = vec![R::ZERO; (H + D) * d_hidden];
    let weight_ih = with_weight_ih.then(|| {
        let mut out = vec![R::ZERO; I * d_hidden * d_input];
        let x = Matrix::rows(&x, d_input);
        sums.weight_gradient(0, C::INPUT, x, d_input, &mut out);
        out
    });
    let weight_hh = with_weight_hh.then(|| {
        let mut out = vec![R::ZERO; (H + D) * d_hidden * d_hidden];
        let hidden = Matrix::rows(saved.hidden.as_slice(), padded);
        let gated = Matrix::rows(saved.gated.as_slice(), padded);
        sums.weight_gradient(G - H - D, C::RECURRENT, hidden, d_hidden, &mut out);
        sums.weight_gradient(G - D, C::GATED, gated, d_hidden, &mut out);
        out
    });
    let slot = |slot: usize| &biases.as_slice()[slot * padded..][..d_hidden];
    for (i, gate) in C::INPUT.into_iter().enumerate() {
        bias_ih[gate * d_hidden..][..d_hidden].copy_from_slice(slot(i));
    }
    for (h, gate) in C::RECURRENT.into_iter().chain(C::GATED).enumerate() {
        bias_hh[gate * d_hidden..][..d_hidden].copy_from_slice(slot(G - H - D + h));
    }
    let x = with_x.then(|| {
        let mut steps = x;
        sums.input_gradient(C::INPUT, problem.weight_ih, d_input, &mut steps);
        batch_major(problem, &steps)
    });
    Gradients {
        x,
        weight_ih,
        weight_hh,
        bias_ih,
        bias_hh,
        weights: problem.unpad(weights.as_slice()),
        hidden: problem.unpad(hidden.as_slice()),
        cell: problem.unpad(memory.as_slice()),
    }
}

/// The gradients of the sums of all steps, `[rows, G, padded]`.
struct Sums<'a, R> {
    sums: &'a [R],
    /// From one row to the next.
    row: usize,
    padded: usize,
    rows: usize,
    d_hidden: usize,
}

impl<R: Real> Sums<'_, R> {
    /// Those of the slots from `slot` on.
    fn of(&self, slot: usize) -> Matrix<'_, R> {
        // Of an empty batch there are none to begin with.
        Matrix::rows(
            self.sums.get(slot * self.padded..).unwrap_or_default(),
            self.row,
        )
    }

    /// How many slots one product can take: all where no padding is between them.
    fn together(&self, slots: usize) -> usize {
        match self.d_hidden == self.padded {
            true => slots.max(1),
            false => 1,
        }
    }

    /// Fills the rows in `out` of the weights that the slots from `first` on belong to, which multiplied
    /// `inputs` `[rows, width]`.
    fn weight_gradient<const N: usize>(
        &self,
        first: usize,
        gates: [usize; N],
        inputs: Matrix<'_, R>,
        width: usize,
        out: &mut [R],
    ) {
        let (hidden, count) = (self.d_hidden, self.together(N));
        let product_of = |slot: usize, out: &mut [R]| {
            let size = [count * hidden, self.rows, width];
            product(
                size,
                self.of(first + slot).transposed(),
                inputs,
                out,
                width,
                false,
            );
        };
        let block = hidden * width;
        for (chunk, gates) in gates.chunks(count).enumerate() {
            // Rows that lie in another order in the weights are put there afterwards.
            if gates.is_sorted_by(|a, b| a + 1 == *b) {
                product_of(chunk * count, &mut out[gates[0] * block..]);
                continue;
            }
            let mut rows = vec![R::ZERO; count * block];
            product_of(chunk * count, &mut rows);
            for (gate, rows) in gates.iter().zip(rows.chunks(block)) {
                out[gate * block..][..block].copy_from_slice(rows);
            }
        }
    }

    /// The gradients of what the slots from the first on are the product of `weights` with, written to
    /// `out` `[rows, width]`.
    fn input_gradient<const N: usize>(
        &self,
        gates: [usize; N],
        weights: &[R],
        width: usize,
        out: &mut [R],
    ) {
        let (hidden, count) = (self.d_hidden, self.together(N));
        let block = hidden * width;
        for (chunk, gates) in gates.chunks(count).enumerate() {
            let in_order: Vec<R>;
            let weights = match gates.is_sorted_by(|a, b| a + 1 == *b) {
                true => &weights[gates[0] * block..],
                false => {
                    let rows = gates.iter().map(|gate| &weights[gate * block..][..block]);
                    in_order = rows.flatten().copied().collect();
                    &in_order
                }
            };
            product(
                [self.rows, count * hidden, width],
                self.of(chunk * count),
                Matrix::rows(weights, width),
                out,
                width,
                chunk > 0,
            );
        }
    }
}

/// The steps of `x` in the order in which they are taken: `[time, batch, d_input]`, zero where a
/// sequence has ended.
fn time_major<R: Real>(problem: &Problem<'_, R>) -> Vec<R> {
    let Problem {
        batch,
        time,
        d_input,
        x,
        ..
    } = *problem;
    let mut out = Vec::with_capacity(time * batch * d_input);
    for step in 0..time {
        for row in 0..batch {
            match step < problem.length(row) {
                true => {
                    let from = (row * time + problem.position(row, step)) * d_input;
                    out.extend_from_slice(&x[from..from + d_input]);
                }
                false => out.resize(out.len() + d_input, R::ZERO),
            }
        }
    }
    out
}

/// The reverse of [`time_major`].
fn batch_major<R: Real>(problem: &Problem<'_, R>, steps: &[R]) -> Vec<R> {
    let Problem {
        batch,
        time,
        d_input,
        ..
    } = *problem;
    let mut out = vec![R::ZERO; batch * time * d_input];
    for (index, from) in steps.chunks(d_input).enumerate() {
        let (step, row) = (index / batch, index % batch);
        if step < problem.length(row) {
            let to = (row * time + problem.position(row, step)) * d_input;
            out[to..to + d_input].copy_from_slice(from);
        }
    }
    out
}
