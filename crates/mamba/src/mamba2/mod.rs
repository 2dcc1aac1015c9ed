//! Mamba-2, the layer around the state-space dual scan.

mod config;
mod layer;

pub use config::Mamba2Config;
pub use layer::{Mamba2, Mamba2State};
