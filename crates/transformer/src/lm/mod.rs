//! Language models of Transformer blocks.

mod config;
mod gguf;

pub use config::{TransformerLm, TransformerLmConfig};
pub use gguf::load_gguf;
