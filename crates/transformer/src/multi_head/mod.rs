//! The attention layer.

mod config;
mod layer;

pub use config::MultiHeadAttentionConfig;
pub(crate) use layer::map;
pub use layer::{AttentionMask, Memory, MultiHeadAttention};
