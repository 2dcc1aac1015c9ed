#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod block;
mod nplr;
mod s4;

pub use block::{Mixing, S4Block, S4BlockConfig};
pub use nplr::Nplr;
pub use s4::{S4, S4Config, S4State};
pub use seq_core::{Bidirectional, Lengths, SequenceLayer, SequenceState, device};
