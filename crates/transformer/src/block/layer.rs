use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::{Device, Tensor};
use seq_core::blocks::Norm;
use seq_core::{Lengths, SequenceLayer};

use super::NormPosition;
use crate::{AttentionMask, KvCache, Mlp, MultiHeadAttention};

/// A block of attention and feed-forward, each with a norm and inside a residual connection; made by
/// [`TransformerBlockConfig`](crate::TransformerBlockConfig).
///
/// As a [`SequenceLayer`] it is a decoder's, causal and with a cache; by [`encode`](Self::encode) an encoder's.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_transformer::{
///     AttentionMask, FeedForwardConfig, MultiHeadAttentionConfig, SequenceLayer,
///     TransformerBlockConfig,
/// };
///
/// let device = seq_transformer::device();
/// let attention = MultiHeadAttentionConfig::new(16, 4);
/// let config = TransformerBlockConfig::new(attention, FeedForwardConfig::new(16, 64).into());
/// let block = config.init(&device);
/// let x = Tensor::<3>::random([2, 10, 16], Distribution::Default, &device);
/// let (y, state) = block.forward(x.clone(), None);
/// let (y, _state) = block.step(Tensor::zeros([2, 16], &device), state);
/// assert_eq!(y.dims(), [2, 16]);
/// assert_eq!(block.encode(x, &AttentionMask::default()).dims(), [2, 10, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct TransformerBlock {
    /// Before the attention, or after it was added.
    pub attention_norm: Norm,
    /// Self-attention.
    pub attention: MultiHeadAttention,
    /// Before the feed-forward, or after it was added.
    pub feed_forward_norm: Norm,
    /// Of each step by itself.
    pub feed_forward: Mlp,
    /// On what is added, while training.
    pub dropout: Dropout,
    /// Where the norms stand.
    #[module(skip)]
    pub norm_position: NormPosition,
    /// Whether both read the block's input.
    #[module(skip)]
    pub parallel: bool,
}

impl TransformerBlock {
    /// Runs whole sequences `[batch, time, d_model]` to the same shape, seeing both ways unless the mask says
    /// otherwise.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn encode(&self, x: Tensor<3>, mask: &AttentionMask) -> Tensor<3> {
        let attend = |x| (self.attention.attend(x, mask), ());
        self.run(x, mask.lengths.as_ref(), attend).0
    }

    /// As [`SequenceLayer::forward`], or with `lengths` as `forward_padded`, and what a
    /// [`MixtureOfExperts`](crate::MixtureOfExperts) asks to add to the loss so that its experts are used alike,
    /// `[1]`.
    ///
    /// # Panics
    ///
    /// As those.
    pub fn forward_balanced(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<KvCache>,
    ) -> (Tensor<3>, KvCache, Option<Tensor<1>>) {
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let x = clear(lengths, x);
        let attend = |x| match lengths {
            Some(lengths) => self.attention.forward_padded(x, lengths, state),
            None => self.attention.forward(x, state),
        };
        let (y, state, balance) = self.run(x, lengths, attend);
        (clear(lengths, y), state, balance)
    }

    fn run<T>(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        attend: impl FnOnce(Tensor<3>) -> (Tensor<3>, T),
    ) -> (Tensor<3>, T, Option<Tensor<1>>) {
        let drop = |x| self.dropout.forward(x);
        let pre = self.norm_position == NormPosition::Pre;
        let before = |norm: &Norm, x: &Tensor<3>| match pre {
            true => norm.forward(x.clone()),
            false => x.clone(),
        };
        let after = |norm: &Norm, x: Tensor<3>| match pre {
            true => x,
            false => norm.forward(x),
        };
        let (attended, state) = attend(before(&self.attention_norm, &x));
        if self.parallel {
            let normed = before(&self.feed_forward_norm, &x);
            let (fed, balance) = self.feed_forward.forward(normed, lengths);
            return (x + drop(attended) + drop(fed), state, balance);
        }
        let x = after(&self.attention_norm, x + drop(attended));
        let normed = before(&self.feed_forward_norm, &x);
        let (fed, balance) = self.feed_forward.forward(normed, lengths);
        let y = after(&self.feed_forward_norm, x + drop(fed));
        (y, state, balance)
    }
}

fn clear(lengths: Option<&Lengths>, x: Tensor<3>) -> Tensor<3> {
    match lengths {
        Some(lengths) => lengths.clear(x),
        None => x,
    }
}

impl SequenceLayer for TransformerBlock {
    type State = KvCache;

    fn d_input(&self) -> usize {
        self.attention.d_input()
    }

    fn d_output(&self) -> usize {
        self.attention.d_output()
    }

    fn initial_state(&self, batch: usize, device: &Device) -> KvCache {
        self.attention.initial_state(batch, device)
    }

    fn forward(&self, x: Tensor<3>, state: Option<KvCache>) -> (Tensor<3>, KvCache) {
        let (y, state, _) = self.forward_balanced(x, None, state);
        (y, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<KvCache>,
    ) -> (Tensor<3>, KvCache) {
        let (y, state, _) = self.forward_balanced(x, Some(lengths), state);
        (y, state)
    }

    fn step(&self, x: Tensor<2>, state: KvCache) -> (Tensor<2>, KvCache) {
        let (y, state, _) = self.forward_balanced(x.unsqueeze_dim(1), None, Some(state));
        (y.squeeze_dim(1), state)
    }
}
