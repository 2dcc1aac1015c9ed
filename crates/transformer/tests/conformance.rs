//! The laws of a sequence layer, for every option of attention and of the blocks around it.

use burn::tensor::Device;
use seq_core::testing::Conformance;
use seq_transformer::{
    Activation, FeedForwardConfig, MixtureOfExpertsConfig, MlpConfig, MultiHeadAttentionConfig,
    NormConfig, NormPosition, PositionsConfig, RotaryConfig, TransformerBlockConfig,
    TransformerConfig,
};

/// Two heads of an even width.
fn attention(size: usize) -> MultiHeadAttentionConfig {
    MultiHeadAttentionConfig::new(size + 2, 2).with_head_width(Some(2 * size.div_ceil(2)))
}

fn check_attention(change: fn(MultiHeadAttentionConfig) -> MultiHeadAttentionConfig) {
    let make = move |size: usize, device: &Device| change(attention(size)).init(device);
    Conformance::new(make).check();
}

fn rotary(config: MultiHeadAttentionConfig) -> MultiHeadAttentionConfig {
    let rotary = RotaryConfig::new(config.d_head());
    config.with_rotary(Some(rotary))
}

#[test]
fn plain_attention() {
    check_attention(|config| config);
}

#[test]
fn without_bias() {
    check_attention(|config| config.with_bias(false).with_output_bias(false));
}

#[test]
fn one_head_of_keys() {
    check_attention(|config| config.with_num_kv_heads(Some(1)).with_scale(Some(0.7)));
}

#[test]
fn a_window() {
    check_attention(|config| config.with_window(Some(2)));
}

#[test]
fn a_window_of_the_step_itself() {
    check_attention(|config| config.with_window(Some(1)));
}

#[test]
fn a_soft_cap() {
    check_attention(|config| config.with_softcap(Some(0.5)));
}

#[test]
fn slopes_within_a_window() {
    check_attention(|config| config.with_alibi(true).with_window(Some(3)));
}

#[test]
fn rotary_positions() {
    check_attention(rotary);
}

#[test]
fn rotary_positions_within_a_window() {
    check_attention(|config| rotary(config).with_window(Some(2)));
}

#[test]
fn norms_of_queries_and_keys() {
    // Of two values a norm keeps little more than their signs, unless its epsilon is large.
    check_attention(|config| rotary(config).with_qk_norm(Some(NormConfig::Rms { epsilon: 0.5 })));
}

fn block(size: usize) -> TransformerBlockConfig {
    let attention = attention(size);
    let feed_forward = FeedForwardConfig::new(attention.d_model, size + 3);
    TransformerBlockConfig::new(attention, feed_forward.into())
        .with_norm(NormConfig::Layer { epsilon: 0.3 })
}

fn check_block(change: fn(TransformerBlockConfig) -> TransformerBlockConfig) {
    let make = move |size: usize, device: &Device| change(block(size)).init(device);
    Conformance::new(make).check();
}

#[test]
fn norms_before() {
    check_block(|config| config);
}

#[test]
fn norms_after() {
    check_block(|config| config.with_norm_position(NormPosition::Post));
}

#[test]
fn in_parallel() {
    check_block(|config| config.with_parallel(true));
}

#[test]
fn gated_feed_forward() {
    check_block(|config| {
        let feed_forward = FeedForwardConfig::new(config.d_model(), 5)
            .with_gated(true)
            .with_activation(Activation::Silu)
            .with_bias(false);
        TransformerBlockConfig {
            feed_forward: feed_forward.into(),
            ..config
        }
        .with_norm(NormConfig::Rms { epsilon: 0.3 })
    });
}

#[test]
fn experts() {
    check_block(|config| {
        let experts = MixtureOfExpertsConfig::new(config.d_model(), 4, 3);
        TransformerBlockConfig {
            feed_forward: MlpConfig::from(experts),
            ..config
        }
    });
}

fn check_transformer(change: fn(TransformerConfig) -> TransformerConfig) {
    let make = move |size: usize, device: &Device| {
        change(TransformerConfig::new(2, block(size))).init(device)
    };
    Conformance::new(make).check();
}

#[test]
fn a_stack_with_learned_positions() {
    check_transformer(|config| config.with_positions(Some(PositionsConfig::learned(64))));
}

#[test]
fn a_stack_with_sinusoids() {
    check_transformer(|config| config.with_positions(Some(PositionsConfig::Sinusoidal)));
}

#[test]
fn a_stack_with_everything_else() {
    check_transformer(|mut config| {
        config.block.attention = rotary(config.block.attention)
            .with_num_kv_heads(Some(1))
            .with_window(Some(3));
        config.block.norm_position = NormPosition::Post;
        config.with_final_norm(Some(true))
    });
}
