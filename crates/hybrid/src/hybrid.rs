use burn::module::Module;
use burn::tensor::{Device, Tensor};
use seq_core::blocks::Norm;
use seq_core::{Lengths, SequenceLayer};

use crate::{HybridLayer, HybridState};

/// Blocks of any kinds over one another, with a norm after the last; made by
/// [`HybridConfig`](crate::HybridConfig).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_hybrid::{HybridConfig, SequenceLayer};
/// use seq_mamba::MambaConfig;
/// use seq_transformer::{FeedForwardConfig, MultiHeadAttentionConfig};
///
/// let device = seq_hybrid::device();
/// let blocks = vec![
///     MambaConfig::new(16).into(),
///     FeedForwardConfig::new(16, 64).into(),
///     MultiHeadAttentionConfig::new(16, 4).into(),
/// ];
/// let hybrid = HybridConfig::new(16, blocks).init(&device);
/// let x = Tensor::<3>::random([2, 10, 16], Distribution::Default, &device);
/// let (y, state) = hybrid.forward(x, None);
/// assert_eq!(y.dims(), [2, 10, 16]);
/// let (y, _state) = hybrid.step(Tensor::zeros([2, 16], &device), state);
/// assert_eq!(y.dims(), [2, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Hybrid {
    /// In the order in which they run.
    pub layers: Vec<HybridLayer>,
    /// Of the outputs of the last block.
    pub norm: Norm,
}

impl Hybrid {
    /// As [`SequenceLayer::forward`], or with `lengths` as `forward_padded`, and the mean of what the blocks'
    /// mixtures of experts ask to add to the loss, `[1]`; none without such.
    ///
    /// # Panics
    ///
    /// As those.
    ///
    /// ```
    /// # #[cfg(feature = "ndarray")] {
    /// use burn::tensor::Tensor;
    /// use seq_hybrid::HybridConfig;
    /// use seq_mamba::MambaConfig;
    /// use seq_transformer::MixtureOfExpertsConfig;
    ///
    /// let device = seq_hybrid::device();
    /// let experts = MixtureOfExpertsConfig::new(8, 16, 4).into();
    /// let hybrid = HybridConfig::new(8, vec![MambaConfig::new(8).into(), experts]).init(&device);
    /// let (_, _, balance) = hybrid.forward_balanced(Tensor::ones([2, 5, 8], &device), None, None);
    /// let to_add = balance.expect("there are experts") * 0.01;
    /// # }
    /// ```
    pub fn forward_balanced(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<Vec<HybridState>>,
    ) -> (Tensor<3>, Vec<HybridState>, Option<Tensor<1>>) {
        let mut before = state.map(|state| self.check(state).into_iter());
        let mut after = Vec::with_capacity(self.layers.len());
        let mut balances = Vec::new();
        let mut y = x;
        for layer in &self.layers {
            let state = before.as_mut().and_then(Iterator::next);
            let (next, state, balance) = layer.forward_balanced(y, lengths, state);
            y = next;
            after.push(state);
            balances.extend(balance);
        }
        let y = self.norm.forward(y);
        let y = match lengths {
            Some(lengths) => lengths.clear(y),
            None => y,
        };
        let balance = match balances.is_empty() {
            true => None,
            false => Some(Tensor::cat(balances, 0).mean()),
        };
        (y, after, balance)
    }

    /// Makes sure that a state fits.
    fn check(&self, state: Vec<HybridState>) -> Vec<HybridState> {
        let (found, expected) = (state.len(), self.layers.len());
        assert_eq!(
            found, expected,
            "the state is of {found} blocks, the layer has {expected}"
        );
        state
    }
}

impl SequenceLayer for Hybrid {
    type State = Vec<HybridState>;

    fn d_input(&self) -> usize {
        self.norm.width()
    }

    fn d_output(&self) -> usize {
        self.norm.width()
    }

    fn initial_state(&self, batch: usize, device: &Device) -> Self::State {
        let layers = self.layers.iter();
        layers
            .map(|layer| layer.initial_state(batch, device))
            .collect()
    }

    fn forward(&self, x: Tensor<3>, state: Option<Self::State>) -> (Tensor<3>, Self::State) {
        let (y, state, _) = self.forward_balanced(x, None, state);
        (y, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<Self::State>,
    ) -> (Tensor<3>, Self::State) {
        let (y, state, _) = self.forward_balanced(x, Some(lengths), state);
        (y, state)
    }

    fn step(&self, x: Tensor<2>, state: Self::State) -> (Tensor<2>, Self::State) {
        let mut y = x;
        let mut after = Vec::with_capacity(self.layers.len());
        for (layer, state) in self.layers.iter().zip(self.check(state)) {
            let (next, state) = layer.step(y, state);
            y = next;
            after.push(state);
        }
        (self.norm.forward(y), after)
    }
}
