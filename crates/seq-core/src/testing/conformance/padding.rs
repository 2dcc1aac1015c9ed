//! Law 2: a padded batch gives each sequence what it gets alone.

use burn::tensor::{Tensor, TensorData};

use super::trial::{Given, Trial, differentiate, run};
use crate::device::read;
use crate::testing::compare::{Values, close, equal, values};
use crate::{Lengths, SequenceLayer, SequenceState};

pub(super) fn padding<L: SequenceLayer>(trial: &Trial<L>) -> Result<(), String> {
    let lengths = trial.lengths();
    let mut given = trial.given(Some(lengths.clone()), trial.state());
    let clean = given.x.clone();
    given.x = pad(clean.clone(), &lengths, 1e3);
    let nan = Given {
        x: pad(clean, &lengths, f64::NAN),
        ..given.clone()
    };

    let forward = |given: &Given<L::State>| {
        run(
            &trial.plain,
            given.x.clone(),
            Some(&lengths),
            given.state.clone(),
        )
    };
    let (y, last) = forward(&given);
    let (nan_y, nan_last) = forward(&nan);
    equal(&values(&nan_y, &nan_last), &values(&y, &last))
        .map_err(|what| format!("with NaN as padding, and with 1000: {what}"))?;
    is_zero_beyond(&y, &lengths).map_err(|what| format!("output beyond the end: {what}"))?;

    let gradients = |given: &Given<L::State>| {
        differentiate(&trial.layer, given, run, |y, state| given.loss(y, state)).1
    };
    let whole = gradients(&given);
    equal(&gradients(&nan), &whole)
        .map_err(|what| format!("gradients with NaN as padding, and with 1000: {what}"))?;
    let (_, x_gradient) = &whole[0];
    let x_gradient = Tensor::<3>::from_data(x_gradient.clone(), (&trial.device, trial.dtype));
    is_zero_beyond(&x_gradient, &lengths).map_err(|what| format!("gradient of padding: {what}"))?;

    let mut summed: Option<Values> = None;
    for (row, &length) in lengths.as_slice().iter().enumerate() {
        let named = |what| format!("sequence {row} of length {length}, padded and alone: {what}");
        let last = last.clone().select(&[row]);
        if length == 0 {
            let before = given.state.clone().select(&[row]);
            equal(&values(&y, &last), &values(&y, &before)).map_err(named)?;
            continue;
        }
        let real = |x: &Tensor<3>| x.clone().narrow(0, row, 1).narrow(1, 0, length);
        let alone = Given {
            x: real(&given.x),
            lengths: None,
            state: given.state.clone().select(&[row]),
            probe_y: real(&given.probe_y),
            probe_state: given.probe_state.clone().select(&[row]),
        };
        let (alone_y, alone_last) = trial
            .plain
            .forward(alone.x.clone(), Some(alone.state.clone()));
        close(
            &values(&real(&y), &last),
            &values(&alone_y, &alone_last),
            trial.tolerance(),
        )
        .map_err(named)?;

        let mut own = gradients(&alone);
        let padded = vec![("input x".to_owned(), read(&real(&x_gradient)))];
        close(&padded, &own[..1].to_vec(), trial.gradient_tolerance())
            .map_err(|what| named(format!("gradient of {what}")))?;
        own.retain(is_parameter);
        summed = Some(match summed {
            None => own,
            Some(sum) => sum
                .into_iter()
                .zip(own)
                .map(|((name, a), (_, b))| (name, add(&a, &b)))
                .collect(),
        });
    }
    let parameters = whole.into_iter().filter(is_parameter).collect();
    let summed = summed.expect("one of the lengths is the full one");
    close(&parameters, &summed, trial.gradient_tolerance())
        .map_err(|what| format!("gradients of the batch, and of its sequences added up: {what}"))
}

fn is_parameter((name, _): &(String, TensorData)) -> bool {
    name.starts_with("parameter")
}

/// `x` `[batch, time, width]` with `value` beyond the end of each sequence.
fn pad(x: Tensor<3>, lengths: &Lengths, value: f64) -> Tensor<3> {
    let [batch, time, width] = x.dims();
    let ended = lengths
        .mask(time, &x.device())
        .bool_not()
        .reshape([batch, time, 1]);
    x.mask_fill(ended.expand([batch, time, width]), value)
}

fn is_zero_beyond(x: &Tensor<3>, lengths: &Lengths) -> Result<(), String> {
    let named = |x: Tensor<3>| vec![("x".to_owned(), read(&x))];
    equal(&named(x.clone()), &named(pad(x.clone(), lengths, 0.0)))
}

fn add(a: &TensorData, b: &TensorData) -> TensorData {
    let sum: Vec<f64> = a
        .iter::<f64>()
        .zip(b.iter::<f64>())
        .map(|(a, b)| a + b)
        .collect();
    TensorData::new(sum, a.shape().clone())
}
