//! Law 5: one result, whatever the backend, the memory layout and the body.

use burn::module::Module;
use burn::tensor::Tensor;

use super::Body;
use super::leaves::{Parameters, Restride};
use super::trial::{Given, Trial, differentiate, run, values};
use crate::testing::compare::{Values, close};
use crate::{Lengths, SequenceLayer, SequenceState};

/// Compares with `base`, the same trial on the first backend.
pub(super) fn agreement<L: SequenceLayer>(
    base: &Trial<L>,
    trial: &Trial<L>,
    reference: Option<&Body<L>>,
) -> Result<(), String> {
    let given = |trial: &Trial<L>| trial.given(trial.sizes.padded.then(|| trial.lengths()));
    let expected = results(&base.layer, &given(base), run, Layout::Contiguous);
    // Random initial values differ between backends.
    let layer = trial.layer.clone().load_record(base.layer.clone().into_record());
    let mut trial = Trial { plain: layer.valid(), layer, ..*trial };
    let contiguous = given(&trial);
    let agree = |(outputs, gradients): (Values, Values), what: &str| {
        close(&outputs, &expected.0, trial.tolerance())
            .map_err(|error| format!("{what}, and on the first backend: {error}"))?;
        close(&gradients, &expected.1, trial.gradient_tolerance())
            .map_err(|error| format!("gradients {what}, and on the first backend: {error}"))
    };
    Ok(())
}
