//! The block that also looks at another sequence, and stacks of it and of the encoder's block.

mod block;
mod config;
mod stack;

pub use block::{DecoderBlock, DecoderBlockState};
pub use config::{DecoderBlockConfig, DecoderConfig, EncoderConfig};
pub use stack::{Decoder, DecoderState, Encoder};
