use burn::module::{Module, Param};
use burn::nn::{Dropout, Embedding, Linear};
use burn::tensor::{Int, Tensor, TensorData};
use seq_core::models::Sampler;
use seq_core::{Lengths, SequenceState, linear, linear_transposed};

use crate::{AttentionMask, Decoder, DecoderState, Encoder, PositionalEmbedding};

/// A model from one sequence of symbols to another (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>),
/// made by [`TransformerSeq2SeqConfig`](crate::TransformerSeq2SeqConfig).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Int, Tensor};
/// use seq_core::models::{Sampler, surprisal};
/// use seq_transformer::{
///     DecoderBlockConfig, DecoderConfig, EncoderConfig, FeedForwardConfig, Lengths,
///     MultiHeadAttentionConfig, TransformerBlockConfig, TransformerSeq2SeqConfig,
/// };
///
/// let device = seq_transformer::device();
/// let attention = MultiHeadAttentionConfig::new(16, 2);
/// let feed_forward = FeedForwardConfig::new(16, 32);
/// let encoder = TransformerBlockConfig::new(attention.clone(), feed_forward.clone().into());
/// let decoder = DecoderBlockConfig::new(attention.clone(), attention, feed_forward.into());
/// let (encoder, decoder) = (EncoderConfig::new(1, encoder), DecoderConfig::new(1, decoder));
/// let model = TransformerSeq2SeqConfig::new(20, 30, encoder, decoder).init(&device);
///
/// // Training: what follows each symbol of the target, which begins with a symbol of its own, here 1.
/// let ids = |rows: [[i32; 3]; 2]| Tensor::<2, Int>::from_data(rows, &device);
/// let lengths = Lengths::new([3, 2]);
/// let logits = model.forward(ids([[5, 6, 7], [8, 9, 0]]), Some(&lengths), ids([[1, 4, 3], [1, 5, 2]]));
/// let loss = surprisal(logits, ids([[4, 3, 2], [5, 2, 0]]));
/// assert_eq!(loss.dims(), [2, 3]);
///
/// // Two sequences at once, until each comes to the symbol 2.
/// let written = model.generate(&[&[5, 6, 7], &[8, 9]], 1, 2, 10, Sampler::greedy());
/// assert!(written.len() == 2 && written.iter().all(|ids| ids.len() <= 10));
/// # }
/// ```
#[derive(Module, Debug)]
pub struct TransformerSeq2Seq {
    /// `[source_vocab, d_model]` of the encoder.
    pub source_embedding: Embedding,
    /// `[target_vocab, d_model]` of the decoder; none where it is the source's.
    pub target_embedding: Option<Embedding>,
    /// Added to the source.
    pub source_positions: Option<PositionalEmbedding>,
    /// Added to the target.
    pub target_positions: Option<PositionalEmbedding>,
    /// Reads the source.
    pub encoder: Encoder,
    /// Writes the target.
    pub decoder: Decoder,
    /// `[d_model, target_vocab]`; none where the target's embedding makes the logits.
    pub head: Option<Linear>,
    /// On embeddings with their positions, while training.
    pub dropout: Dropout,
    /// Whether embeddings are multiplied by the square root of their width.
    #[module(skip)]
    pub scale_embeddings: bool,
}

impl TransformerSeq2Seq {
    /// What the decoder looks at: ids of the source `[batch, time]`, whatever they are beyond `lengths`, to
    /// `[batch, time, d_model]`.
    ///
    /// # Panics
    ///
    /// When an id is not below the number of symbols, the lengths do not fit the ids, or there are fewer learned
    /// positions than steps.
    pub fn encode(&self, ids: Tensor<2, Int>, lengths: Option<&Lengths>) -> Tensor<3> {
        let mask = AttentionMask {
            lengths: lengths.cloned(),
            ..AttentionMask::default()
        };
        let embedding = &self.source_embedding;
        let x = self.embed(embedding, self.source_positions.as_ref(), ids, &[0]);
        self.encoder.forward(x, &mask)
    }

    /// What follows every symbol of the target: ids of the source `[batch, time_source]` and of the target
    /// `[batch, time]` to logits `[batch, time, target_vocab]`. Padding of the target may be any symbol, as
    /// nothing before it sees it; leave out what follows it.
    ///
    /// # Panics
    ///
    /// As [`encode`](Self::encode), and when the batches differ.
    pub fn forward(
        &self,
        source: Tensor<2, Int>,
        lengths: Option<&Lengths>,
        target: Tensor<2, Int>,
    ) -> Tensor<3> {
        let memory = self.encode(source, lengths);
        let causal = AttentionMask {
            causal: true,
            ..AttentionMask::default()
        };
        let memory_mask = AttentionMask {
            lengths: lengths.cloned(),
            ..AttentionMask::default()
        };
        let x = self.embed_target(target, &[0]);
        self.logits(self.decoder.decode(x, memory, &causal, &memory_mask))
    }

