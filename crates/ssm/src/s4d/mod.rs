//! S4D, a diagonal system for every feature.

mod checkpoint;
mod config;
mod layer;
mod modes;

pub use config::{S4dConfig, S4dInit};
pub use layer::{S4d, S4dState};
