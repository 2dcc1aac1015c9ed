use burn::config::Config;
use burn::tensor::Device;
use seq_core::ConfigError;
use seq_core::models::LanguageModel;

use crate::{Transformer, TransformerConfig};

/// A language model of Transformer blocks, made by [`TransformerLmConfig`] or
/// [`load_pretrained`](crate::load_pretrained).
///
/// A prompt is read in the parallel form; each further symbol costs one step.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Int, Tensor};
/// use seq_core::models::Sampler;
/// use seq_transformer::{
///     FeedForwardConfig, MultiHeadAttentionConfig, RotaryConfig, TransformerBlockConfig,
///     TransformerConfig, TransformerLmConfig,
/// };
///
/// let device = seq_transformer::device();
/// let attention = MultiHeadAttentionConfig::new(16, 2).with_rotary(Some(RotaryConfig::new(8)));
/// let block = TransformerBlockConfig::new(attention, FeedForwardConfig::new(16, 64).into());
/// let model = TransformerLmConfig::new(50, TransformerConfig::new(2, block)).init(&device);
/// let ids = Tensor::<2, Int>::from_data([[3, 1, 4]], &device);
/// let (logits, _state) = model.forward(ids, None);
/// assert_eq!(logits.dims(), [1, 3, 50]);
/// let written: Vec<u32> = model.generate(&[3, 1, 4], Sampler::greedy()).take(5).collect();
/// assert_eq!(written.len(), 5);
/// # }
/// ```
pub type TransformerLm = LanguageModel<Transformer>;

/// Configuration of a [`TransformerLm`], made with [`init`](TransformerLmConfig::init).
///
/// The example is at [`TransformerLm`].
#[derive(Config, Debug)]
pub struct TransformerLmConfig {
    /// How many symbols there are.
    pub vocab_size: usize,
    /// The layer between the embedding and the logits.
    pub transformer: TransformerConfig,
    /// Whether the embedding makes the logits too, as in GPT-2. Otherwise there is a head without a bias.
    #[config(default = true)]
    pub tied_embeddings: bool,
    /// The probability that a value of the embeddings and of the last outputs is dropped while training.
    #[config(default = 0.0)]
    pub dropout: f64,
}

impl TransformerLmConfig {
    /// Makes sure that a model can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([("vocab_size", self.vocab_size)])?;
        ConfigError::probabilities([("dropout", self.dropout)])?;
        self.transformer.validate()
    }

    /// Makes the model, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> TransformerLm {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let layer = self.transformer.init(device);
        let model = match self.tied_embeddings {
            true => LanguageModel::tied(self.vocab_size, layer, device),
            false => LanguageModel::new(self.vocab_size, layer, device).without_head_bias(),
        };
        model.with_dropout(self.dropout)
    }
}
