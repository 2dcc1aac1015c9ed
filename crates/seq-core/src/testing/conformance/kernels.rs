//! Law 5: one result, whatever the backend, the layout in memory and the body.

use burn::tensor::{Tensor, TensorData};

use super::Body;
use super::leaves::{Parameters, Restride};
use super::trial::{Given, Trial, differentiate, run};
use crate::testing::compare::{Values, close, values};
use crate::{SequenceLayer, SequenceState};

/// Compares with `base`, the same trial on the first backend.
pub(super) fn agreement<L: SequenceLayer>(
    base: &Trial<L>,
    trial: &Trial<L>,
    reference: Option<&Body<L>>,
) -> Result<(), String> {
    // Random initial values differ between backends.
    let layer = trial
        .layer
        .clone()
        .load_record(base.layer.clone().into_record());
    let trial = trial.with_layer(layer);
    let lengths = || trial.sizes.padded.then(|| trial.lengths());
    let (base_given, given) = (
        base.given(lengths(), base.state()),
        trial.given(lengths(), trial.state()),
    );

    let contiguous = |y, state| base_given.loss(y, state);
    let (outputs, gradients) = differentiate(&base.layer, &base_given, run, contiguous);
    let outputs_agree = |found: &Values, what: &str| {
        close(found, &outputs, trial.tolerance())
            .map_err(|error| format!("{what}, and on the first backend: {error}"))
    };
    let agree = |found: (Values, Values), what: &str| {
        outputs_agree(&found.0, what)?;
        close(&found.1, &gradients, trial.gradient_tolerance())
            .map_err(|error| format!("gradients {what}, and on the first backend: {error}"))
    };

    let (y, state) = run(
        &trial.plain,
        given.x.clone(),
        given.lengths.as_ref(),
        given.state.clone(),
    );
    outputs_agree(&values(&y, &state), "without autodiff")?;
    let loss = |y, state| given.loss(y, state);
    agree(
        differentiate(&trial.layer, &given, run, loss),
        "with autodiff",
    )?;
    if let Some(body) = reference {
        agree(
            differentiate(&trial.layer, &given, body, loss),
            "by the reference body",
        )?;
    }

    let strided_layer = trial.layer.clone().map(&mut Parameters::new(&mut Restride));
    let strided_loss = |y: Tensor<3>, state| {
        // The gradient that comes back is strided as the probe is.
        let turned = Given {
            probe_y: given.probe_y.clone().swap_dims(0, 1),
            ..given.clone()
        };
        turned.loss(y.swap_dims(0, 1), state)
    };
    for (layout, x) in layouts(&given.x) {
        let strided = Given {
            x,
            state: given.state.clone().map(&mut Restride),
            ..given.clone()
        };
        let x = strided.x.clone();
        let (y, state) = run(
            &strided_layer.valid(),
            x,
            strided.lengths.as_ref(),
            strided.state.clone(),
        );
        outputs_agree(&values(&y, &state), &format!("{layout}, without autodiff"))?;
        agree(
            differentiate(&strided_layer, &strided, run, strided_loss),
            layout,
        )?;
    }
    Ok(())
}

/// The same values in other orders in memory.
fn layouts(x: &Tensor<3>) -> [(&'static str, Tensor<3>); 3] {
    let options = (&x.device(), x.dtype());
    let stored = |x: Tensor<3>| Tensor::<3>::from_data(x.into_data(), options);
    let turned = |a, b| stored(x.clone().swap_dims(a, b)).swap_dims(a, b);
    let [batch, time, width] = x.dims();
    let around = TensorData::full([batch + 2, time + 2, width + 2], f64::NAN);
    let inside = [1..=batch, 1..=time, 1..=width];
    let around = Tensor::<3>::from_data(around, options).slice_assign(inside.clone(), x.clone());
    [
        ("with time first in memory", turned(0, 1)),
        ("with the width before time in memory", turned(1, 2)),
        (
            "as a window of a larger tensor of NaN",
            stored(around).slice(inside),
        ),
    ]
}
