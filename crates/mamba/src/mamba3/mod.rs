//! Mamba-3, the layer whose states turn and whose inputs are weighed by the trapezoidal rule.

mod config;
mod layer;

pub use config::{Mamba3Config, Rotary};
pub use layer::{Mamba3, Mamba3State};
