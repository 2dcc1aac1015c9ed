//! Law 4: gradients and finite differences.

use burn::module::Module;
use burn::tensor::{DType, Tensor};

use super::leaves::{Noise, Parameters, Shift};
use super::trial::{Given, Trial, differentiate, run};
use crate::{SequenceLayer, SequenceState, StateMapper};

/// Half the distance over which differences are taken: the error of the formula, which falls with its
/// square, and that of rounding, which grows with its inverse, are about equal here.
const STEP: f64 = 1e-5;

/// How many random directions are tried in each tensor.
const DIRECTIONS: u64 = 2;

pub(super) fn differences<L: SequenceLayer>(trial: &Trial<L>) -> Result<(), String> {
    if trial.dtype != DType::F64 {
        return Ok(());
    }
    let given = trial.given(trial.sizes.padded.then(|| trial.lengths()));
    let (_, gradients) =
        differentiate(&trial.layer, &given, run, |y, state| given.loss(y, state));
    for (name, gradient) in &gradients {
        for direction in 0..DIRECTIONS {
            let direction = trial.sizes.seed ^ (100 + direction);
            let size = gradient.num_elements();
            let along = Noise::new(direction).tensor([size], (&trial.device, DType::F64));
            let along = along.into_data();
            let slope: f64 =
                gradient.iter::<f64>().zip(along.iter::<f64>()).map(|(a, b)| a * b).sum();
            let loss = |step| loss(trial, &given, &mut Shift { name, direction, step });
            let difference = (loss(STEP) - loss(-STEP)) / (2.0 * STEP);
            let error = (slope - difference).abs();
            if error.is_nan() || error > 1e-7 * (1.0 + difference.abs()) {
                return Err(format!(
                    "the gradient of `{name}` gives a slope of {slope:e}, the loss has {difference:e}"
                ));
            }
        }
    }
    Ok(())
}

/// The loss with one tensor moved, computed without autodiff.
fn loss<L: SequenceLayer>(trial: &Trial<L>, given: &Given<L::State>, shift: &mut Shift) -> f64 {
    let x: Tensor<3> = shift.tensor("x", given.x.clone());
    let state = given.state.clone().map(shift);
    let layer = trial.plain.clone().map(&mut Parameters::new(shift));
    let (y, state) = run(&layer, x, given.lengths.as_ref(), state);
    given.loss(y, state).into_scalar::<f64>()
}
