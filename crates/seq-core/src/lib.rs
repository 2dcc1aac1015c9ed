#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

pub mod autodiff;
pub mod blocks;
pub mod checkpoint;
mod config;
pub mod convolution;
#[cfg(feature = "cpu-kernels")]
pub mod cpu;
mod device;
mod layer;
mod lengths;
mod linear;
pub mod models;
mod packed;
pub mod recurrent;
pub mod scan;
mod state;
#[cfg(feature = "testing")]
pub mod testing;

pub use config::ConfigError;
#[cfg(feature = "cpu-kernels")]
pub use device::is_cpu;
pub use device::{BackendName, UnknownBackend, device};
pub use layer::{Bidirectional, SequenceLayer};
pub use lengths::Lengths;
pub use linear::{linear, linear_packed, linear_transposed};
pub use packed::PackedWeights;
pub use state::{SequenceState, StateError, StateMapper, StateRecord};
