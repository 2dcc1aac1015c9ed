//! Language models of Transformer blocks.

mod config;

pub use config::{TransformerLm, TransformerLmConfig};
