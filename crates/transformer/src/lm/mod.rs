//! Language models of Transformer blocks, and the folders that they are published in.

mod config;
mod hugging_face;
mod parameters;
mod pretrained;

pub use config::{TransformerLm, TransformerLmConfig};
pub use pretrained::{load_pretrained, save_pretrained};
