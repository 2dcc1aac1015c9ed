use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use seq_core::blocks::Norm;
use seq_core::{ConfigError, Lengths, SequenceLayer, SequenceState, StateMapper};

use crate::{
    KvCache, NormConfig, NormPosition, PositionalEmbedding, PositionsConfig, RewindError,
    TransformerBlock, TransformerBlockConfig,
};

/// Configuration of a [`Transformer`], made with [`init`](TransformerConfig::init).
///
/// ```
/// use seq_transformer::{
///     FeedForwardConfig, MultiHeadAttentionConfig, PositionsConfig, TransformerBlockConfig,
///     TransformerConfig,
/// };
///
/// // As in GPT-2, small.
/// let attention = MultiHeadAttentionConfig::new(32, 4);
/// let block = TransformerBlockConfig::new(attention, FeedForwardConfig::new(32, 128).into());
/// let config = TransformerConfig::new(3, block)
///     .with_positions(Some(PositionsConfig::Learned { max_positions: 64, offset: 0 }));
/// # #[cfg(feature = "ndarray")]
/// let transformer = config.init(&seq_transformer::device());
/// ```
#[derive(Config, Debug)]
pub struct TransformerConfig {
    /// How many blocks stand over one another.
    pub num_layers: usize,
    /// Each of the blocks.
    pub block: TransformerBlockConfig,
    /// What is added to the inputs by their positions; by default nothing, as with rotary positions.
    pub positions: Option<PositionsConfig>,
    /// Whether there is a norm after the last block; by default where the blocks' norms stand before.
    pub final_norm: Option<bool>,
}

impl TransformerConfig {
    /// The width of one step.
    pub fn d_model(&self) -> usize {
        self.block.d_model()
    }

    /// The norm after the last block, if there is one.
    pub fn final_norm(&self) -> Option<NormConfig> {
        let pre = self.block.norm_position == NormPosition::Pre;
        self.final_norm.unwrap_or(pre).then_some(self.block.norm)
    }

    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([("num_layers", self.num_layers)])?;
        if let Some(positions) = &self.positions {
            positions.validate()?;
        }
        self.block.validate()
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> Transformer {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let width = self.d_model();
        Transformer {
            positions: self.positions.as_ref().map(|p| p.init(width, device)),
            blocks: (0..self.num_layers)
                .map(|_| self.block.init(device))
                .collect(),
            norm: self.final_norm().map(|norm| norm.init(width, device)),
        }
    }
}

/// Causal blocks over one another, with positions before the first and a norm after the last; made by
/// [`TransformerConfig`].
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_transformer::{
///     FeedForwardConfig, MultiHeadAttentionConfig, SequenceLayer, TransformerBlockConfig,
///     TransformerConfig,
/// };
///
/// let device = seq_transformer::device();
/// let attention = MultiHeadAttentionConfig::new(16, 4);
/// let block = TransformerBlockConfig::new(attention, FeedForwardConfig::new(16, 64).into());
/// let transformer = TransformerConfig::new(2, block).init(&device);
/// let x = Tensor::<3>::random([2, 10, 16], Distribution::Default, &device);
/// let (_, state) = transformer.forward(x, None);
/// let (_, later) = transformer.step(Tensor::zeros([2, 16], &device), state);
/// assert_eq!(later.positions(), [11, 11]);
/// assert_eq!(later.rewind(4).unwrap().positions(), [4, 4]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Transformer {
    /// Added to the inputs.
    pub positions: Option<PositionalEmbedding>,
    /// In the order in which they run.
    pub blocks: Vec<TransformerBlock>,
    /// Of the outputs of the last block.
    pub norm: Option<Norm>,
}

/// What a [`Transformer`] remembers: the cache of each block.
///
/// The example is at [`Transformer`].
#[derive(Debug, Clone)]
pub struct TransformerState {
    /// In the order of the blocks.
    pub blocks: Vec<KvCache>,
}

impl TransformerState {
    /// How many steps each row has read: the position of its next one.
    pub fn positions(&self) -> Vec<usize> {
        self.blocks[0].positions()
    }

    /// The state as it was when every row had read `length` steps.
    ///
    /// # Errors
    ///
    /// As [`KvCache::rewind`].
    pub fn rewind(self, length: usize) -> Result<Self, RewindError> {
        let blocks = self.blocks.into_iter();
        let blocks = blocks
            .map(|cache| cache.rewind(length))
            .collect::<Result<_, _>>()?;
        Ok(Self { blocks })
    }
}

impl SequenceState for TransformerState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            blocks: self.blocks.map(mapper),
        }
    }

    fn batch(&self) -> usize {
        self.blocks[0].batch()
    }
}

impl Transformer {
    /// As [`SequenceLayer::forward`], or with `lengths` as `forward_padded`, and the mean of what the blocks'
    /// mixtures of experts ask to add to the loss, `[1]`; none without such.
    ///
    /// # Panics
    ///
    /// As those.
    pub fn forward_balanced(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<TransformerState>,
    ) -> (Tensor<3>, TransformerState, Option<Tensor<1>>) {
        let batch = x.dims()[0];
        let clear = |x| match lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        };
        let mut before = match state {
            Some(state) => {
                let (found, expected) = (state.blocks.len(), self.blocks.len());
                assert_eq!(
                    found, expected,
                    "the state is of {found} blocks, the layer has {expected}"
                );
                state.blocks.into_iter().map(Some).collect()
            }
            None => vec![None; self.blocks.len()],
        }
        .into_iter();
        let mut y = match &self.positions {
            Some(positions) => {
                let first = before.as_slice()[0].as_ref();
                let first = first.map_or_else(|| vec![0; batch], KvCache::positions);
                positions.forward(clear(x), &first)
            }
            None => x,
        };
        let mut after = Vec::with_capacity(self.blocks.len());
        let mut balances = Vec::new();
        for block in &self.blocks {
            let (next, cache, balance) =
                block.forward_balanced(y, lengths, before.next().flatten());
            y = next;
            after.push(cache);
            balances.extend(balance);
        }
        let y = match &self.norm {
            Some(norm) => clear(norm.forward(y)),
            None => y,
        };
        let balance = match balances.is_empty() {
            true => None,
            false => Some(Tensor::cat(balances, 0).mean()),
        };
        (y, TransformerState { blocks: after }, balance)
    }
}

impl SequenceLayer for Transformer {
    type State = TransformerState;

    fn d_input(&self) -> usize {
        self.blocks[0].d_input()
    }

    fn d_output(&self) -> usize {
        self.blocks[0].d_output()
    }

    fn initial_state(&self, batch: usize, device: &Device) -> TransformerState {
        let blocks = self.blocks.iter();
        TransformerState {
            blocks: blocks
                .map(|block| block.initial_state(batch, device))
                .collect(),
        }
    }

    fn forward(
        &self,
        x: Tensor<3>,
        state: Option<TransformerState>,
    ) -> (Tensor<3>, TransformerState) {
        let (y, state, _) = self.forward_balanced(x, None, state);
        (y, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<TransformerState>,
    ) -> (Tensor<3>, TransformerState) {
        let (y, state, _) = self.forward_balanced(x, Some(lengths), state);
        (y, state)
    }

    fn step(&self, x: Tensor<2>, state: TransformerState) -> (Tensor<2>, TransformerState) {
        let (y, state, _) = self.forward_balanced(x.unsqueeze_dim(1), None, Some(state));
        (y.squeeze_dim(1), state)
    }
}
