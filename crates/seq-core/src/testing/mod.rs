//! What the tests of every architecture share: [`Conformance`], the laws of
//! [`SequenceLayer`](crate::SequenceLayer), and [`Golden`], comparison with what other
//! implementations answered; [`random`] tensors with their gradients; and for recurrent layers [`recurrent`],
//! which has the rest, too.
//!
//! The first two run on every backend of the build or, where the environment variable `BURN_DEVICE` names one,
//! on that; in f32 and, where the device computes in it, in f64. wgpu stores f64 but has
//! `exp` and `tanh` in f32 alone: it is run in f32 alone.

mod compare;
mod conformance;
mod golden;
pub mod random;
pub mod recurrent;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use burn::tensor::{DType, Device, Tensor, TensorData};

use crate::BackendName;
pub use conformance::Conformance;
pub use golden::{Golden, Run};

/// The backends to run on: those of the build, CPUs first, or the one that `BURN_DEVICE` names.
///
/// # Panics
///
/// When there is no backend of that name.
pub fn backends() -> Vec<BackendName> {
    let mut backends = BackendName::compiled();
    if let Ok(asked) = std::env::var("BURN_DEVICE") {
        let asked: BackendName = asked
            .parse()
            .unwrap_or_else(|error| panic!("BURN_DEVICE: {error}"));
        backends = vec![asked];
    }
    backends
}

/// The device of the first backend of the build, with which others are compared: in a build with a CPU backend
/// one, which computes in f64.
///
/// # Panics
///
/// When the build has no backend.
pub fn first_device() -> Device {
    let first = BackendName::compiled().into_iter().next();
    first
        .expect("this build has no backend to test on")
        .device()
}

/// The float types that a backend computes in: f32, and f64 if `exp` and `tanh` are right to 1e-12 in
/// it, which is measured once a backend.
fn float_types(backend: BackendName) -> Vec<DType> {
    static MEASURED: Mutex<BTreeMap<&str, bool>> = Mutex::new(BTreeMap::new());
    let mut measured = MEASURED.lock().unwrap_or_else(PoisonError::into_inner);
    let has_f64 = *measured
        .entry(backend.name())
        .or_insert_with(|| computes_in_f64(&backend.device()));
    match has_f64 {
        true => vec![DType::F32, DType::F64],
        false => vec![DType::F32],
    }
}

fn computes_in_f64(device: &Device) -> bool {
    if !device.supports_dtype(DType::F64) {
        return false;
    }
    let values: Vec<f64> = (-8..=8).map(|step| f64::from(step) * 0.37).collect();
    let x = TensorData::new(values.clone(), [values.len()]);
    let x = Tensor::<1>::from_data(x, (device, DType::F64));
    let right = |found: Tensor<1>, function: fn(f64) -> f64| {
        let found = found.into_data();
        let mut pairs = found.iter::<f64>().zip(values.iter().map(|x| function(*x)));
        pairs.all(|(found, expected)| (found - expected).abs() <= 1e-12 * expected.abs())
    };
    right(x.clone().exp(), f64::exp) && right(x.tanh(), f64::tanh)
}

/// Turns a panic into an error that says where it came from.
fn guarded<T>(body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("without a message")))
    })
}
