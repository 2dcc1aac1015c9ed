#![doc = include_str!("../README.md")]
#![deny(missing_docs)]

mod attention;
mod block;
mod cache;
mod decoder;
mod encoder;
mod feed_forward;
mod lm;
mod multi_head;
mod norm;
mod positions;
mod pytorch;
mod rotary;
mod seq2seq;
mod transformer;

pub use attention::{Alignment, Attention, AttentionDropout};
pub use block::{NormPosition, TransformerBlock, TransformerBlockConfig};
pub use cache::{KvCache, RewindError};
pub use decoder::{
    Decoder, DecoderBlock, DecoderBlockConfig, DecoderBlockState, DecoderConfig, DecoderState,
    Encoder, EncoderConfig,
};
pub use encoder::{Pooling, TransformerEncoder, TransformerEncoderConfig, load_pretrained_encoder};
pub use feed_forward::{
    Activation, FeedForward, FeedForwardConfig, MixtureOfExperts, MixtureOfExpertsConfig, Mlp,
    MlpConfig, Routed,
};
pub use lm::{TransformerLm, TransformerLmConfig, load_gguf, load_pretrained, save_pretrained};
pub use multi_head::{AttentionMask, Memory, MultiHeadAttention, MultiHeadAttentionConfig};
pub use norm::NormConfig;
pub use positions::{PositionalEmbedding, PositionsConfig, alibi_slopes, sinusoidal};
pub use pytorch::{PyTorchConfig, PyTorchModule};
pub use rotary::{Rotary, RotaryConfig, RotaryScaling};
pub use seq_core::checkpoint::{Checkpoint, CheckpointError};
pub use seq_core::{ConfigError, Lengths, SequenceLayer, SequenceState, device};
pub use seq2seq::{TransformerSeq2Seq, TransformerSeq2SeqConfig};
pub use transformer::{Transformer, TransformerConfig, TransformerState};
