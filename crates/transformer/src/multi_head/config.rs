use burn::config::Config;
use burn::nn::LinearConfig;
use burn::tensor::Device;
use seq_core::ConfigError;

use super::MultiHeadAttention;
use crate::{NormConfig, RotaryConfig, alibi_slopes};

/// Configuration of a [`MultiHeadAttention`] layer, made with [`init`](MultiHeadAttentionConfig::init).
///
/// The defaults and initial values are those of PyTorch's `nn.MultiheadAttention`, but for the biases of its
/// projections, which begin as those of `nn.Linear` do.
///
/// ```
/// use seq_transformer::{MultiHeadAttentionConfig, RotaryConfig};
///
/// let config = MultiHeadAttentionConfig::new(64, 8)
///     .with_num_kv_heads(Some(2))
///     .with_bias(false)
///     .with_output_bias(false)
///     .with_rotary(Some(RotaryConfig::new(8)));
/// assert_eq!((config.d_head(), config.num_kv_heads()), (8, 2));
/// # #[cfg(feature = "ndarray")]
/// let layer = config.init(&seq_transformer::device());
/// ```
#[derive(Config, Debug)]
pub struct MultiHeadAttentionConfig {
    /// The width of one step, of input and output alike.
    pub d_model: usize,
    /// How many heads the queries have.
    pub num_heads: usize,
    /// How many heads the keys and values have, a divisor of `num_heads`; by default as many.
    pub num_kv_heads: Option<usize>,
    /// The width of a head; by default `d_model / num_heads`.
    pub head_width: Option<usize>,
    /// The width of what keys and values are made of in cross-attention; by default `d_model`.
    pub d_memory: Option<usize>,
    /// Whether the projections to queries, keys and values have a bias.
    #[config(default = true)]
    pub bias: bool,
    /// Whether the projection of the output has a bias.
    #[config(default = true)]
    pub output_bias: bool,
    /// How many steps a step sees, itself included; by default all before it.
    pub window: Option<usize>,
    /// What the products of queries and keys are multiplied by; by default `1 / sqrt(d_head)`.
    pub scale: Option<f64>,
    /// The bound that scores are bent to by a hyperbolic tangent; by default none.
    pub softcap: Option<f64>,
    /// Whether distance lowers a score, by the slopes of [`alibi_slopes`](crate::alibi_slopes).
    #[config(default = false)]
    pub alibi: bool,
    /// Rotary positions of queries and keys; by default none. Its `d_head` is that of the layer.
    pub rotary: Option<RotaryConfig>,
    /// A norm of each head's queries and keys before they turn (Henry et al. 2020,
    /// <https://arxiv.org/abs/2010.04245>; Qwen3); by default none.
    pub qk_norm: Option<NormConfig>,
    /// The probability that an attention weight is dropped while training.
    #[config(default = 0.0)]
    pub dropout: f64,
}

impl MultiHeadAttentionConfig {
    /// The width of a head.
    pub fn d_head(&self) -> usize {
        self.head_width.unwrap_or(self.d_model / self.num_heads)
    }

    /// How many heads the keys and values have.
    pub fn num_kv_heads(&self) -> usize {
        self.num_kv_heads.unwrap_or(self.num_heads)
    }

    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_transformer::MultiHeadAttentionConfig;
    ///
    /// let error = MultiHeadAttentionConfig::new(10, 4).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "num_heads must be a divisor of d_model, is 4");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([
            ("d_model", self.d_model),
            ("num_heads", self.num_heads),
            ("num_kv_heads", self.num_kv_heads()),
            ("head_width", self.head_width.unwrap_or(1)),
            ("d_memory", self.d_memory.unwrap_or(1)),
            ("window", self.window.unwrap_or(1)),
        ])?;
        let divides = self.head_width.is_some() || self.d_model.is_multiple_of(self.num_heads);
        let expected = "a divisor of d_model";
        ConfigError::unless(divides, "num_heads", expected, self.num_heads)?;
        let shares = self.num_heads.is_multiple_of(self.num_kv_heads());
        let expected = "a divisor of num_heads";
        ConfigError::unless(shares, "num_kv_heads", expected, self.num_kv_heads())?;
        ConfigError::bounds([("softcap", self.softcap)])?;
        let finite = self.scale.is_none_or(f64::is_finite);
        let scale = self.scale.unwrap_or_default();
        ConfigError::unless(finite, "scale", "finite", scale)?;
        ConfigError::probabilities([("dropout", self.dropout)])?;
        if let Some(norm) = &self.qk_norm {
            norm.validate()?;
        }
        match &self.rotary {
            Some(rotary) => {
                let fits = rotary.d_head == self.d_head();
                let expected = "the width of the layer's heads";
                ConfigError::unless(fits, "rotary.d_head", expected, rotary.d_head)?;
                rotary.validate()
            }
            None => Ok(()),
        }
    }

    /// Makes the layer, its weights at their initial values.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> MultiHeadAttention {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let (d_head, kv_heads) = (self.d_head(), self.num_kv_heads());
        let linear = |d_input, d_output, bias| {
            LinearConfig::new(d_input, d_output)
                .with_bias(bias)
                .init(device)
        };
        let d_memory = self.d_memory.unwrap_or(self.d_model);
        let norm = || self.qk_norm.as_ref().map(|norm| norm.init(d_head, device));
        MultiHeadAttention {
            query: linear(self.d_model, self.num_heads * d_head, self.bias),
            key: linear(d_memory, kv_heads * d_head, self.bias),
            value: linear(d_memory, kv_heads * d_head, self.bias),
            output: linear(self.num_heads * d_head, self.d_model, self.output_bias),
            query_norm: norm(),
            key_norm: norm(),
            rotary: self.rotary.as_ref().map(RotaryConfig::init),
            alibi: self.alibi.then(|| alibi_slopes(self.num_heads)),
            d_head,
            window: self.window,
            scale: self.scale,
            softcap: self.softcap,
            dropout: self.dropout,
            packed: Default::default(),
        }
    }
}
