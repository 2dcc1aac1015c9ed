use burn::module::Module;
use burn::tensor::{Device, Tensor};
use seq_core::blocks::Norm;
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper};
use seq_transformer::Mlp;

/// A feed-forward layer, or a mixture of them, inside a residual connection: `y = x + mlp(norm(x))`, of each step
/// by itself. Made by [`BlockConfig::FeedForward`](crate::BlockConfig::FeedForward) and
/// [`BlockConfig::Experts`](crate::BlockConfig::Experts).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::nn::RmsNormConfig;
/// use burn::tensor::Tensor;
/// use seq_hybrid::{FeedForwardBlock, SequenceLayer};
/// use seq_transformer::{FeedForwardConfig, MlpConfig};
///
/// let device = seq_hybrid::device();
/// let block = FeedForwardBlock {
///     norm: RmsNormConfig::new(8).init(&device).into(),
///     mlp: MlpConfig::from(FeedForwardConfig::new(8, 32)).init(&device),
/// };
/// let (y, _) = block.forward(Tensor::<3>::ones([2, 5, 8], &device), None);
/// assert_eq!(y.dims(), [2, 5, 8]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct FeedForwardBlock {
    /// Of the inputs of the feed-forward layer.
    pub norm: Norm,
    /// As wide as the norm.
    pub mlp: Mlp,
}

/// The state of what remembers nothing. The example is at [`FeedForwardBlock`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memoryless;

impl SequenceState for Memoryless {
    fn map(self, _: &mut impl StateMapper) -> Self {
        self
    }
}

impl FeedForwardBlock {
    /// As [`SequenceLayer::forward`], or with `lengths` as `forward_padded`, and the loss that balances the
    /// experts of a mixture, `[1]`.
    ///
    /// # Panics
    ///
    /// As those.
    pub fn forward_balanced(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
    ) -> (Tensor<3>, Option<Tensor<1>>) {
        let clear = |x| match lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        };
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let x = clear(x);
        let (y, balance) = self.mlp.forward(self.norm.forward(x.clone()), lengths);
        (clear(x + y), balance)
    }
}

impl SequenceLayer for FeedForwardBlock {
    type State = Memoryless;

    fn d_input(&self) -> usize {
        self.norm.width()
    }

    fn d_output(&self) -> usize {
        self.norm.width()
    }

    fn initial_state(&self, _: usize, _: &Device) -> Memoryless {
        Memoryless
    }

    fn forward(&self, x: Tensor<3>, _: Option<Memoryless>) -> (Tensor<3>, Memoryless) {
        (self.forward_balanced(x, None).0, Memoryless)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        _: Option<Memoryless>,
    ) -> (Tensor<3>, Memoryless) {
        (self.forward_balanced(x, Some(lengths)).0, Memoryless)
    }

    fn step(&self, x: Tensor<2>, _: Memoryless) -> (Tensor<2>, Memoryless) {
        let (y, _) = self.mlp.forward(self.norm.forward(x.clone()), None);
        (x + y, Memoryless)
    }
}
