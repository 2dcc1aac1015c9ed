//! How PyTorch's modules name what ours consist of.

use burn::nn::Linear;
use burn::tensor::Device;
use seq_core::blocks::Norm;
use seq_core::checkpoint::{Checkpoint, Parameters, Stored};
use seq_core::{ConfigError, SequenceLayer};

use super::PyTorchConfig;
use crate::{
    Decoder, DecoderBlock, DecoderBlockConfig, DecoderConfig, Encoder, EncoderConfig, FeedForward,
    FeedForwardConfig, Mlp, MultiHeadAttention, MultiHeadAttentionConfig, NormConfig, NormPosition,
    TransformerBlock, TransformerBlockConfig,
};

/// A module in a state dict.
pub trait Layout: Sized + Clone {
    /// A tensor that every state dict of such a module has.
    const ANCHOR: &'static str;

    /// A module of the sizes that names and shapes tell, with any weights. Where they make no sense, it may be
    /// one that they do not fit, so that loading says what is wrong.
    fn infer(
        checkpoint: &Checkpoint,
        config: &PyTorchConfig,
        device: &Device,
    ) -> Result<Self, ConfigError>;

    /// Adds the parameters by name, each behind a prefix.
    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>);

    /// What PyTorch's module does not have.
    fn foreign(&self) -> Option<&'static str>;
}

/// The names and shapes below a prefix.
struct Below<'a> {
    checkpoint: &'a Checkpoint,
    prefix: &'a str,
}

impl Below<'_> {
    fn has(&self, name: &str) -> bool {
        let name = format!("{}{name}", self.prefix);
        self.checkpoint.shape(&name).is_some()
    }

    /// An axis of a tensor, 1 where there is none.
    fn size(&self, name: &str, axis: usize) -> usize {
        let name = format!("{}{name}", self.prefix);
        let shape = self.checkpoint.shape(&name).unwrap_or(&[]);
        shape.get(axis).copied().unwrap_or(1).max(1)
    }

    fn attention(&self, name: &str, config: &PyTorchConfig) -> MultiHeadAttentionConfig {
        let of = |part: &str| format!("{name}{part}");
        let keys = of("k_proj_weight");
        MultiHeadAttentionConfig::new(self.size(&of("out_proj.weight"), 0), config.num_heads)
            .with_d_memory(self.has(&keys).then(|| self.size(&keys, 1)))
            .with_bias(self.has(&of("in_proj_bias")))
            .with_output_bias(self.has(&of("out_proj.bias")))
            .with_dropout(config.dropout)
    }

    fn feed_forward(&self, config: &PyTorchConfig) -> FeedForwardConfig {
        let name = "linear1.weight";
        FeedForwardConfig::new(self.size(name, 1), self.size(name, 0))
            .with_activation(config.activation)
            .with_bias(self.has("linear1.bias"))
            .with_dropout(config.dropout)
    }

    fn norm(&self, config: &PyTorchConfig) -> NormConfig {
        let epsilon = config.layer_norm_eps;
        match self.has("norm1.bias") {
            true => NormConfig::Layer { epsilon },
            false => NormConfig::LayerWithoutBias { epsilon },
        }
    }

    fn encoder_layer(&self, config: &PyTorchConfig) -> TransformerBlockConfig {
        let attention = self.attention("self_attn.", config);
        TransformerBlockConfig::new(attention, self.feed_forward(config).into())
            .with_norm(self.norm(config))
            .with_norm_position(norm_position(config))
            .with_dropout(config.dropout)
    }

    fn decoder_layer(&self, config: &PyTorchConfig) -> DecoderBlockConfig {
        let attention = self.attention("self_attn.", config);
        let cross = self.attention("multihead_attn.", config);
        DecoderBlockConfig::new(attention, cross, self.feed_forward(config).into())
            .with_norm(self.norm(config))
            .with_norm_position(norm_position(config))
            .with_dropout(config.dropout)
    }
}

fn norm_position(config: &PyTorchConfig) -> NormPosition {
    match config.norm_first {
        true => NormPosition::Pre,
        false => NormPosition::Post,
    }
}

