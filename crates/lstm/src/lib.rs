#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod cpu;
mod layer;
mod ops;

pub use config::{LstmConfig, RecurrentDropout, Zoneout};
pub use layer::{Lstm, LstmCell, LstmCellState, LstmState};
pub use seq_core::checkpoint::{Checkpoint, CheckpointError};
pub use seq_core::recurrent::{
    Activation, CellWeights, ConvertError, FromBurn, PyTorchCell, RecurrentCell, RecurrentConfig,
};
pub use seq_core::{Bidirectional, ConfigError, Lengths, SequenceLayer, SequenceState, device};
