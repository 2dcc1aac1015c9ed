#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod selective_scan;

pub use selective_scan::{Projection, SelectiveScan};
pub use seq_core::{Lengths, device};
