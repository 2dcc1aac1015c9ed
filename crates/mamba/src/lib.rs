#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod gated_norm;
mod lm;
mod mamba;
mod mamba2;
mod mamba3;
mod mixer;
mod selective_scan;
mod simplified;
mod ssd;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod weight;

pub use lm::{
    MambaLm, MambaLmConfig, Mixer, MixerConfig, MixerState, load_pretrained, save_pretrained,
};
pub use mamba::{DtInit, Mamba, MambaConfig, MambaState};
pub use mamba2::{Mamba2, Mamba2Config, Mamba2State};
pub use mamba3::{Mamba3, Mamba3Config, Mamba3State};
pub(crate) use selective_scan::softplus;
pub use selective_scan::{Projection, SelectiveScan};
pub use seq_core::checkpoint::CheckpointError;
pub use seq_core::{Bidirectional, ConfigError, Lengths, SequenceLayer, SequenceState, device};
pub use simplified::{SimplifiedSsm, SimplifiedSsmConfig, SimplifiedState};
pub use ssd::{Ssd, SsdDecay, StepSize};
