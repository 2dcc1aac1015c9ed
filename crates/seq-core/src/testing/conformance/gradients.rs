//! Law 4: gradients and finite differences.

use burn::tensor::{DType, Tensor};

use super::leaves::{Noise, Parameters, Shift};
use super::trial::{Given, Trial, differentiate, run};
use crate::{SequenceLayer, SequenceState, StateMapper};

/// The distances over which differences are taken, one after the other until one agrees. The error
/// of the formula falls with the fourth power, that of rounding grows with the inverse. The smaller
/// ones are for kinks, which they may miss.
const STEPS: [f64; 3] = [1e-5, 1e-6, 1e-7];

/// How far the slopes may be apart, of one plus the slope.
const TOLERANCE: f64 = 1e-7;

pub(super) fn differences<L: SequenceLayer>(trial: &Trial<L>) -> Result<(), String> {
    if trial.dtype != DType::F64 {
        return Ok(());
    }
    let given = trial.given(
        trial.sizes.padded.then(|| trial.lengths()),
        trial.warm_state(),
    );
    let (_, gradients) = differentiate(&trial.layer, &given, run, |y, state| given.loss(y, state));
    for (name, gradient) in &gradients {
        let direction = trial.sizes.seed ^ 100;
        let size = gradient.num_elements();
        let along = Noise::new(direction)
            .tensor([size], (&trial.device, DType::F64))
            .into_data();
        let slopes = gradient
            .iter::<f64>()
            .zip(along.iter::<f64>())
            .map(|(a, b)| a * b);
        let slope: f64 = slopes.sum();
        let shift = |step| Shift {
            name,
            direction,
            step,
        };
        let loss = |step| loss(trial, &given, &mut shift(step));
        let across = |step| loss(step) - loss(-step);
        let difference = |step| (8.0 * across(step) - across(2.0 * step)) / (12.0 * step);
        let agrees = |step: &f64| {
            let difference = difference(*step);
            (slope - difference).abs() <= TOLERANCE * (1.0 + difference.abs())
        };
        if !STEPS.iter().any(agrees) {
            let found = difference(STEPS[0]);
            return Err(format!(
                "the gradient of `{name}` gives a slope of {slope:e}, the loss has {found:e}"
            ));
        }
    }
    Ok(())
}

/// The loss with one tensor moved, computed without autodiff.
fn loss<L: SequenceLayer>(trial: &Trial<L>, given: &Given<L::State>, shift: &mut Shift) -> f64 {
    let x: Tensor<3> = shift.tensor("input x", given.x.clone());
    let state = given.state.clone().map(shift);
    let layer = trial.plain.clone().map(&mut Parameters::new(shift));
    let (y, state) = run(&layer, x, given.lengths.as_ref(), state);
    given.loss(y, state).into_scalar::<f64>()
}
