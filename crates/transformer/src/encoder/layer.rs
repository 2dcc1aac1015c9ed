use burn::module::Module;
use burn::nn::{Dropout, Embedding, Linear};
use burn::tensor::{Int, Tensor};
use seq_core::blocks::Norm;
use seq_core::{Lengths, linear};

use super::Pooling;
use crate::{AttentionMask, PositionalEmbedding, TransformerBlock};

/// An encoder of text, whose every token sees all of its sequence; made by
/// [`TransformerEncoderConfig`](crate::TransformerEncoderConfig) or
/// [`load_pretrained_encoder`](crate::load_pretrained_encoder).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Int, Tensor};
/// use seq_transformer::{
///     AttentionMask, FeedForwardConfig, Lengths, MultiHeadAttentionConfig,
///     TransformerBlockConfig, TransformerEncoderConfig,
/// };
///
/// let device = seq_transformer::device();
/// let attention = MultiHeadAttentionConfig::new(16, 4);
/// let block = TransformerBlockConfig::new(attention, FeedForwardConfig::new(16, 64).into());
/// let encoder = TransformerEncoderConfig::new(50, 2, block).init(&device);
/// let ids = Tensor::<2, Int>::from_data([[3, 1, 4], [1, 5, 0]], &device);
/// let hidden = encoder.forward(ids.clone(), None, &AttentionMask::default());
/// assert_eq!(hidden.dims(), [2, 3, 16]);
/// let lengths = Lengths::new([3, 2]);
/// assert_eq!(encoder.embed(ids, Some(&lengths)).dims(), [2, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct TransformerEncoder {
    /// `[vocab_size, d_model]`
    pub embedding: Embedding,
    /// Added to the embeddings.
    pub positions: Option<PositionalEmbedding>,
    /// `[num_token_types, d_model]`, added to the embeddings.
    pub token_types: Option<Embedding>,
    /// Of the sum of the embeddings.
    pub embedding_norm: Option<Norm>,
    /// Of the embeddings, while training.
    pub dropout: Dropout,
    /// In the order in which they run.
    pub blocks: Vec<TransformerBlock>,
    /// Of the outputs of the last block.
    pub norm: Option<Norm>,
    /// `[d_model, d_model]`, of the first token.
    pub pooler: Option<Linear>,
    /// What stands for a whole sequence.
    #[module(skip)]
    pub pooling: Pooling,
    /// Whether the vectors of whole sequences are scaled to length one.
    #[module(skip)]
    pub normalise: bool,
}

impl TransformerEncoder {
    /// `[batch, time]` of symbols and, where there are any, the types of the tokens, by default all 0, to
    /// `[batch, time, d_model]`. What comes out beyond a row's length in the mask is of no meaning.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both, when there are types but the encoder has none, or
    /// when a sequence is longer than there are positions.
    pub fn forward(
        &self,
        ids: Tensor<2, Int>,
        token_types: Option<Tensor<2, Int>>,
        mask: &AttentionMask,
    ) -> Tensor<3> {
        let (shape, device) = (ids.dims(), ids.device());
        let mut x = self.embedding.forward(ids);
        if let Some(types) = &token_types {
            let found = types.dims();
            assert_eq!(
                found, shape,
                "the token types have shape {found:?}, the symbols {shape:?}"
            );
        }
        match (&self.token_types, token_types) {
            (Some(embedding), Some(types)) => x = x + embedding.forward(types),
            (Some(embedding), None) => {
                let types = Tensor::zeros([1, 1], &device);
                x = x + embedding.forward(types);
            }
            (None, Some(_)) => panic!("the encoder has no token types"),
            (None, None) => {}
        }
        if let Some(positions) = &self.positions {
            x = positions.forward(x, &[0]);
        }
        if let Some(norm) = &self.embedding_norm {
            x = norm.forward(x);
        }
        let x = self.dropout.forward(x);
        let blocks = self.blocks.iter();
        let y = blocks.fold(x, |x, block| block.encode(x, mask));
        match &self.norm {
            Some(norm) => norm.forward(y),
            None => y,
        }
    }

    /// BERT's pooler on what [`forward`](Self::forward) gives: `[batch, d_model]`, none without a pooler.
    pub fn pool(&self, hidden: Tensor<3>) -> Option<Tensor<2>> {
        let pooler = self.pooler.as_ref()?;
        let first = hidden.narrow(1, 0, 1).squeeze_dim::<2>(1);
        let bias = pooler.bias.as_ref().map(|bias| bias.val());
        Some(linear(first, pooler.weight.val(), bias).tanh())
    }

    /// A vector for each sequence of symbols `[batch, time]`, of its own length: `[batch, d_model]`, by the
    /// encoder's [`Pooling`], of length one if it [normalises](TransformerEncoder::normalise). That of an empty
    /// sequence is zero with [`Pooling::Mean`].
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn embed(&self, ids: Tensor<2, Int>, lengths: Option<&Lengths>) -> Tensor<2> {
        let mask = AttentionMask {
            lengths: lengths.cloned(),
            ..AttentionMask::default()
        };
        let hidden = self.forward(ids, None, &mask);
        let vectors = match self.pooling {
            Pooling::Mean => pool_mean(hidden, lengths),
            Pooling::First => hidden.narrow(1, 0, 1).squeeze_dim::<2>(1),
        };
        match self.normalise {
            true => {
                let squares = (vectors.clone() * vectors.clone()).sum_dim(1);
                vectors / squares.sqrt().clamp_min(1e-12)
            }
            false => vectors,
        }
    }
}

/// The mean over the real tokens, `[batch, time, d_model]` to `[batch, d_model]`; zero where there are none.
fn pool_mean(hidden: Tensor<3>, lengths: Option<&Lengths>) -> Tensor<2> {
    let Some(lengths) = lengths else {
        return hidden.mean_dim(1).squeeze_dim(1);
    };
    let counts: Vec<f64> = lengths
        .as_slice()
        .iter()
        .map(|&length| length.max(1) as f64)
        .collect();
    let place = (&hidden.device(), hidden.dtype());
    let counts = Tensor::<1>::from_data(counts.as_slice(), place);
    let sums: Tensor<2> = lengths.clear(hidden).sum_dim(1).squeeze_dim(1);
    sums / counts.unsqueeze_dim(1)
}
