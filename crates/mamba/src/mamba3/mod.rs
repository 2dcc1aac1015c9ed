//! Mamba-3, the layer whose states turn and whose steps are trapezoids.

mod config;
mod layer;
mod steps;
mod turn;

pub use config::Mamba3Config;
pub use layer::{Mamba3, Mamba3State};