    /// The state before the first symbol of the target, beside what [`encode`](Self::encode) gave for sources
    /// of these lengths.
    ///
    /// # Panics
    ///
    /// When the lengths do not fit the memory.
    pub fn begin(&self, memory: Tensor<3>, lengths: Option<&Lengths>) -> DecoderState {
        self.decoder.begin(memory, lengths)
    }

    /// The next symbol of each target: ids `[batch]` to the logits of what follows `[batch, target_vocab]`, and
    /// the next state.
    ///
    /// # Panics
    ///
    /// When an id is not below the number of symbols, the state is of another batch, or there is no learned
    /// position left.
    pub fn step(&self, ids: Tensor<1, Int>, state: DecoderState) -> (Tensor<2>, DecoderState) {
        let x = self.embed_target(ids.unsqueeze_dim(1), &state.positions());
        let (y, state) = self.decoder.step(x.squeeze_dim(1), state);
        (self.logits(y), state)
    }

    /// What follows `begin` for each source, until `end`, which is left out, or until there are `max` symbols
    /// or no learned positions any more. All sources are run as one batch.
    ///
    /// The model should be the one for inference, `model.valid()`, if it has been trained.
    ///
    /// # Panics
    ///
    /// When an id is not below the number of symbols, or a source is longer than there are learned positions.
    pub fn generate(
        &self,
        sources: &[&[u32]],
        begin: u32,
        end: u32,
        max: usize,
        mut sampler: Sampler,
    ) -> Vec<Vec<u32>> {
        let mut written = vec![Vec::new(); sources.len()];
        if sources.is_empty() {
            return written;
        }
        let device = self.source_embedding.weight.device();
        let lengths = Lengths::new(sources.iter().map(|source| source.len()));
        let time = lengths.longest().max(1);
        let padded = sources.iter().flat_map(|source| {
            let padding = std::iter::repeat_n(0, time - source.len());
            source.iter().copied().chain(padding)
        });
        let ids = TensorData::new(padded.collect(), [sources.len(), time]);
        let memory = self.encode(Tensor::from_data(ids, &device), Some(&lengths));
        let mut state = self.begin(memory, Some(&lengths));

        let positions = self.target_positions.as_ref();
        let room = positions.and_then(PositionalEmbedding::max_positions);
        let max = room.map_or(max, |room| room.min(max));
        // The rows that have not ended, and the last symbol of each.
        let mut rows: Vec<usize> = (0..sources.len()).collect();
        let mut last = vec![begin; sources.len()];
        for _ in 0..max {
            let ids = TensorData::new(last.clone(), [last.len()]);
            let (logits, after) = self.step(Tensor::from_data(ids, &device), state);
            let width = logits.dims()[1];
            let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
            last = logits
                .chunks(width)
                .map(|row| sampler.sample(row))
                .collect();
            let going: Vec<usize> = (0..last.len()).filter(|&i| last[i] != end).collect();
            if going.is_empty() {
                break;
            }
            state = match going.len() == last.len() {
                true => after,
                false => after.select(&going),
            };
            rows = going.iter().map(|&i| rows[i]).collect();
            last = going.iter().map(|&i| last[i]).collect();
            for (&row, &id) in rows.iter().zip(&last) {
                written[row].push(id);
            }
        }
        written
    }

    fn target_embedding(&self) -> &Embedding {
        let own = self.target_embedding.as_ref();
        own.unwrap_or(&self.source_embedding)
    }

    fn embed_target(&self, ids: Tensor<2, Int>, offsets: &[usize]) -> Tensor<3> {
        let positions = self.target_positions.as_ref();
        self.embed(self.target_embedding(), positions, ids, offsets)
    }

    fn embed(
        &self,
        embedding: &Embedding,
        positions: Option<&PositionalEmbedding>,
        ids: Tensor<2, Int>,
        offsets: &[usize],
    ) -> Tensor<3> {
        let x = embedding.forward(ids);
        let x = match self.scale_embeddings {
            true => {
                let [_, _, width] = x.dims();
                x * (width as f64).sqrt()
            }
            false => x,
        };
        let x = match positions {
            Some(positions) => positions.forward(x, offsets),
            None => x,
        };
        self.dropout.forward(x)
    }

    /// What follows outputs of the decoder.
    fn logits<const D: usize>(&self, y: Tensor<D>) -> Tensor<D> {
        match &self.head {
            Some(head) => {
                let bias = head.bias.as_ref().map(Param::val);
                linear(y, head.weight.val(), bias)
            }
            None => linear_transposed(y, self.target_embedding().weight.val()),
        }
    }
}
