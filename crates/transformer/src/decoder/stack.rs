use burn::module::Module;
use burn::tensor::Tensor;
use seq_core::blocks::Norm;
use seq_core::{Lengths, SequenceState, StateMapper};

use super::{DecoderBlock, DecoderBlockState};
use crate::{AttentionMask, TransformerBlock};

/// Blocks over one another that see both ways, and a norm after the last; made by
/// [`EncoderConfig`](crate::EncoderConfig). The same as `nn.TransformerEncoder` of PyTorch.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_transformer::{
///     AttentionMask, EncoderConfig, FeedForwardConfig, Lengths, MultiHeadAttentionConfig,
///     TransformerBlockConfig,
/// };
///
/// let device = seq_transformer::device();
/// let attention = MultiHeadAttentionConfig::new(16, 4);
/// let block = TransformerBlockConfig::new(attention, FeedForwardConfig::new(16, 64).into());
/// let encoder = EncoderConfig::new(2, block).init(&device);
/// let x = Tensor::<3>::random([2, 10, 16], Distribution::Default, &device);
/// let mask = AttentionMask { lengths: Some(Lengths::new([10, 6])), ..Default::default() };
/// assert_eq!(encoder.forward(x, &mask).dims(), [2, 10, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Encoder {
    /// In the order in which they run.
    pub blocks: Vec<TransformerBlock>,
    /// Of the outputs of the last block.
    pub norm: Option<Norm>,
}

impl Encoder {
    /// Whole sequences `[batch, time, d_model]` to the same shape, of which every step sees what the mask
    /// allows.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn forward(&self, x: Tensor<3>, mask: &AttentionMask) -> Tensor<3> {
        let blocks = self.blocks.iter();
        let y = blocks.fold(x, |x, block| block.encode(x, mask));
        finish(self.norm.as_ref(), y)
    }
}

/// Blocks over one another that look at another sequence too, and a norm after the last; made by
/// [`DecoderConfig`](crate::DecoderConfig). The same as `nn.TransformerDecoder` of PyTorch.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_transformer::{
///     AttentionMask, DecoderBlockConfig, DecoderConfig, FeedForwardConfig, Lengths,
///     MultiHeadAttentionConfig, SequenceState,
/// };
///
/// let device = seq_transformer::device();
/// let attention = MultiHeadAttentionConfig::new(16, 4);
/// let feed_forward = FeedForwardConfig::new(16, 64);
/// let block = DecoderBlockConfig::new(attention.clone(), attention, feed_forward.into());
/// let decoder = DecoderConfig::new(2, block).init(&device);
/// let random = |time: usize| Tensor::<3>::random([2, time, 16], Distribution::Default, &device);
/// let (x, memory) = (random(5), random(7));
///
/// // Whole sequences, as in training.
/// let mask = AttentionMask { causal: true, ..Default::default() };
/// let lengths = Lengths::new([7, 4]);
/// let memory_mask = AttentionMask { lengths: Some(lengths.clone()), ..Default::default() };
/// let whole = decoder.decode(x.clone(), memory.clone(), &mask, &memory_mask);
///
/// // The same, of which the last step comes by itself.
/// let state = decoder.begin(memory, Some(&lengths));
/// let (_, state) = decoder.forward(x.clone().narrow(1, 0, 4), None, state);
/// let last = x.narrow(1, 4, 1).squeeze_dim(1);
/// let (y, _) = decoder.step(last.clone(), state.clone());
/// let off = y - whole.narrow(1, 4, 1).squeeze_dim(1);
/// assert!(off.abs().max().into_scalar::<f32>() < 1e-5);
///
/// // The second row alone.
/// let (y, _) = decoder.step(last.narrow(0, 1, 1), state.select(&[1]));
/// assert_eq!(y.dims(), [1, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Decoder {
    /// In the order in which they run.
    pub blocks: Vec<DecoderBlock>,
    /// Of the outputs of the last block.
    pub norm: Option<Norm>,
}

