#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod nplr;

pub use nplr::Nplr;
pub use seq_core::{Lengths, device};
