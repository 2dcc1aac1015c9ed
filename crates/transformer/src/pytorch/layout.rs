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
    fn infer(found: &Found<'_>, device: &Device) -> Result<Self, ConfigError>;

    /// Adds the parameters by name, each behind a prefix.
    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>);

    /// What PyTorch's module does not have.
    fn foreign(&self) -> Option<&'static str>;
}

/// The names and shapes below a prefix, and what they do not tell.
pub struct Found<'a> {
    pub checkpoint: &'a Checkpoint,
    pub prefix: &'static str,
    pub config: &'a PyTorchConfig,
}

impl Found<'_> {
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

    fn attention(&self, name: &str) -> MultiHeadAttentionConfig {
        let of = |part: &str| format!("{name}{part}");
        let (keys, width) = (of("k_proj_weight"), self.size(&of("out_proj.weight"), 0));
        MultiHeadAttentionConfig::new(width, self.config.num_heads)
            .with_d_memory(self.has(&keys).then(|| self.size(&keys, 1)))
            .with_bias(self.has(&of("in_proj_bias")))
            .with_output_bias(self.has(&of("out_proj.bias")))
            .with_dropout(self.config.dropout)
    }

    fn encoder_layer(&self) -> TransformerBlockConfig {
        let name = "linear1.weight";
        let feed_forward = FeedForwardConfig::new(self.size(name, 1), self.size(name, 0))
            .with_activation(self.config.activation)
            .with_bias(self.has("linear1.bias"))
            .with_dropout(self.config.dropout);
        let epsilon = self.config.layer_norm_eps;
        let norm = match self.has("norm1.bias") {
            true => NormConfig::Layer { epsilon },
            false => NormConfig::LayerWithoutBias { epsilon },
        };
        let position = match self.config.norm_first {
            true => NormPosition::Pre,
            false => NormPosition::Post,
        };
        TransformerBlockConfig::new(self.attention("self_attn."), feed_forward.into())
            .with_norm(norm)
            .with_norm_position(position)
            .with_dropout(self.config.dropout)
    }

    /// An encoder's layer that also looks at a memory.
    fn decoder_layer(&self) -> DecoderBlockConfig {
        let layer = self.encoder_layer();
        let cross = self.attention("multihead_attn.");
        DecoderBlockConfig::new(layer.attention, cross, layer.feed_forward)
            .with_norm(layer.norm)
            .with_norm_position(layer.norm_position)
            .with_dropout(layer.dropout)
    }

    /// The first layer of a stack.
    fn first_layer(&self) -> Self {
        Self {
            prefix: "layers.0.",
            ..*self
        }
    }

    /// How many layers a stack has, at least one.
    fn num_layers(&self) -> usize {
        let is_there = |layer: &usize| {
            let prefix = format!("layers.{layer}.");
            let mut names = self.checkpoint.names();
            names.any(|name| name.starts_with(&prefix))
        };
        (0..).take_while(is_there).count().max(1)
    }
}

/// The module of a configuration, if there is one.
macro_rules! init {
    ($config:expr, $device:expr) => {{
        let config = $config;
        config.validate()?;
        Ok(config.init($device))
    }};
}

/// Adds what a layer consists of: attentions by name, maps, and norms in the order in which they are numbered.
fn add_layer<'a, const N: usize>(
    attentions: [(&str, &'a mut MultiHeadAttention); N],
    mlp: &'a mut Mlp,
    norms: impl IntoIterator<Item = &'a mut Norm>,
    prefix: &str,
    all: &mut Parameters<'a>,
) {
    for (name, attention) in attentions {
        attention.parameters(&format!("{prefix}{name}."), all);
    }
    if let Mlp::Dense(layer) = mlp {
        all.linear(&format!("{prefix}linear1"), &mut layer.input);
        all.linear(&format!("{prefix}linear2"), &mut layer.output);
    }
    for (norm, number) in norms.into_iter().zip(1..) {
        all.norm(&format!("{prefix}norm{number}"), norm);
    }
}

fn add_stack<'a>(
    layers: &'a mut [impl Layout],
    norm: Option<&'a mut Norm>,
    prefix: &str,
    all: &mut Parameters<'a>,
) {
    for (number, layer) in layers.iter_mut().enumerate() {
        layer.parameters(&format!("{prefix}layers.{number}."), all);
    }
    if let Some(norm) = norm {
        all.norm(&format!("{prefix}norm"), norm);
    }
}

const MIXED_BIASES: &str = "bias in some of its maps alone";

