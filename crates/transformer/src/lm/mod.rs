//! Language models of Transformer blocks, and the folders that they are published in.

mod config;
mod hugging_face;
mod names;
mod pretrained;
mod rotary_fields;
mod stored;

pub use config::{TransformerLm, TransformerLmConfig};
pub use pretrained::load_pretrained;
