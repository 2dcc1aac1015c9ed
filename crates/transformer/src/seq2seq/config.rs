use burn::config::Config;
use burn::nn::{DropoutConfig, EmbeddingConfig, Initializer, LinearConfig};
use burn::tensor::Device;
use seq_core::ConfigError;

use super::TransformerSeq2Seq;
use crate::{DecoderConfig, EncoderConfig, PositionsConfig};

/// Configuration of a [`TransformerSeq2Seq`], made with [`init`](TransformerSeq2SeqConfig::init).
///
/// The defaults are those of the first Transformer (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>) but
/// for the embeddings, which that shares among source, target and head.
///
/// ```
/// use seq_transformer::{
///     DecoderBlockConfig, DecoderConfig, EncoderConfig, FeedForwardConfig,
///     MultiHeadAttentionConfig, NormPosition, TransformerBlockConfig, TransformerSeq2SeqConfig,
/// };
///
/// let attention = MultiHeadAttentionConfig::new(32, 4);
/// let feed_forward = FeedForwardConfig::new(32, 128);
/// let encoder = TransformerBlockConfig::new(attention.clone(), feed_forward.clone().into())
///     .with_norm_position(NormPosition::Post);
/// let decoder = DecoderBlockConfig::new(attention.clone(), attention, feed_forward.into())
///     .with_norm_position(NormPosition::Post);
/// let config = TransformerSeq2SeqConfig::new(
///     60,
///     60,
///     EncoderConfig::new(2, encoder),
///     DecoderConfig::new(2, decoder),
/// )
/// .with_shared_embeddings(true)
/// .with_tied_head(true);
/// # #[cfg(feature = "ndarray")]
/// let model = config.init(&seq_transformer::device());
/// ```
#[derive(Config, Debug)]
pub struct TransformerSeq2SeqConfig {
    /// How many symbols there are in the source.
    pub source_vocab: usize,
    /// How many symbols there are in the target.
    pub target_vocab: usize,
    /// What reads the source.
    pub encoder: EncoderConfig,
    /// What writes the target; its `d_memory` is the encoder's `d_model`.
    pub decoder: DecoderConfig,
    /// What is added to the source by its positions.
    #[config(default = "Some(PositionsConfig::Sinusoidal)")]
    pub source_positions: Option<PositionsConfig>,
    /// What is added to the target by its positions.
    #[config(default = "Some(PositionsConfig::Sinusoidal)")]
    pub target_positions: Option<PositionsConfig>,
    /// Whether embeddings are multiplied by the square root of their width before positions are added. They
    /// begin with a standard deviation that makes them as large as sinusoids then, and otherwise with 1.
    #[config(default = true)]
    pub scale_embeddings: bool,
    /// Whether source and target have one embedding. They are of one vocabulary and width then.
    #[config(default = false)]
    pub shared_embeddings: bool,
    /// Whether the target's embedding makes the logits, too. Otherwise there is a head.
    #[config(default = false)]
    pub tied_head: bool,
    /// Whether the head, if there is one, has a bias.
    #[config(default = true)]
    pub head_bias: bool,
    /// The probability that a value of the embeddings, with their positions, is dropped while training.
    #[config(default = 0.0)]
    pub dropout: f64,
}

impl TransformerSeq2SeqConfig {
    /// Makes sure that a model can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([
            ("source_vocab", self.source_vocab),
            ("target_vocab", self.target_vocab),
        ])?;
        self.encoder.validate()?;
        self.decoder.validate()?;
        for positions in [&self.source_positions, &self.target_positions] {
            positions.as_ref().map_or(Ok(()), |p| p.validate())?;
        }
        let (source, target) = self.widths();
        let (name, found) = ("decoder.d_memory", self.decoder.block.d_memory());
        ConfigError::unless(found == source, name, "the encoder's d_model", found)?;
        if self.shared_embeddings {
            let (name, found) = ("target_vocab", self.target_vocab);
            let expected = "source_vocab where embeddings are shared";
            ConfigError::unless(found == self.source_vocab, name, expected, found)?;
            let expected = "the encoder's d_model where embeddings are shared";
            ConfigError::unless(source == target, "decoder.d_model", expected, target)?;
        }
        ConfigError::probabilities([("dropout", self.dropout)])
    }

    /// Makes the model, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> TransformerSeq2Seq {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let (source, target) = self.widths();
        let embedding = |symbols: usize, width: usize| {
            let std = match self.scale_embeddings || self.tied_head {
                true => (width as f64).sqrt().recip(),
                false => 1.0,
            };
            let normal = Initializer::Normal { mean: 0.0, std };
            let config = EmbeddingConfig::new(symbols, width).with_initializer(normal);
            config.init(device)
        };
        let head = LinearConfig::new(target, self.target_vocab).with_bias(self.head_bias);
        TransformerSeq2Seq {
            source_embedding: embedding(self.source_vocab, source),
            target_embedding: (!self.shared_embeddings)
                .then(|| embedding(self.target_vocab, target)),
            source_positions: self.source_positions.map(|p| p.init(source, device)),
            target_positions: self.target_positions.map(|p| p.init(target, device)),
            encoder: self.encoder.init(device),
            decoder: self.decoder.init(device),
            head: (!self.tied_head).then(|| head.init(device)),
            dropout: DropoutConfig::new(self.dropout).init(),
            scale_embeddings: self.scale_embeddings,
        }
    }

    /// Of a step of the source, and of the target.
    fn widths(&self) -> (usize, usize) {
        (self.encoder.block.d_model(), self.decoder.block.d_model())
    }
}
