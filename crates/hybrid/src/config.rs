use burn::config::Config;
use burn::nn::RmsNormConfig;
use burn::tensor::Device;
use seq_core::ConfigError;
use seq_core::blocks::Residual;
use seq_core::recurrent::{LayerOptions, RecurrentConfig};
use seq_gru::GruConfig;
use seq_lstm::LstmConfig;
use seq_mamba::{Mamba2Config, Mamba3Config, MambaConfig};
use seq_rnn::RnnConfig;
use seq_ssm::{S4BlockConfig, S4Config, S4dConfig, S5Config};
use seq_transformer::{
    FeedForwardConfig, MixtureOfExpertsConfig, MultiHeadAttentionConfig, TransformerBlockConfig,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{FeedForwardBlock, Hybrid, HybridLayer};

/// Configuration of a [`Hybrid`], made with [`init`](HybridConfig::init).
///
/// In code, every block has its own whole configuration:
///
/// ```
/// use seq_hybrid::{BlockConfig, HybridConfig};
/// use seq_mamba::MambaConfig;
/// use seq_transformer::{FeedForwardConfig, MixtureOfExpertsConfig, MultiHeadAttentionConfig};
///
/// // As in Jamba, small: attention, without positions, in one of eight layers, and experts in every other one.
/// let layer = |index: usize| -> [BlockConfig; 2] {
///     let attention = MultiHeadAttentionConfig::new(32, 4).with_bias(false);
///     [
///         match index {
///             4 => attention.with_num_kv_heads(Some(2)).with_output_bias(false).into(),
///             _ => MambaConfig::new(32).into(),
///         },
///         match index % 2 {
///             1 => MixtureOfExpertsConfig::new(32, 64, 4).into(),
///             _ => FeedForwardConfig::new(32, 64).with_gated(true).with_bias(false).into(),
///         },
///     ]
/// };
/// let config = HybridConfig::new(32, (0..8).flat_map(layer).collect()).with_repeat(2);
/// # #[cfg(feature = "ndarray")]
/// assert_eq!(config.init(&seq_hybrid::device()).layers.len(), 32);
/// ```
///
/// In JSON, a block has the options that differ from the defaults; its widths are those of the model, and so
/// have no default only `num_heads` of an attention and `num_experts` of a mixture:
///
/// ```
/// use seq_hybrid::HybridConfig;
///
/// let json = r#"{
///     "d_model": 32,
///     "blocks": [
///         {"mamba": {"d_state": 8}},
///         {"feed_forward": {"d_hidden": 64, "activation": "Silu", "gated": true}},
///         {"attention": {"num_heads": 4, "num_kv_heads": 2}},
///         {"experts": {"num_experts": 4}}
///     ],
///     "repeat": 2
/// }"#;
/// let config: HybridConfig = serde_json::from_str(json)?;
/// assert!(config.validate().is_ok());
///
/// // What is not known is not passed over.
/// let error = serde_json::from_str::<HybridConfig>(&json.replace("d_state", "states"));
/// assert_eq!(error.unwrap_err().to_string(), "unknown field `blocks[0].mamba.states`");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, Serialize)]
pub struct HybridConfig {
    /// The width of one step, of all blocks.
    pub d_model: usize,
    /// The blocks in the order in which they run, at least one of which has a memory.
    pub blocks: Vec<BlockConfig>,
    /// How many times over the blocks stand, each time with weights of their own; 1 by default.
    pub repeat: usize,
    /// The epsilon of the root mean square norms before a block's layer, where that brings no norms of its own, and
    /// after the last; 1e-6 by default, as in Jamba.
    pub norm_eps: f64,
}

impl Config for HybridConfig {}

/// Configuration of one block, each with a norm and inside a residual connection. In JSON it is an object with one
/// field, the kind in small letters. The examples are at [`HybridConfig`].
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlockConfig {
    /// Of a [`Mamba`](seq_mamba::Mamba) layer.
    Mamba(MambaConfig),
    /// Of a [`Mamba2`](seq_mamba::Mamba2) layer.
    Mamba2(Mamba2Config),
    /// Of a [`Mamba3`](seq_mamba::Mamba3) layer.
    Mamba3(Mamba3Config),
    /// Of an [`S4Block`](seq_ssm::S4Block) around an [`S4`](seq_ssm::S4) layer.
    S4 {
        /// The layer inside.
        layer: S4Config,
        /// What is around it.
        block: S4BlockConfig,
    },
    /// Of an [`S4Block`](seq_ssm::S4Block) around an [`S4d`](seq_ssm::S4d) layer, which reads one way.
    S4d {
        /// The layer inside.
        layer: S4dConfig,
        /// What is around it.
        block: S4BlockConfig,
    },
    /// Of an [`S4Block`](seq_ssm::S4Block) around an [`S5`](seq_ssm::S5) layer.
    S5 {
        /// The layer inside.
        layer: S5Config,
        /// What is around it.
        block: S4BlockConfig,
    },
    /// Of an [`Rnn`](seq_rnn::Rnn), which reads one way. Its `d_input` and its `d_output`, or `d_hidden` where there
    /// is none, are the `d_model` of the hybrid.
    Rnn(RnnConfig),
    /// Of an [`Lstm`](seq_lstm::Lstm), which reads one way. Its `d_input` and its `d_projection`, or `d_hidden` where
    /// there is none, are the `d_model` of the hybrid.
    Lstm(LstmConfig),
    /// Of a [`Gru`](seq_gru::Gru), which reads one way. Its `d_input` and `d_hidden` are the `d_model` of the hybrid.
    Gru(GruConfig),
    /// Of causal self-attention, [`MultiHeadAttention`](seq_transformer::MultiHeadAttention), alone.
    Attention(MultiHeadAttentionConfig),
    /// Of a [`TransformerBlock`](seq_transformer::TransformerBlock), attention and feed-forward, with norms of its
    /// own.
    Transformer(TransformerBlockConfig),
    /// Of a [`FeedForward`](seq_transformer::FeedForward) layer. In JSON, its `d_hidden` is 4 times `d_model` by
    /// default.
    FeedForward(FeedForwardConfig),
    /// Of a [`MixtureOfExperts`](seq_transformer::MixtureOfExperts). In JSON, its `d_hidden` is 4 times `d_model` by
    /// default.
    Experts(MixtureOfExpertsConfig),
}

/// An option of a hybrid with a value that it cannot have.
///
/// ```
/// use seq_hybrid::{HybridConfig, HybridConfigError};
/// use seq_mamba::MambaConfig;
///
/// let blocks = vec![MambaConfig::new(8).into(), MambaConfig::new(6).into()];
/// let error = HybridConfig::new(8, blocks).validate().unwrap_err();
/// assert_eq!(error.to_string(), "blocks[1].mamba: d_model must be the hybrid's d_model, is 6");
/// assert!(matches!(error, HybridConfigError::Block { index: 1, .. }));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum HybridConfigError {
    /// One of the hybrid's, or of the model around it.
    #[error(transparent)]
    Option(#[from] ConfigError),
    /// One of a block's.
    #[error("blocks[{index}].{kind}: {error}")]
    Block {
        /// Which one it is of `blocks`.
        index: usize,
        /// Its name in JSON.
        kind: &'static str,
        /// What is wrong.
        error: ConfigError,
    },
}

impl HybridConfig {
    /// These blocks once, with the default epsilon.
    pub fn new(d_model: usize, blocks: Vec<BlockConfig>) -> Self {
        Self {
            d_model,
            blocks,
            repeat: 1,
            norm_eps: 1e-6,
        }
    }

    /// Sets how many times over the blocks stand.
    pub fn with_repeat(self, repeat: usize) -> Self {
        Self { repeat, ..self }
    }

    /// Sets the epsilon of the norms.
    pub fn with_norm_eps(self, norm_eps: f64) -> Self {
        Self { norm_eps, ..self }
    }

    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it and its block.
    pub fn validate(&self) -> Result<(), HybridConfigError> {
        ConfigError::sizes([("d_model", self.d_model), ("repeat", self.repeat)])?;
        ConfigError::bounds([("norm_eps", Some(self.norm_eps))])?;
        for (index, block) in self.blocks.iter().enumerate() {
            let error = |error| HybridConfigError::Block {
                index,
                kind: block.kind(),
                error,
            };
            block.validate(self.d_model).map_err(error)?;
        }
        let remembers = |block: &BlockConfig| {
            !matches!(block, BlockConfig::FeedForward(_) | BlockConfig::Experts(_))
        };
        let kinds: Vec<_> = self.blocks.iter().map(BlockConfig::kind).collect();
        let found = format!("[{}]", kinds.join(", "));
        let some = self.blocks.iter().any(remembers);
        ConfigError::unless(some, "blocks", "some, one of them with a memory", found)?;
        Ok(())
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> Hybrid {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let norm = RmsNormConfig::new(self.d_model).with_epsilon(self.norm_eps);
        let blocks = (0..self.repeat).flat_map(|_| &self.blocks);
        Hybrid {
            layers: blocks.map(|block| block.init(&norm, device)).collect(),
            norm: norm.init(device).into(),
        }
    }
}

impl BlockConfig {
    /// Its name in JSON.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Mamba(_) => "mamba",
            Self::Mamba2(_) => "mamba2",
            Self::Mamba3(_) => "mamba3",
            Self::S4 { .. } => "s4",
            Self::S4d { .. } => "s4d",
            Self::S5 { .. } => "s5",
            Self::Rnn(_) => "rnn",
            Self::Lstm(_) => "lstm",
            Self::Gru(_) => "gru",
            Self::Attention(_) => "attention",
            Self::Transformer(_) => "transformer",
            Self::FeedForward(_) => "feed_forward",
            Self::Experts(_) => "experts",
        }
    }

    /// Makes sure that a block of this width can be made.
    fn validate(&self, d_model: usize) -> Result<(), ConfigError> {
        let fits = |option, width| {
            let expected = "the hybrid's d_model";
            ConfigError::unless(width == d_model, option, expected, width)
        };
        match self {
            Self::Mamba(config) => {
                config.validate()?;
                fits("d_model", config.d_model)
            }
            Self::Mamba2(config) => {
                config.validate()?;
                fits("d_model", config.d_model)
            }
            Self::Mamba3(config) => {
                config.validate()?;
                fits("d_model", config.d_model)
            }
            Self::S4 { layer, block } => {
                layer.validate()?;
                block.validate()?;
                fits("layer.d_model", layer.d_model)
            }
            Self::S4d { layer, block } => {
                layer.validate()?;
                block.validate()?;
                one_way("layer.bidirectional", layer.bidirectional)?;
                fits("layer.d_model", layer.d_model)
            }
            Self::S5 { layer, block } => {
                layer.validate()?;
                block.validate()?;
                fits("layer.d_model", layer.d_model)
            }
            Self::Rnn(config) => {
                config.validate()?;
                recurrent(&config.options())?;
                fits("d_input", config.d_input)?;
                match config.d_output {
                    Some(width) => fits("d_output", width),
                    None => fits("d_hidden", config.d_hidden),
                }
            }
            Self::Lstm(config) => {
                config.validate()?;
                recurrent(&config.options())?;
                fits("d_input", config.d_input)?;
                match config.d_projection {
                    Some(width) => fits("d_projection", width),
                    None => fits("d_hidden", config.d_hidden),
                }
            }
            Self::Gru(config) => {
                config.validate()?;
                recurrent(&config.options())?;
                fits("d_input", config.d_input)?;
                fits("d_hidden", config.d_hidden)
            }
            Self::Attention(config) => {
                config.validate()?;
                fits("d_model", config.d_model)?;
                fits("d_memory", config.d_memory.unwrap_or(d_model))
            }
            Self::Transformer(config) => {
                config.validate()?;
                let attention = &config.attention;
                fits("attention.d_model", attention.d_model)?;
                fits("attention.d_memory", attention.d_memory.unwrap_or(d_model))
            }
            Self::FeedForward(config) => {
                config.validate()?;
                fits("d_model", config.d_model)
            }
            Self::Experts(config) => {
                config.validate()?;
                fits("d_model", config.d_model)
            }
        }
    }

    /// Makes the block, with such a norm where it has none of its own.
    fn init(&self, norm: &RmsNormConfig, device: &Device) -> HybridLayer {
        let normed = || norm.init(device);
        match self {
            Self::Mamba(config) => HybridLayer::Mamba(Residual::new(normed(), config.init(device))),
            Self::Mamba2(config) => {
                HybridLayer::Mamba2(Residual::new(normed(), config.init(device)))
            }
            Self::Mamba3(config) => {
                HybridLayer::Mamba3(Residual::new(normed(), config.init(device)))
            }
            Self::S4 { layer, block } => HybridLayer::S4(block.init(layer.init(device), device)),
            Self::S4d { layer, block } => HybridLayer::S4d(block.init(layer.init(device), device)),
            Self::S5 { layer, block } => HybridLayer::S5(block.init(layer.init(device), device)),
            Self::Rnn(config) => HybridLayer::Rnn(Residual::new(normed(), config.init(device))),
            Self::Lstm(config) => HybridLayer::Lstm(Residual::new(normed(), config.init(device))),
            Self::Gru(config) => HybridLayer::Gru(Residual::new(normed(), config.init(device))),
            Self::Attention(config) => {
                HybridLayer::Attention(Residual::new(normed(), config.init(device)))
            }
            Self::Transformer(config) => HybridLayer::Transformer(config.init(device)),
            Self::FeedForward(config) => HybridLayer::FeedForward(FeedForwardBlock {
                norm: normed().into(),
                mlp: config.init(device).into(),
            }),
            Self::Experts(config) => HybridLayer::FeedForward(FeedForwardBlock {
                norm: normed().into(),
                mlp: config.init(device).into(),
            }),
        }
    }
}

