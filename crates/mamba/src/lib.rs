#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod mamba;
mod selective_scan;
mod simplified;

pub use mamba::{DtInit, Mamba, MambaConfig, MambaState};
pub(crate) use selective_scan::softplus;
pub use selective_scan::{Projection, SelectiveScan};
pub use seq_core::{Bidirectional, Lengths, SequenceLayer, SequenceState, device};
pub use simplified::{SimplifiedSsm, SimplifiedSsmConfig, SimplifiedState};
