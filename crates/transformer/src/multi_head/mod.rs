//! The attention layer.

mod config;
mod layer;
#[cfg(any(feature = "ndarray", feature = "flex"))]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod step;

pub use config::MultiHeadAttentionConfig;
pub use layer::{AttentionMask, Memory, MultiHeadAttention};
