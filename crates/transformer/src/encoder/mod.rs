//! Encoders of text, such as BERT, and the folders that they are published in.

mod config;
mod layer;
mod pretrained;

pub use config::{Pooling, TransformerEncoderConfig};
pub use layer::TransformerEncoder;
pub use pretrained::load_pretrained_encoder;