/// What a [`Decoder`] remembers: the caches of its blocks, and what they see of the memory.
///
/// The example is at [`Decoder`].
#[derive(Debug, Clone)]
pub struct DecoderState {
    /// In the order of the blocks.
    pub blocks: Vec<DecoderBlockState>,
    /// How many steps of each row's memory are real.
    pub memory_lengths: Lengths,
}

impl DecoderState {
    /// How many steps each row has read: the position of its next one.
    pub fn positions(&self) -> Vec<usize> {
        self.blocks[0].cache.positions()
    }
}

impl SequenceState for DecoderState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        let blocks = self.blocks.map(mapper);
        let lengths = self.memory_lengths.as_slice().iter();
        let lengths = mapper.counts("memory_steps", lengths.map(|&length| [length]).collect());
        let memory_lengths = Lengths::new(lengths.into_iter().map(|[length]| length));
        let longest = memory_lengths.longest();
        for block in &blocks {
            let steps = block.memory.keys.dims()[1];
            let expected = format_args!("at most {steps}, as there are keys of the memory");
            mapper.check("memory_steps", longest <= steps, expected, longest);
        }
        Self {
            blocks,
            memory_lengths,
        }
    }

    fn batch(&self) -> usize {
        self.memory_lengths.batch()
    }
}

impl Decoder {
    /// Whole sequences `[batch, time, d_model]` to the same shape, beside a memory
    /// `[batch, time_memory, d_memory]`. The masks are those of the self-attention, which sees both ways unless
    /// `mask` says otherwise, and of the attention to the memory.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn decode(
        &self,
        x: Tensor<3>,
        memory: Tensor<3>,
        mask: &AttentionMask,
        memory_mask: &AttentionMask,
    ) -> Tensor<3> {
        let y = self.blocks.iter().fold(x, |x, block| {
            block.decode(x, &block.remember(memory.clone()), mask, memory_mask)
        });
        finish(self.norm.as_ref(), y)
    }

    /// The state before the first step, beside a memory `[batch, time_memory, d_memory]` of whose rows the
    /// first `lengths` steps are real, by default all.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn begin(&self, memory: Tensor<3>, lengths: Option<&Lengths>) -> DecoderState {
        let [batch, time, _] = memory.dims();
        let all = || Lengths::new(vec![time; batch]);
        let memory_lengths = lengths.cloned().unwrap_or_else(all);
        let memory = memory_lengths.clear(memory);
        let blocks = self.blocks.iter();
        DecoderState {
            blocks: blocks.map(|block| block.begin(memory.clone())).collect(),
            memory_lengths,
        }
    }

    /// The steps `[batch, time, d_model]` that follow a state, causally, to the same shape and the state after
    /// them. With `lengths`, outputs beyond a row's length are zero, and the state is that after its last own
    /// step.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn forward(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: DecoderState,
    ) -> (Tensor<3>, DecoderState) {
        let (found, expected) = (state.blocks.len(), self.blocks.len());
        assert_eq!(
            found, expected,
            "the state is of {found} blocks, the decoder has {expected}"
        );
        let memory_lengths = state.memory_lengths;
        let mut after = Vec::with_capacity(expected);
        let mut y = x;
        for (block, state) in self.blocks.iter().zip(state.blocks) {
            let (next, state) = block.forward(y, lengths, state, Some(&memory_lengths));
            y = next;
            after.push(state);
        }
        let y = finish(self.norm.as_ref(), y);
        let y = match lengths {
            Some(lengths) => lengths.clear(y),
            None => y,
        };
        let state = DecoderState {
            blocks: after,
            memory_lengths,
        };
        (y, state)
    }

    /// One step `[batch, d_model]` to the same shape, and the next state.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn step(&self, x: Tensor<2>, state: DecoderState) -> (Tensor<2>, DecoderState) {
        let (y, state) = self.forward(x.unsqueeze_dim(1), None, state);
        (y.squeeze_dim(1), state)
    }
}

fn finish(norm: Option<&Norm>, y: Tensor<3>) -> Tensor<3> {
    match norm {
        Some(norm) => norm.forward(y),
        None => y,
    }
}