/// How many layers a stack has, at least one.
fn num_layers(checkpoint: &Checkpoint) -> usize {
    let is_there = |layer: &usize| {
        let prefix = format!("layers.{layer}.");
        checkpoint.names().any(|name| name.starts_with(&prefix))
    };
    (0..).take_while(is_there).count().max(1)
}

fn add_mlp<'a>(mlp: &'a mut Mlp, prefix: &str, all: &mut Parameters<'a>) {
    if let Mlp::Dense(layer) = mlp {
        all.linear(&format!("{prefix}linear1"), &mut layer.input);
        all.linear(&format!("{prefix}linear2"), &mut layer.output);
    }
}

fn first<const N: usize>(reasons: [(bool, &'static str); N]) -> Option<&'static str> {
    let mut reasons = reasons.into_iter();
    reasons.find(|(foreign, _)| *foreign).map(|(_, what)| what)
}

fn foreign_norms<const N: usize>(norms: [&Norm; N], bias: bool) -> Option<&'static str> {
    let is_foreign = |norm: &&Norm| match norm {
        Norm::Layer(norm) => norm.beta.is_some() != bias,
        Norm::Rms(_) => true,
    };
    let foreign = norms.iter().any(is_foreign);
    first([(
        foreign,
        "norm but LayerNorm, with a bias where the maps have one",
    )])
}

fn foreign_mlp(mlp: &Mlp, bias: bool) -> Option<&'static str> {
    match mlp {
        Mlp::Dense(FeedForward {
            input,
            gate,
            output,
            ..
        }) => first([
            (gate.is_some(), "gate in its feed-forward"),
            (
                [input, output].iter().any(|map| map.bias.is_some() != bias),
                "bias in some of its maps alone",
            ),
        ]),
        Mlp::Experts(_) => Some("mixture of experts"),
    }
}

impl Layout for MultiHeadAttention {
    const ANCHOR: &'static str = "out_proj.weight";

    fn infer(
        checkpoint: &Checkpoint,
        config: &PyTorchConfig,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        let prefix = "";
        let config = Below { checkpoint, prefix }.attention("", config);
        config.validate()?;
        Ok(config.init(device))
    }

    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>) {
        let Self {
            query,
            key,
            value,
            output,
            ..
        } = self;
        let one_width = query.weight.lazy_shape() == key.weight.lazy_shape();
        let name = |name: &str| format!("{prefix}{name}");
        let weights = [&mut query.weight, &mut key.weight, &mut value.weight];
        match one_width {
            true => all.push(
                name("in_proj_weight"),
                Stored::TransposedMatrices(weights, 1),
            ),
            false => {
                let names = ["q_proj_weight", "k_proj_weight", "v_proj_weight"];
                for (part, weight) in names.into_iter().zip(weights) {
                    all.push(name(part), Stored::Transposed(weight));
                }
            }
        }
        let biases = [&mut query.bias, &mut key.bias, &mut value.bias];
        if let [Some(query), Some(key), Some(value)] = biases {
            let biases = Stored::Vectors([query, key, value], 1);
            all.push(name("in_proj_bias"), biases);
        }
        all.linear(&name("out_proj"), output);
    }

    fn foreign(&self) -> Option<&'static str> {
        let width = |map: &Linear| map.weight.dims()[1];
        let others = [&self.key, &self.value, &self.output];
        let bias = self.query.bias.is_some();
        first([
            (
                [&self.query, &self.key]
                    .iter()
                    .any(|map| width(map) != self.d_input()),
                "heads that do not make up its width",
            ),
            (
                others.iter().any(|map| map.bias.is_some() != bias),
                "bias in some of its maps alone",
            ),
            (self.query_norm.is_some(), "norm of queries"),
            (self.key_norm.is_some(), "norm of keys"),
            (self.rotary.is_some(), "rotary positions"),
            (self.alibi.is_some(), "linear biases"),
            (self.window.is_some(), "window"),
            (self.scale.is_some(), "scale of its own"),
            (self.softcap.is_some(), "soft cap"),
        ])
    }
}

impl Layout for TransformerBlock {
    const ANCHOR: &'static str = "linear1.weight";

