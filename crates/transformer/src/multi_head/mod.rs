//! The attention layer.

mod config;
mod layer;

pub use config::MultiHeadAttentionConfig;
pub use layer::{AttentionMask, Memory, MultiHeadAttention};