fn first<const N: usize>(reasons: [(bool, &'static str); N]) -> Option<&'static str> {
    let mut reasons = reasons.into_iter();
    reasons.find(|(foreign, _)| *foreign).map(|(_, what)| what)
}

fn foreign_norms(norms: &[&Norm], bias: bool) -> Option<&'static str> {
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
                MIXED_BIASES,
            ),
        ]),
        Mlp::Experts(_) => Some("mixture of experts"),
    }
}

/// What PyTorch's layers do not have.
fn foreign_layer(
    attentions: &[&MultiHeadAttention],
    mlp: &Mlp,
    norms: &[&Norm],
) -> Option<&'static str> {
    let has_bias = |attention: &&MultiHeadAttention| attention.query.bias.is_some();
    let bias = attentions.first().is_some_and(has_bias);
    let mixed = attentions
        .iter()
        .any(|attention| has_bias(attention) != bias);
    let mut attentions = attentions.iter();
    attentions
        .find_map(|attention| attention.foreign())
        .or_else(|| foreign_mlp(mlp, bias))
        .or_else(|| foreign_norms(norms, bias))
        .or_else(|| first([(mixed, MIXED_BIASES)]))
}

impl Layout for MultiHeadAttention {
    const ANCHOR: &'static str = "out_proj.weight";

    fn infer(found: &Found<'_>, device: &Device) -> Result<Self, ConfigError> {
        init!(found.attention(""), device)
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
                MIXED_BIASES,
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

    fn infer(found: &Found<'_>, device: &Device) -> Result<Self, ConfigError> {
        init!(found.encoder_layer(), device)
    }

    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>) {
        let attentions = [("self_attn", &mut self.attention)];
        let norms = [&mut self.attention_norm, &mut self.feed_forward_norm];
        add_layer(attentions, &mut self.feed_forward, norms, prefix, all);
    }

    fn foreign(&self) -> Option<&'static str> {
        let norms = [&self.attention_norm, &self.feed_forward_norm];
        foreign_layer(&[&self.attention], &self.feed_forward, &norms)
            .or_else(|| first([(self.parallel, "parallel feed-forward")]))
    }
}

impl Layout for DecoderBlock {
    const ANCHOR: &'static str = "multihead_attn.out_proj.weight";

    fn infer(found: &Found<'_>, device: &Device) -> Result<Self, ConfigError> {
        init!(found.decoder_layer(), device)
    }

    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>) {
        let attentions = [
            ("self_attn", &mut self.attention),
            ("multihead_attn", &mut self.cross_attention),
        ];
        let norms = [
            &mut self.attention_norm,
            &mut self.cross_norm,
            &mut self.feed_forward_norm,
        ];
        add_layer(attentions, &mut self.feed_forward, norms, prefix, all);
    }

    fn foreign(&self) -> Option<&'static str> {
        let cross = &self.cross_attention;
        let norms = [
            &self.attention_norm,
            &self.cross_norm,
            &self.feed_forward_norm,
        ];
        let [memory, width] = [&cross.key, &cross.query].map(|map| map.weight.dims()[0]);
        foreign_layer(&[&self.attention, cross], &self.feed_forward, &norms)
            .or_else(|| first([(memory != width, "memory of another width")]))
    }
}

impl Layout for Encoder {
    const ANCHOR: &'static str = "layers.0.linear1.weight";

    fn infer(found: &Found<'_>, device: &Device) -> Result<Self, ConfigError> {
        let layer = found.first_layer().encoder_layer();
        let config = EncoderConfig::new(found.num_layers(), layer);
        init!(
            config.with_final_norm(Some(found.has("norm.weight"))),
            device
        )
    }

    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>) {
        add_stack(&mut self.blocks, self.norm.as_mut(), prefix, all);
    }

    fn foreign(&self) -> Option<&'static str> {
        self.blocks.iter().find_map(Layout::foreign)
    }
}

impl Layout for Decoder {
    const ANCHOR: &'static str = "layers.0.multihead_attn.out_proj.weight";

    fn infer(found: &Found<'_>, device: &Device) -> Result<Self, ConfigError> {
        let layer = found.first_layer().decoder_layer();
        let config = DecoderConfig::new(found.num_layers(), layer);
        init!(
            config.with_final_norm(Some(found.has("norm.weight"))),
            device
        )
    }

    fn parameters<'a>(&'a mut self, prefix: &str, all: &mut Parameters<'a>) {
        add_stack(&mut self.blocks, self.norm.as_mut(), prefix, all);
    }

    fn foreign(&self) -> Option<&'static str> {
        self.blocks.iter().find_map(Layout::foreign)
    }
}
