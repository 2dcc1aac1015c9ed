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

    let rows = time * batch;
    let sums = kept.as_slice();
    let x = time_major(problem);
    // Of an empty batch there are no sums to begin with.
    let sums_of = |slot: usize| Matrix::rows(sums.get(slot * padded..).unwrap_or_default(), row);
    let mut weight_ih = with_weight_ih.then(|| vec![R::ZERO; I * d_hidden * d_input]);
    let mut weight_hh = with_weight_hh.then(|| vec![R::ZERO; (H + D) * d_hidden * d_hidden]);
    let (mut bias_ih, mut bias_hh) = (
        vec![R::ZERO; I * d_hidden],
        vec![R::ZERO; (H + D) * d_hidden],
    );
    if let Some(out) = &mut weight_ih {
        for slots in runs(C::INPUT, d_hidden == padded) {
            product(
                [slots.count * d_hidden, rows, d_input],
                sums_of(slots.first).transposed(),
                Matrix::rows(&x, d_input),
                &mut out[slots.gate * d_hidden * d_input..],
                d_input,
                false,
            );
        }
    }
    if let Some(out) = &mut weight_hh {
        let unpadded = d_hidden == padded;
        let plain = runs(C::RECURRENT, unpadded).into_iter();
        let plain = plain.map(|slots| (G - H - D, slots, &saved.hidden));
        let gated = runs(C::GATED, unpadded).into_iter();
        let gated = gated.map(|slots| (G - D, slots, &saved.gated));
        for (first, slots, states) in plain.chain(gated) {
            product(
                [slots.count * d_hidden, rows, d_hidden],
                sums_of(first + slots.first).transposed(),
                Matrix::rows(states.as_slice(), padded),
                &mut out[slots.gate * d_hidden * d_hidden..],
                d_hidden,
                false,
            );
        }
    }
    let slot = |slot: usize| &biases.as_slice()[slot * padded..][..d_hidden];
    for (i, gate) in C::INPUT.into_iter().enumerate() {
        bias_ih[gate * d_hidden..][..d_hidden].copy_from_slice(slot(i));
    }
    for (h, gate) in C::RECURRENT.into_iter().chain(C::GATED).enumerate() {
        bias_hh[gate * d_hidden..][..d_hidden].copy_from_slice(slot(G - H - D + h));
    }
    let x = with_x.then(|| {
        let mut steps = x;
        for (index, slots) in runs(C::INPUT, d_hidden == padded).into_iter().enumerate() {
            let sums = sums_of(slots.first);
            let weights = Matrix::rows(
                &problem.weight_ih[slots.gate * d_hidden * d_input..],
                d_input,
            );
            product(
                [rows, slots.count * d_hidden, d_input],
                sums,
                weights,
                &mut steps,
                d_input,
                index > 0,
            );
        }
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

/// Neighbouring slots whose rows are neighbours in the weights as well.
struct Run {
    first: usize,
    gate: usize,
    count: usize,
}

/// All slots at once where they lie like the rows of the weights, else one by one.
fn runs<const N: usize>(gates: [usize; N], unpadded: bool) -> Vec<Run> {
    let in_order = gates.iter().enumerate().all(|(slot, &gate)| slot == gate);
    match N > 0 && unpadded && in_order {
        true => vec![Run {
            first: 0,
            gate: 0,
            count: N,
        }],
        false => {
            let slots = gates.into_iter().enumerate();
            slots
                .map(|(first, gate)| Run {
                    first,
                    gate,
                    count: 1,
                })
                .collect()
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
