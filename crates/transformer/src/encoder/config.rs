use burn::config::Config;
use burn::nn::{DropoutConfig, EmbeddingConfig, LinearConfig};
use burn::tensor::Device;
use seq_core::ConfigError;
use serde::{Deserialize, Serialize};

use super::TransformerEncoder;
use crate::{NormPosition, PositionsConfig, TransformerBlockConfig};

/// Configuration of a [`TransformerEncoder`], made with [`init`](TransformerEncoderConfig::init).
///
/// ```
/// use seq_transformer::{
///     FeedForwardConfig, MultiHeadAttentionConfig, NormPosition, PositionsConfig,
///     TransformerBlockConfig, TransformerEncoderConfig,
/// };
///
/// // As in BERT, small.
/// let attention = MultiHeadAttentionConfig::new(32, 4);
/// let block = TransformerBlockConfig::new(attention, FeedForwardConfig::new(32, 128).into())
///     .with_norm_position(NormPosition::Post);
/// let config = TransformerEncoderConfig::new(1000, 2, block)
///     .with_positions(Some(PositionsConfig::learned(64)))
///     .with_num_token_types(2)
///     .with_embedding_norm(true)
///     .with_pooler(true);
/// # #[cfg(feature = "ndarray")]
/// let encoder = config.init(&seq_transformer::device());
/// ```
#[derive(Config, Debug)]
pub struct TransformerEncoderConfig {
    /// How many symbols there are.
    pub vocab_size: usize,
    /// How many blocks stand over one another.
    pub num_layers: usize,
    /// Each of the blocks.
    pub block: TransformerBlockConfig,
    /// What is added to the embeddings by their positions; by default nothing, as with rotary positions.
    pub positions: Option<PositionsConfig>,
    /// How many kinds of tokens have a vector that is added, BERT's two sentences for one; 0 for none.
    #[config(default = 0)]
    pub num_token_types: usize,
    /// Whether the sum of the embeddings has a norm, that of the blocks.
    #[config(default = false)]
    pub embedding_norm: bool,
    /// Whether there is a norm after the last block; by default where the blocks' norms stand before.
    pub final_norm: Option<bool>,
    /// Whether there is BERT's pooler, a linear map and a hyperbolic tangent of the first token.
    #[config(default = false)]
    pub pooler: bool,
    /// What stands for a whole sequence.
    #[config(default = "Pooling::Mean")]
    pub pooling: Pooling,
    /// Whether the vectors of whole sequences are scaled to length one.
    #[config(default = false)]
    pub normalise: bool,
    /// The probability that a value of the embeddings is dropped while training.
    #[config(default = 0.0)]
    pub dropout: f64,
}

/// What of an encoder's outputs stands for a whole sequence.
///
/// ```
/// use seq_transformer::Pooling;
///
/// assert_ne!(Pooling::Mean, Pooling::First);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Pooling {
    /// The mean over its real tokens (Reimers and Gurevych 2019, <https://arxiv.org/abs/1908.10084>).
    Mean,
    /// Its first token, `[CLS]` in BERT.
    First,
}

impl TransformerEncoderConfig {
    /// The width of one step.
    pub fn d_model(&self) -> usize {
        self.block.d_model()
    }

    /// Makes sure that an encoder can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_transformer::{
    ///     FeedForwardConfig, MultiHeadAttentionConfig, TransformerBlockConfig,
    ///     TransformerEncoderConfig,
    /// };
    ///
    /// let attention = MultiHeadAttentionConfig::new(8, 2);
    /// let block = TransformerBlockConfig::new(attention, FeedForwardConfig::new(8, 16).into());
    /// let error = TransformerEncoderConfig::new(0, 2, block).validate().unwrap_err().to_string();
    /// assert_eq!(error, "vocab_size must be at least 1, is 0");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([
            ("vocab_size", self.vocab_size),
            ("num_layers", self.num_layers),
        ])?;
        ConfigError::probabilities([("dropout", self.dropout)])?;
        if let Some(positions) = &self.positions {
            positions.validate()?;
        }
        self.block.validate()
    }

    /// Makes the encoder, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> TransformerEncoder {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let width = self.d_model();
        let embedding = |symbols| EmbeddingConfig::new(symbols, width).init(device);
        let norm = || self.block.norm.init(width, device);
        let pre = self.block.norm_position == NormPosition::Pre;
        TransformerEncoder {
            embedding: embedding(self.vocab_size),
            positions: self.positions.as_ref().map(|p| p.init(width, device)),
            token_types: (self.num_token_types > 0).then(|| embedding(self.num_token_types)),
            embedding_norm: self.embedding_norm.then(norm),
            dropout: DropoutConfig::new(self.dropout).init(),
            blocks: (0..self.num_layers)
                .map(|_| self.block.init(device))
                .collect(),
            norm: self.final_norm.unwrap_or(pre).then(norm),
            pooler: (self.pooler).then(|| LinearConfig::new(width, width).init(device)),
            pooling: self.pooling,
            normalise: self.normalise,
        }
    }
}
