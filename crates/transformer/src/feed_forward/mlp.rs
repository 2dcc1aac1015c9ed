use burn::module::Module;
use burn::tensor::Tensor;
use seq_core::Lengths;

use super::{FeedForward, MixtureOfExperts};

/// What a Transformer block has beside attention: one feed-forward layer, or a mixture of them; made by
/// [`MlpConfig`](super::MlpConfig).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_transformer::{MixtureOfExpertsConfig, MlpConfig};
///
/// let device = seq_transformer::device();
/// let mlp = MlpConfig::from(MixtureOfExpertsConfig::new(8, 16, 4)).init(&device);
/// let (y, balance) = mlp.forward(Tensor::<3>::ones([2, 5, 8], &device), None);
/// assert_eq!(y.dims(), [2, 5, 8]);
/// assert!(balance.is_some());
/// # }
/// ```
#[derive(Module, Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "a block has one, which is never moved about"
)]
pub enum Mlp {
    /// One layer for all tokens.
    Dense(FeedForward),
    /// Several, of which every token has some.
    Experts(MixtureOfExperts),
}

impl From<FeedForward> for Mlp {
    fn from(layer: FeedForward) -> Self {
        Self::Dense(layer)
    }
}

impl From<MixtureOfExperts> for Mlp {
    fn from(layer: MixtureOfExperts) -> Self {
        Self::Experts(layer)
    }
}

impl Mlp {
    /// The width of one step.
    pub fn d_model(&self) -> usize {
        match self {
            Self::Dense(layer) => layer.d_model(),
            Self::Experts(layer) => layer.d_model(),
        }
    }

    /// `[.., d_model]` to the same shape and, of a mixture, the loss that balances its experts
    /// ([`Routed::balance`](super::Routed::balance)), of which `lengths` leaves the padding out.
    ///
    /// # Panics
    ///
    /// When `x` has another width, or the lengths do not fit it.
    pub fn forward<const D: usize>(
        &self,
        x: Tensor<D>,
        lengths: Option<&Lengths>,
    ) -> (Tensor<D>, Option<Tensor<1>>) {
        match self {
            Self::Dense(layer) => (layer.forward(x), None),
            Self::Experts(layer) => {
                let routed = layer.forward(x, lengths);
                (routed.y, Some(routed.balance))
            }
        }
    }
}
