//! S5: one diagonal system of many inputs and outputs.

mod config;
mod layer;

pub use config::S5Config;
pub use layer::{S5, S5State};