    fn infer(
        checkpoint: &Checkpoint,
        config: &PyTorchConfig,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        let prefix = "";
        let config = Below { checkpoint, prefix }.encoder_layer(config);
        config.validate()?;
        Ok(config.init(device))
    }

    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>) {
        let name = |name: &str| format!("{prefix}{name}");
        self.attention.parameters(&name("self_attn."), all);
        add_mlp(&mut self.feed_forward, prefix, all);
        all.norm(&name("norm1"), &mut self.attention_norm);
        all.norm(&name("norm2"), &mut self.feed_forward_norm);
    }

    fn foreign(&self) -> Option<&'static str> {
        let bias = self.attention.query.bias.is_some();
        let norms = [&self.attention_norm, &self.feed_forward_norm];
        self.attention
            .foreign()
            .or_else(|| foreign_mlp(&self.feed_forward, bias))
            .or_else(|| foreign_norms(norms, bias))
            .or_else(|| first([(self.parallel, "parallel feed-forward")]))
    }
}

impl Layout for DecoderBlock {
    const ANCHOR: &'static str = "multihead_attn.out_proj.weight";

    fn infer(
        checkpoint: &Checkpoint,
        config: &PyTorchConfig,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        let prefix = "";
        let config = Below { checkpoint, prefix }.decoder_layer(config);
        config.validate()?;
        Ok(config.init(device))
    }

    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>) {
        let name = |name: &str| format!("{prefix}{name}");
        self.attention.parameters(&name("self_attn."), all);
        let cross = &mut self.cross_attention;
        cross.parameters(&name("multihead_attn."), all);
        add_mlp(&mut self.feed_forward, prefix, all);
        all.norm(&name("norm1"), &mut self.attention_norm);
        all.norm(&name("norm2"), &mut self.cross_norm);
        all.norm(&name("norm3"), &mut self.feed_forward_norm);
    }

    fn foreign(&self) -> Option<&'static str> {
        let bias = self.attention.query.bias.is_some();
        let cross = &self.cross_attention;
        let norms = [
            &self.attention_norm,
            &self.cross_norm,
            &self.feed_forward_norm,
        ];
        let [memory, width] = [&cross.key, &cross.query].map(|map| map.weight.dims()[0]);
        self.attention
            .foreign()
            .or_else(|| cross.foreign())
            .or_else(|| foreign_mlp(&self.feed_forward, bias))
            .or_else(|| foreign_norms(norms, bias))
            .or_else(|| {
                first([
                    (
                        cross.query.bias.is_some() != bias,
                        "bias in some of its maps alone",
                    ),
                    (memory != width, "memory of another width"),
                ])
            })
    }
}

impl Layout for Encoder {
    const ANCHOR: &'static str = "layers.0.linear1.weight";

    fn infer(
        checkpoint: &Checkpoint,
        config: &PyTorchConfig,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        let prefix = "layers.0.";
        let block = Below { checkpoint, prefix }.encoder_layer(config);
        let norm = checkpoint.shape("norm.weight").is_some();
        let config = EncoderConfig::new(num_layers(checkpoint), block);
        let config = config.with_final_norm(Some(norm));
        config.validate()?;
        Ok(config.init(device))
    }

    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>) {
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            block.parameters(&format!("{prefix}layers.{layer}."), all);
        }
        if let Some(norm) = &mut self.norm {
            all.norm(&format!("{prefix}norm"), norm);
        }
    }

    fn foreign(&self) -> Option<&'static str> {
        self.blocks.iter().find_map(Layout::foreign)
    }
}

impl Layout for Decoder {
    const ANCHOR: &'static str = "layers.0.multihead_attn.out_proj.weight";

    fn infer(
        checkpoint: &Checkpoint,
        config: &PyTorchConfig,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        let prefix = "layers.0.";
        let block = Below { checkpoint, prefix }.decoder_layer(config);
        let norm = checkpoint.shape("norm.weight").is_some();
        let config = DecoderConfig::new(num_layers(checkpoint), block);
        let config = config.with_final_norm(Some(norm));
        config.validate()?;
        Ok(config.init(device))
    }

    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>) {
        for (layer, block) in self.blocks.iter_mut().enumerate() {
            block.parameters(&format!("{prefix}layers.{layer}."), all);
        }
        if let Some(norm) = &mut self.norm {
            all.norm(&format!("{prefix}norm"), norm);
        }
    }

    fn foreign(&self) -> Option<&'static str> {
        self.blocks.iter().find_map(Layout::foreign)
    }
}
