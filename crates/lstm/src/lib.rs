#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
mod convert;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod cpu;
mod layer;
mod ops;

pub use config::{LstmConfig, RecurrentDropout, Zoneout};
pub use convert::ConvertError;
pub use layer::{Lstm, LstmCell, LstmCellState, LstmNorm, LstmState};
pub use seq_core::checkpoint::{Checkpoint, CheckpointError};
pub use seq_core::recurrent::{Activation, RecurrentCell};
pub use seq_core::{Bidirectional, ConfigError, Lengths, SequenceLayer, SequenceState, device};
