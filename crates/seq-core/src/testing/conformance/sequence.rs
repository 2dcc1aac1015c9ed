//! Laws 1 and 3: streams and causality.

use burn::tensor::Tensor;

use super::leaves::Noise;
use super::trial::{Sizes, Trial};
use crate::SequenceLayer;
use crate::device::read;
use crate::testing::compare::{Values, close, equal, values};

pub(super) fn streaming<L: SequenceLayer>(trial: &Trial<L>) -> Result<(), String> {
    let Sizes {
        batch, time, seed, ..
    } = trial.sizes;
    let (layer, x, state) = (&trial.plain, trial.input(1, time), trial.state());
    let (y, last) = layer.forward(x.clone(), Some(state.clone()));
    let shape = [batch, time, layer.d_output()];
    if y.dims() != shape {
        return Err(format!(
            "the output has shape {:?}, expected {shape:?}",
            y.dims()
        ));
    }
    let whole = values(&y, &last);

    let (y, last) = layer.forward(x.clone(), None);
    let initial = layer.initial_state(batch, &trial.device);
    let (same, same_last) = layer.forward(x.clone(), Some(initial));
    equal(&values(&y, &last), &values(&same, &same_last))
        .map_err(|what| format!("without a state, and from the initial one: {what}"))?;

    let parts = |sizes: &[usize], part: Part<L::State>| {
        let (mut at, mut state, mut outputs) = (0, state.clone(), Vec::new());
        for &size in sizes {
            let (y, next) = part(x.clone().narrow(1, at, size), state);
            (at, state) = (at + size, next);
            outputs.push(y);
        }
        values(&Tensor::cat(outputs, 1), &state)
    };
    let stepped = parts(&vec![1; time], &|x, state| {
        let (y, state) = layer.step(x.squeeze_dim(1), state);
        (y.unsqueeze_dim(1), state)
    });
    close(&stepped, &whole, trial.tolerance())
        .map_err(|what| format!("step by step, and in one forward: {what}"))?;

    let mut noise = Noise::new(seed ^ 2);
    let (mut chunks, mut left) = (Vec::new(), time);
    while left > 0 {
        chunks.push(1 + noise.below(left));
        left -= chunks[chunks.len() - 1];
    }
    let chunked = parts(&chunks, &|x, state| layer.forward(x, Some(state)));
    close(&chunked, &whole, trial.tolerance())
        .map_err(|what| format!("in chunks of {chunks:?}, and in one forward: {what}"))
}

/// Runs some steps of a sequence.
type Part<'a, S> = &'a dyn Fn(Tensor<3>, S) -> (Tensor<3>, S);

pub(super) fn causality<L: SequenceLayer>(trial: &Trial<L>) -> Result<(), String> {
    let time = trial.sizes.time;
    let (x, other, state) = (trial.input(3, time), trial.input(4, time), trial.state());
    let begin = |x: Tensor<3>, steps| -> Values {
        let (y, _) = trial.plain.forward(x, Some(state.clone()));
        vec![("y".to_owned(), read(&y.narrow(1, 0, steps)))]
    };
    let last = time - 1;
    for steps in [last, Noise::new(trial.sizes.seed ^ 5).below(time)] {
        if steps == 0 {
            continue;
        }
        let (kept, changed) = (
            x.clone().narrow(1, 0, steps),
            other.clone().narrow(1, steps, time - steps),
        );
        let mixed = Tensor::cat(vec![kept, changed], 1);
        equal(&begin(mixed, steps), &begin(x.clone(), steps))
            .map_err(|what| format!("the input was changed from step {steps} on: {what}"))?;
    }
    Ok(())
}
