use burn::config::Config;
use burn::nn::DropoutConfig;
use burn::tensor::Device;
use seq_core::ConfigError;

use super::{Decoder, DecoderBlock, Encoder};
use crate::{
    MlpConfig, MultiHeadAttentionConfig, NormConfig, NormPosition, TransformerBlockConfig,
};

/// Configuration of a [`DecoderBlock`], made with [`init`](DecoderBlockConfig::init).
///
/// ```
/// use seq_transformer::{
///     DecoderBlockConfig, FeedForwardConfig, MultiHeadAttentionConfig, NormPosition,
/// };
///
/// // As in the first Transformer, but smaller.
/// let attention = MultiHeadAttentionConfig::new(64, 8);
/// let feed_forward = FeedForwardConfig::new(64, 256);
/// let config = DecoderBlockConfig::new(attention.clone(), attention, feed_forward.into())
///     .with_norm_position(NormPosition::Post);
/// # #[cfg(feature = "ndarray")]
/// let block = config.init(&seq_transformer::device());
/// ```
#[derive(Config, Debug)]
pub struct DecoderBlockConfig {
    /// The self-attention, whose `d_model` is the width of the block.
    pub attention: MultiHeadAttentionConfig,
    /// The attention to the memory, of the same `d_model`; its `d_memory` is the memory's width. Positions and
    /// windows have no part in it.
    pub cross_attention: MultiHeadAttentionConfig,
    /// What follows it, of the same `d_model`.
    pub feed_forward: MlpConfig,
    /// The norm of all three.
    #[config(default = "NormConfig::Layer { epsilon: 1e-5 }")]
    pub norm: NormConfig,
    /// Where the norms stand; before, as deep models train without a warm-up then.
    #[config(default = "NormPosition::Pre")]
    pub norm_position: NormPosition,
    /// The probability that a value of what is added to the residual stream is dropped while training.
    #[config(default = 0.0)]
    pub dropout: f64,
}

impl DecoderBlockConfig {
    /// The width of one step.
    pub fn d_model(&self) -> usize {
        self.attention.d_model
    }

    /// The width of one step of the memory.
    pub fn d_memory(&self) -> usize {
        let cross = &self.cross_attention;
        cross.d_memory.unwrap_or(cross.d_model)
    }

    /// Makes sure that a block can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_transformer::{DecoderBlockConfig, FeedForwardConfig, MultiHeadAttentionConfig};
    ///
    /// let [attention, cross] = [8, 6].map(|d_model| MultiHeadAttentionConfig::new(d_model, 2));
    /// let config = DecoderBlockConfig::new(attention, cross, FeedForwardConfig::new(8, 16).into());
    /// let error = config.validate().unwrap_err().to_string();
    /// assert_eq!(error, "cross_attention.d_model must be the attention's d_model, is 6");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.attention.validate()?;
        self.cross_attention.validate()?;
        self.feed_forward.validate()?;
        let expected = "the attention's d_model";
        for (name, found) in [
            ("cross_attention.d_model", self.cross_attention.d_model),
            ("feed_forward.d_model", self.feed_forward.d_model()),
        ] {
            ConfigError::unless(found == self.d_model(), name, expected, found)?;
        }
        let without = self.cross_attention.rotary.is_none();
        ConfigError::unless(without, "cross_attention.rotary", "none", "given")?;
        self.norm.validate()?;
        ConfigError::probabilities([("dropout", self.dropout)])
    }

    /// Makes the block, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> DecoderBlock {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let norm = || self.norm.init(self.d_model(), device);
        DecoderBlock {
            attention_norm: norm(),
            attention: self.attention.init(device),
            cross_norm: norm(),
            cross_attention: self.cross_attention.init(device),
            feed_forward_norm: norm(),
            feed_forward: self.feed_forward.init(device),
            dropout: DropoutConfig::new(self.dropout).init(),
            norm_position: self.norm_position,
        }
    }
}

/// Configuration of an [`Encoder`], made with [`init`](EncoderConfig::init).
///
/// The example is at [`Encoder`].
#[derive(Config, Debug)]
pub struct EncoderConfig {
    /// How many blocks stand over one another.
    pub num_layers: usize,
    /// Each of the blocks.
    pub block: TransformerBlockConfig,
    /// Whether there is a norm after the last block; by default where the blocks' norms stand before.
    pub final_norm: Option<bool>,
}

impl EncoderConfig {
    /// The norm after the last block, if there is one.
    pub fn final_norm(&self) -> Option<NormConfig> {
        final_norm(self.final_norm, self.block.norm_position, self.block.norm)
    }

    /// Makes sure that an encoder can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([("num_layers", self.num_layers)])?;
        self.block.validate()
    }

    /// Makes the encoder, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> Encoder {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let width = self.block.d_model();
        Encoder {
            blocks: (0..self.num_layers)
                .map(|_| self.block.init(device))
                .collect(),
            norm: self.final_norm().map(|norm| norm.init(width, device)),
        }
    }
}

/// Configuration of a [`Decoder`], made with [`init`](DecoderConfig::init).
///
/// The example is at [`Decoder`].
#[derive(Config, Debug)]
pub struct DecoderConfig {
    /// How many blocks stand over one another.
    pub num_layers: usize,
    /// Each of the blocks.
    pub block: DecoderBlockConfig,
    /// Whether there is a norm after the last block; by default where the blocks' norms stand before.
    pub final_norm: Option<bool>,
}

impl DecoderConfig {
    /// The norm after the last block, if there is one.
    pub fn final_norm(&self) -> Option<NormConfig> {
        final_norm(self.final_norm, self.block.norm_position, self.block.norm)
    }

    /// Makes sure that a decoder can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([("num_layers", self.num_layers)])?;
        self.block.validate()
    }

    /// Makes the decoder, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> Decoder {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let width = self.block.d_model();
        Decoder {
            blocks: (0..self.num_layers)
                .map(|_| self.block.init(device))
                .collect(),
            norm: self.final_norm().map(|norm| norm.init(width, device)),
        }
    }
}

fn final_norm(asked: Option<bool>, position: NormPosition, norm: NormConfig) -> Option<NormConfig> {
    asked
        .unwrap_or(position == NormPosition::Pre)
        .then_some(norm)
}
