#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod block;
mod convolution;
mod discretisation;
mod hippo;
mod linear_ssm;
mod nplr;
mod s4;
mod s4d;
mod s5;
mod unroll;

pub use block::{Mixing, S4Block, S4BlockConfig};
pub use discretisation::Discretisation;
pub use hippo::Hippo;
pub use linear_ssm::{LinearSsm, LinearSsmConfig, LinearState};
pub use nplr::Nplr;
pub use s4::{S4, S4Config, S4State};
pub use s4d::{S4d, S4dConfig, S4dInit, S4dState};
pub use s5::{S5, S5Config, S5State};
pub use seq_core::blocks::Stack;
pub use seq_core::checkpoint::{Checkpoint, CheckpointError};
pub use seq_core::{Bidirectional, ConfigError, Lengths, SequenceLayer, SequenceState, device};
