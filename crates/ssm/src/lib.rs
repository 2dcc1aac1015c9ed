#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

pub use seq_core::{Lengths, device};
