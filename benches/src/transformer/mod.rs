//! The workloads of the Transformer: causal attention alone, an encoder layer and a causal layer, and decoding
//! with a cache.

mod attention;
mod decoding;
mod layer;

use burn::tensor::Device;
use seq_transformer::{FeedForwardConfig, MultiHeadAttentionConfig, TransformerBlockConfig};

use crate::{Case, Profile};

/// What the workloads are called by.
pub const NAME: &str = "transformer";

pub fn cases(profile: Profile) -> Vec<Case> {
    [
        attention::cases(profile),
        layer::cases(profile),
        decoding::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Operations of attention by `steps` queries of `width` numbers, all heads together, to `keys` keys: two
/// products forward; five backward, where the scores are made again.
fn attention_flops(steps: f64, keys: f64, width: usize, with_gradients: bool) -> f64 {
    let products = if with_gradients { 7.0 } else { 2.0 };
    products * 2.0 * steps * keys * width as f64
}

/// A layer as PyTorch's `nn.TransformerEncoderLayer` with its norms first and GELU.
fn block(d_model: usize, num_heads: usize) -> TransformerBlockConfig {
    let attention = MultiHeadAttentionConfig::new(d_model, num_heads);
    TransformerBlockConfig::new(
        attention,
        FeedForwardConfig::new(d_model, 4 * d_model).into(),
    )
}

fn finish(device: &Device) {
    device.sync().expect("the device finishes its work");
}
