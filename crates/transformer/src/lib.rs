#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod attention;
mod feed_forward;
mod positions;
mod rotary;

pub use feed_forward::{
    Activation, FeedForward, FeedForwardConfig, MixtureOfExperts, MixtureOfExpertsConfig, Mlp,
    MlpConfig, Routed,
};
pub use seq_core::checkpoint::CheckpointError;
pub use seq_core::{ConfigError, Lengths, SequenceLayer, SequenceState, device};
