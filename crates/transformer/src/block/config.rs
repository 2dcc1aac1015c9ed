use burn::config::Config;
use burn::nn::DropoutConfig;
use burn::tensor::Device;
use seq_core::ConfigError;
use serde::{Deserialize, Serialize};

use super::TransformerBlock;
use crate::{MlpConfig, MultiHeadAttentionConfig, NormConfig};

/// Configuration of a [`TransformerBlock`], made with [`init`](TransformerBlockConfig::init).
///
/// ```
/// use seq_transformer::{
///     Activation, FeedForwardConfig, MultiHeadAttentionConfig, NormConfig, RotaryConfig,
///     TransformerBlockConfig,
/// };
///
/// // As in Llama.
/// let attention = MultiHeadAttentionConfig::new(64, 8)
///     .with_num_kv_heads(Some(2))
///     .with_bias(false)
///     .with_output_bias(false)
///     .with_rotary(Some(RotaryConfig::new(8)));
/// let feed_forward = FeedForwardConfig::new(64, 160)
///     .with_activation(Activation::Silu)
///     .with_gated(true)
///     .with_bias(false);
/// let config = TransformerBlockConfig::new(attention, feed_forward.into())
///     .with_norm(NormConfig::Rms { epsilon: 1e-5 });
/// # #[cfg(feature = "ndarray")]
/// let block = config.init(&seq_transformer::device());
/// ```
#[derive(Config, Debug)]
pub struct TransformerBlockConfig {
    /// The attention, whose `d_model` is the width of the block.
    pub attention: MultiHeadAttentionConfig,
    /// What follows it, of the same `d_model`.
    pub feed_forward: MlpConfig,
    /// The norm of both.
    #[config(default = "NormConfig::Layer { epsilon: 1e-5 }")]
    pub norm: NormConfig,
    /// Where the norms stand; before, as deep models train without a warm-up then.
    #[config(default = "NormPosition::Pre")]
    pub norm_position: NormPosition,
    /// Whether attention and feed-forward both read the block's input, and their outputs are added (GPT-J,
    /// <https://github.com/kingoflolz/mesh-transformer-jax>; GPT-NeoX). The norms stand before them then.
    #[config(default = false)]
    pub parallel: bool,
    /// The probability that a value of what is added to the residual stream is dropped while training.
    #[config(default = 0.0)]
    pub dropout: f64,
}

/// Where the norms of a block stand.
///
/// The example is at [`TransformerBlockConfig`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum NormPosition {
    /// Before attention and feed-forward: `x + f(norm(x))` (Xiong et al. 2020,
    /// <https://arxiv.org/abs/2002.04745>).
    Pre,
    /// After they were added: `norm(x + f(x))`, as in the first Transformer and in BERT.
    Post,
}

impl TransformerBlockConfig {
    /// The width of one step.
    pub fn d_model(&self) -> usize {
        self.attention.d_model
    }

    /// Makes sure that a block can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_transformer::{FeedForwardConfig, MultiHeadAttentionConfig, TransformerBlockConfig};
    ///
    /// let attention = MultiHeadAttentionConfig::new(8, 2);
    /// let config = TransformerBlockConfig::new(attention, FeedForwardConfig::new(6, 16).into());
    /// let error = config.validate().unwrap_err().to_string();
    /// assert_eq!(error, "feed_forward.d_model must be the attention's d_model, is 6");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.attention.validate()?;
        self.feed_forward.validate()?;
        let found = self.feed_forward.d_model();
        let fits = found == self.d_model();
        let expected = "the attention's d_model";
        ConfigError::unless(fits, "feed_forward.d_model", expected, found)?;
        self.norm.validate()?;
        let before = !self.parallel || self.norm_position == NormPosition::Pre;
        let expected = "Pre where attention and feed-forward are parallel";
        ConfigError::unless(before, "norm_position", expected, "Post")?;
        ConfigError::probabilities([("dropout", self.dropout)])
    }

    /// Makes the block, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> TransformerBlock {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let norm = || self.norm.init(self.d_model(), device);
        TransformerBlock {
            attention_norm: norm(),
            attention: self.attention.init(device),
            feed_forward_norm: norm(),
            feed_forward: self.feed_forward.init(device),
            dropout: DropoutConfig::new(self.dropout).init(),
            norm_position: self.norm_position,
            parallel: self.parallel,
        }
    }
}
