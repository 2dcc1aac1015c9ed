use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::Tensor;
use seq_core::blocks::Norm;
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper};

use crate::{AttentionMask, KvCache, Memory, Mlp, MultiHeadAttention, NormPosition};

/// A block of self-attention, attention to another sequence and feed-forward, each with a norm and inside a
/// residual connection (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>, section 3.1); made by
/// [`DecoderBlockConfig`](crate::DecoderBlockConfig).
///
/// [`decode`](Self::decode) runs whole sequences, [`forward`](Self::forward) what follows a state.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_transformer::{
///     AttentionMask, DecoderBlockConfig, FeedForwardConfig, MultiHeadAttentionConfig,
/// };
///
/// let device = seq_transformer::device();
/// let attention = MultiHeadAttentionConfig::new(16, 4);
/// let feed_forward = FeedForwardConfig::new(16, 64);
/// let block = DecoderBlockConfig::new(attention.clone(), attention, feed_forward.into()).init(&device);
/// let random = |time: usize| Tensor::<3>::random([2, time, 16], Distribution::Default, &device);
/// let (x, memory) = (random(5), random(7));
/// let causal = AttentionMask { causal: true, ..Default::default() };
/// let y = block.decode(x.clone(), &block.remember(memory.clone()), &causal, &Default::default());
/// assert_eq!(y.dims(), [2, 5, 16]);
///
/// let state = block.begin(memory);
/// let (y, _state) = block.forward(x.narrow(1, 0, 1), None, state, None);
/// assert_eq!(y.dims(), [2, 1, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct DecoderBlock {
    /// Before the self-attention, or after it was added.
    pub attention_norm: Norm,
    /// Self-attention.
    pub attention: MultiHeadAttention,
    /// Before the attention to the memory, or after it was added.
    pub cross_norm: Norm,
    /// Attention to the memory.
    pub cross_attention: MultiHeadAttention,
    /// Before the feed-forward, or after it was added.
    pub feed_forward_norm: Norm,
    /// Of each step by itself.
    pub feed_forward: Mlp,
    /// On what is added, while training.
    pub dropout: Dropout,
    /// Where the norms stand.
    #[module(skip)]
    pub norm_position: NormPosition,
}

/// What a [`DecoderBlock`] remembers.
///
/// The example is at [`DecoderBlock`].
#[derive(Debug, Clone)]
pub struct DecoderBlockState {
    /// What the self-attention has read.
    pub cache: KvCache,
    /// What the other attention looks at, which stays as it is.
    pub memory: Memory,
}

impl SequenceState for DecoderBlockState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        let cache = self.cache.map(mapper);
        let keys = mapper.growing("memory_keys", self.memory.keys, 1);
        let values = mapper.growing("memory_values", self.memory.values, 1);
        let [steps, found] = [&keys, &values].map(|x| x.dims()[1]);
        let expected = format_args!("as many steps as the keys, {steps}");
        mapper.check("memory_values", found == steps, expected, found);
        Self {
            cache,
            memory: Memory { keys, values },
        }
    }

    fn batch(&self) -> usize {
        self.cache.batch()
    }
}

impl DecoderBlock {
    /// Runs whole sequences `[batch, time, d_model]` to the same shape, with what
    /// [`remember`](Self::remember) made of the other ones. The masks are those of the self-attention, which sees
    /// both ways unless `mask` says otherwise, and of the attention to the memory.
    ///
    /// What a step beyond its row's length gives is of no meaning, but finite where the input is.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn decode(
        &self,
        x: Tensor<3>,
        memory: &Memory,
        mask: &AttentionMask,
        memory_mask: &AttentionMask,
    ) -> Tensor<3> {
        let attend = |x| (self.attention.attend(x, mask), ());
        self.run(x, mask.lengths.as_ref(), attend, memory, memory_mask)
            .0
    }

    /// What the block's attention sees of a memory `[batch, time_memory, d_memory]`.
    pub fn remember(&self, memory: Tensor<3>) -> Memory {
        self.cross_attention.remember(memory)
    }

    /// The state before the first step, beside a memory `[batch, time_memory, d_memory]`.
    pub fn begin(&self, memory: Tensor<3>) -> DecoderBlockState {
        let (batch, device) = (memory.dims()[0], memory.device());
        DecoderBlockState {
            cache: self.attention.initial_state(batch, &device),
            memory: self.remember(memory),
        }
    }

    /// Runs the steps `[batch, time, d_model]` that follow a state, causally, to the same shape and the state
    /// after them. With `lengths`, outputs beyond a row's length are zero, and the state is that after its
    /// last own step. `memory_lengths` says how many steps of each row's memory are real; by default all.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn forward(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: DecoderBlockState,
        memory_lengths: Option<&Lengths>,
    ) -> (Tensor<3>, DecoderBlockState) {
        let memory_mask = AttentionMask {
            lengths: memory_lengths.cloned(),
            ..AttentionMask::default()
        };
        let DecoderBlockState { cache, memory } = state;
        let clear = |x| match lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        };
        let attend = |x| match lengths {
            Some(lengths) => self.attention.forward_padded(x, lengths, Some(cache)),
            None => self.attention.forward(x, Some(cache)),
        };
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let (y, cache) = self.run(clear(x), lengths, attend, &memory, &memory_mask);
        (clear(y), DecoderBlockState { cache, memory })
    }

    fn run<T>(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        attend: impl FnOnce(Tensor<3>) -> (Tensor<3>, T),
        memory: &Memory,
        memory_mask: &AttentionMask,
    ) -> (Tensor<3>, T) {
        let (x, state) = self.residual(&self.attention_norm, x, attend);
        let cross = |x| (self.cross_attention.cross(x, memory, memory_mask), ());
        let (x, ()) = self.residual(&self.cross_norm, x, cross);
        let feed = |x| (self.feed_forward.forward(x, lengths).0, ());
        let (y, ()) = self.residual(&self.feed_forward_norm, x, feed);
        (y, state)
    }

    fn residual<T>(
        &self,
        norm: &Norm,
        x: Tensor<3>,
        layer: impl FnOnce(Tensor<3>) -> (Tensor<3>, T),
    ) -> (Tensor<3>, T) {
        match self.norm_position {
            NormPosition::Pre => {
                let (y, rest) = layer(norm.forward(x.clone()));
                (x + self.dropout.forward(y), rest)
            }
            NormPosition::Post => {
                let (y, rest) = layer(x.clone());
                (norm.forward(x + self.dropout.forward(y)), rest)
            }
        }
    }
}
