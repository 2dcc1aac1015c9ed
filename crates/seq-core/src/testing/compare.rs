use burn::tensor::{Tensor, TensorData};

use crate::SequenceState;
use crate::device::read;

/// Tensors by name, in the order in which they came up.
pub(super) type Values = Vec<(String, TensorData)>;

/// Output and state, to compare.
pub(super) fn values<S: SequenceState>(y: &Tensor<3>, state: &S) -> Values {
    let mut values = vec![("y".to_owned(), read(y))];
    let state = state.record().tensors.into_iter();
    values.extend(state.map(|(name, data)| (format!("state.{name}"), data)));
    values
}

/// The largest `|found - expected| / (atol + rtol |expected|)`; above 1 is a difference.
///
/// Infinite where an element is NaN, or infinite in another way than its counterpart.
pub(super) fn distance(
    found: &TensorData,
    expected: &TensorData,
    [rtol, atol]: [f64; 2],
) -> Result<f64, String> {
    if found.shape() != expected.shape() {
        return Err(format!(
            "shape {:?}, expected {:?}",
            found.shape(),
            expected.shape()
        ));
    }
    let pairs = found.iter::<f64>().zip(expected.iter::<f64>());
    Ok(pairs
        .map(|(a, b)| match (a - b).abs() / (atol + rtol * b.abs()) {
            _ if a == b => 0.0,
            error if error.is_nan() => f64::INFINITY,
            error => error,
        })
        .fold(0.0, f64::max))
}

/// Fails unless all tensors agree within `tolerance * (1 + largest magnitude of the tensor)`.
pub(super) fn close(found: &Values, expected: &Values, tolerance: f64) -> Result<(), String> {
    each(found, expected, |found, expected| {
        let scale = expected
            .iter::<f64>()
            .fold(0.0f64, |max, value| max.max(value.abs()));
        match distance(found, expected, [0.0, tolerance * (1.0 + scale)])? {
            error if error <= 1.0 => Ok(()),
            error => Err(format!(
                "off by {:.1e} of its largest value, {tolerance:.0e} is allowed",
                error * tolerance
            )),
        }
    })
}

/// Fails unless all tensors are equal to the bit, and of numbers.
pub(super) fn equal(found: &Values, expected: &Values) -> Result<(), String> {
    each(found, expected, |found, expected| {
        if found.dtype() != expected.dtype() || found.shape() != expected.shape() {
            return Err(format!(
                "{:?} {:?}, expected {:?} {:?}",
                found.dtype(),
                found.shape(),
                expected.dtype(),
                expected.shape()
            ));
        }
        let mut pairs = found.iter::<f64>().zip(expected.iter::<f64>()).enumerate();
        match pairs.find(|(_, (a, b))| a != b) {
            None => Ok(()),
            Some((at, (a, b))) => Err(format!("element {at} is {a}, expected exactly {b}")),
        }
    })
}

fn each(
    found: &Values,
    expected: &Values,
    check: impl Fn(&TensorData, &TensorData) -> Result<(), String>,
) -> Result<(), String> {
    let names = |values: &Values| {
        values
            .iter()
            .map(|(name, _)| name.clone())
            .collect::<Vec<_>>()
    };
    if names(found) != names(expected) {
        return Err(format!(
            "tensors {:?}, expected {:?}",
            names(found),
            names(expected)
        ));
    }
    for ((name, found), (_, expected)) in found.iter().zip(expected) {
        check(found, expected).map_err(|what| format!("`{name}`: {what}"))?;
    }
    Ok(())
}
