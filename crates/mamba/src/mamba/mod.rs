//! Mamba, the selective state-space layer.

mod config;
mod layer;
#[cfg(any(feature = "ndarray", feature = "flex"))]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod step;

pub use config::{DtInit, MambaConfig};
pub use layer::{Mamba, MambaState};
