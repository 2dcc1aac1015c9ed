//! S4: a system that is diagonal plus of rank 1 for every feature.

mod config;
mod layer;
mod powers;
mod system;

pub use config::S4Config;
pub(crate) use config::{log_dt, step_sizes};
pub use layer::{S4, S4State};
