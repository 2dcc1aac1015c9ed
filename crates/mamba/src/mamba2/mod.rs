//! Mamba-2, the layer around the state-space dual scan.

mod config;
mod layer;
#[cfg(any(feature = "ndarray", feature = "flex"))]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod step;

pub use config::Mamba2Config;
pub use layer::{Mamba2, Mamba2State};
