//! Language models of Transformer blocks, and the folders that they are published in.

mod config;
mod gguf;
mod hugging_face;
mod parameters;
mod pretrained;

pub use config::{TransformerLm, TransformerLmConfig};
pub use gguf::load_gguf;
pub(crate) use hugging_face::{OF_NO_EFFECT, activation};
pub use pretrained::{load_pretrained, save_pretrained};
