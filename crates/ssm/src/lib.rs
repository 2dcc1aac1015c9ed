#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod block;
mod discretisation;
mod nplr;
mod s4;
mod s5;

pub use block::{Mixing, S4Block, S4BlockConfig};
pub use discretisation::Discretisation;
pub use nplr::Nplr;
pub use s4::{S4, S4Config, S4State};
pub use s5::{S5, S5Config, S5State};
pub use seq_core::blocks::Stack;
pub use seq_core::{Bidirectional, Lengths, SequenceLayer, SequenceState, device};
