#![doc = include_str!("../README.md")]
#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod config;
mod feed_forward;
mod hybrid;
mod json;
mod layer;
mod lm;

pub use config::{BlockConfig, HybridConfig, HybridConfigError};
pub use feed_forward::{FeedForwardBlock, Memoryless};
pub use hybrid::Hybrid;
pub use layer::{HybridLayer, HybridState};
pub use lm::{HybridLm, HybridLmConfig, load, save};
pub use seq_core::checkpoint::CheckpointError;
pub use seq_core::{ConfigError, Lengths, SequenceLayer, SequenceState, device};
