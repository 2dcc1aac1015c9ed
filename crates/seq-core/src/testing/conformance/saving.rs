//! Laws 6 and 7: states and modules as bytes.

use burn::store::ModuleRecord;
use burn::tensor::{DType, Tensor, TensorData};

use super::trial::Trial;
use crate::testing::compare::{Values, close, equal, values};
use crate::testing::first_device;
use crate::{SequenceLayer, SequenceState, StateError, StateRecord};

pub(super) fn state<L: SequenceLayer>(trial: &Trial<L>) -> Result<(), String> {
    let (layer, batch) = (&trial.plain, trial.sizes.batch);
    let first = trial.input(21, trial.sizes.time);
    let (_, state) = layer.forward(first, Some(trial.state()));
    if state.batch() != batch {
        return Err(format!(
            "a state of {batch} sequences says it has {}",
            state.batch()
        ));
    }
    let next = trial.input(22, trial.sizes.time);
    let go_on = |x: Tensor<3>, state: L::State| -> Values {
        let (y, state) = layer.forward(x, Some(state));
        values(&y, &state)
    };
    let expected = go_on(next.clone(), state.clone());

    let bytes = state.to_bytes();
    let initial = layer.initial_state(1, &trial.device);
    let template = || initial.clone();
    let restored = template()
        .restore(&bytes)
        .map_err(|error| format!("restoring: {error}"))?;
    equal(&go_on(next.clone(), restored), &expected).map_err(|what| format!("restored: {what}"))?;

    let rows: Vec<_> = (0..batch).map(|row| state.clone().select(&[row])).collect();
    let joined = L::State::concat(rows.clone());
    equal(&go_on(next.clone(), joined), &expected)
        .map_err(|what| format!("taken apart and joined: {what}"))?;
    // The last row twice and in front: a batch of other rows in another order.
    let order: Vec<_> = (0..batch).rev().chain([batch - 1]).collect();
    let picked = go_on(pick(&next, &order), state.clone().select(&order));
    for (at, &row) in order.iter().enumerate() {
        let alone = go_on(pick(&next, &[row]), rows[row].clone());
        close(&pick_rows(&picked, at), &alone, trial.tolerance())
            .map_err(|what| format!("row {row} selected into a batch, and alone: {what}"))?;
    }

    // Nobody else holds the state now, so a device may compute in its memory.
    let record = state.record();
    go_on(next.clone(), state);
    let restored = template()
        .restore_record(record)
        .map_err(|error| format!("restoring a record: {error}"))?;
    equal(&go_on(next, restored), &expected)
        .map_err(|what| format!("restored from a record taken before the state went on: {what}"))?;
    // Each of the bytes makes a state or two, which on a GPU would take most of the time of this law.
    let initial = initial.to_device(&first_device());
    damaged(&bytes, &|| initial.clone())
}

fn pick(x: &Tensor<3>, rows: &[usize]) -> Tensor<3> {
    Tensor::cat(
        rows.iter()
            .map(|&row| x.clone().narrow(0, row, 1))
            .collect(),
        0,
    )
}

/// One row of every tensor.
fn pick_rows(values: &Values, row: usize) -> Values {
    let pick = |data: &TensorData| {
        let mut shape = data.shape().to_vec();
        let size: usize = shape[1..].iter().product();
        shape[0] = 1;
        let row = data
            .iter::<f64>()
            .skip(row * size)
            .take(size)
            .collect::<Vec<_>>();
        TensorData::new(row, shape)
    };
    values
        .iter()
        .map(|(name, data)| (name.clone(), pick(data)))
        .collect()
}

