#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod attention;
mod feed_forward;
mod positions;
mod rotary;

pub use positions::{PositionalEmbedding, PositionsConfig, alibi_slopes, sinusoidal};
pub use rotary::{Rotary, RotaryConfig, RotaryScaling};
pub use seq_core::checkpoint::CheckpointError;
pub use seq_core::{ConfigError, Lengths, SequenceLayer, SequenceState, device};
