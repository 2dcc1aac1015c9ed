#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod checkpoint;
mod config;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod cpu;
mod layer;
mod ops;

pub use config::RnnConfig;
pub use layer::{Rnn, RnnCell, RnnCellState, RnnState};
pub use seq_core::checkpoint::{Checkpoint, CheckpointError};
pub use seq_core::recurrent::{
    CellWeights, ConvertError, FromBurn, PyTorchCell, RecurrentCell, RecurrentConfig, RecurrentInit,
};
pub use seq_core::{Bidirectional, ConfigError, Lengths, SequenceLayer, SequenceState, device};
