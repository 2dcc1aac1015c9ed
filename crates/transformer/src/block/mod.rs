//! The block of attention and feed-forward.

mod config;
mod layer;

pub use config::{NormPosition, TransformerBlockConfig};
pub use layer::TransformerBlock;