/// Bytes that are not a state of this layer give an error of the right kind, and never a panic.
fn damaged<S: SequenceState>(bytes: &[u8], template: &dyn Fn() -> S) -> Result<(), String> {
    for length in 0..bytes.len() {
        match template().restore(&bytes[..length]) {
            Err(StateError::Corrupt(_)) => {}
            Err(error) => return Err(format!("{length} bytes of {}: {error}", bytes.len())),
            Ok(_) => return Err(format!("{length} bytes of {} were restored", bytes.len())),
        }
    }
    // What was flipped may be a value, so this one may succeed; it must not panic.
    for at in 0..bytes.len() {
        let mut bytes = bytes.to_vec();
        bytes[at] ^= 0x15;
        let _ = template().restore(&bytes);
    }

    let record = template().record();
    let Some((name, data)) = record.tensors.first_key_value() else {
        return Ok(());
    };
    let expect = |what: &str, edit: &dyn Fn(&mut StateRecord), right: fn(&StateError) -> bool| {
        let mut edited = record.clone();
        edit(&mut edited);
        match template().restore_record(edited) {
            Err(error) if right(&error) => Ok(()),
            Err(error) => Err(format!("a state with {what} gave another error: {error}")),
            Ok(_) => Err(format!("a state with {what} was restored")),
        }
    };
    let replace = |record: &mut StateRecord, data| record.tensors.insert(name.clone(), data);
    let other = match data.dtype() {
        DType::F64 => DType::F32,
        _ => DType::F64,
    };
    let mut wider = data.shape().to_vec();
    *wider.last_mut().expect("the first axis is the batch") += 1;
    if data.shape().num_dims() > 1 {
        let wider = || TensorData::full_dtype(wider.clone(), 0.0, data.dtype());
        expect(
            "a wider tensor",
            &|record| drop(replace(record, wider())),
            |error| matches!(error, StateError::WrongShape { .. }),
        )?;
    }
    let flat = || TensorData::full_dtype([1], 0.0, data.dtype());
    if data.shape().num_dims() > 1 {
        expect(
            "a tensor of one axis",
            &|record| drop(replace(record, flat())),
            |error| matches!(error, StateError::WrongShape { .. }),
        )?;
    }
    let cast = || data.clone().convert_dtype(other);
    expect(
        "another float type",
        &|record| drop(replace(record, cast())),
        |error| matches!(error, StateError::WrongDtype { .. }),
    )?;
    expect(
        "a tensor too few",
        &|record| drop(record.tensors.remove(name)),
        |error| matches!(error, StateError::Missing { .. }),
    )?;
    let add = |record: &mut StateRecord| record.tensors.insert("another".to_owned(), flat());
    expect("a tensor too many", &|record| drop(add(record)), |error| {
        matches!(error, StateError::Unexpected { .. })
    })
}

/// `make` makes the same layer with other values, which follow from a seed.
pub(super) fn module<L: SequenceLayer>(
    trial: &Trial<L>,
    make: impl Fn(u64) -> L,
) -> Result<(), String> {
    let given = trial.given(None, trial.state());
    let outputs = |layer: L| {
        let (y, state) = layer
            .valid()
            .forward(given.x.clone(), Some(given.state.clone()));
        values(&y, &state)
    };
    let expected = outputs(trial.layer.clone());
    // Some may agree, where all units of a small layer are off.
    let other = |seed: &u64| equal(&outputs(make(*seed)), &expected).is_err();
    let seed = match trial.layer.num_params() {
        0 => 0,
        _ => (0..16)
            .find(other)
            .ok_or("layers with other values give the same outputs")?,
    };
    let fresh = || make(seed);

    let record = || trial.layer.clone().into_record();
    let bytes = record()
        .into_bytes()
        .map_err(|error| format!("saving to bytes: {error:?}"))?;
    let loaded = ModuleRecord::from_bytes(bytes)
        .and_then(|record| fresh().try_load_record(record))
        .map_err(|error| format!("loading from bytes: {error:?}"))?;
    equal(&outputs(loaded), &expected).map_err(|what| format!("loaded from bytes: {what}"))?;

    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let file = folder.path().join("layer.bpk");
    trial
        .layer
        .clone()
        .save_file(&file)
        .map_err(|error| format!("saving to a file: {error:?}"))?;
    let loaded = fresh()
        .try_load_file(&file)
        .map_err(|error| format!("loading from a file: {error:?}"))?;
    equal(&outputs(loaded), &expected).map_err(|what| format!("loaded from a file: {what}"))
}