fn one_way(option: &'static str, both: bool) -> Result<(), ConfigError> {
    ConfigError::unless(!both, option, "off, as a block reads step by step", both)
}

fn recurrent(options: &LayerOptions) -> Result<(), ConfigError> {
    one_way("bidirectional", options.bidirectional)?;
    one_way("reverse", options.reverse)
}

/// A block of a layer's own configuration, with nothing else to choose.
macro_rules! from_config {
    ($($kind:ident: $config:ty),* $(,)?) => {
        $(impl From<$config> for BlockConfig {
            fn from(config: $config) -> Self {
                Self::$kind(config)
            }
        })*
    };
}

from_config! {
    Mamba: MambaConfig,
    Mamba2: Mamba2Config,
    Mamba3: Mamba3Config,
    Rnn: RnnConfig,
    Lstm: LstmConfig,
    Gru: GruConfig,
    Attention: MultiHeadAttentionConfig,
    Transformer: TransformerBlockConfig,
    FeedForward: FeedForwardConfig,
    Experts: MixtureOfExpertsConfig,
}

/// A block of a state-space layer's configuration, the block's own options at their defaults.
macro_rules! from_ssm_config {
    ($($kind:ident: $config:ty),* $(,)?) => {
        $(impl From<$config> for BlockConfig {
            fn from(layer: $config) -> Self {
                let block = S4BlockConfig::new();
                Self::$kind { layer, block }
            }
        })*
    };
}

from_ssm_config! {
    S4: S4Config,
    S4d: S4dConfig,
    S5: S5Config,
}
