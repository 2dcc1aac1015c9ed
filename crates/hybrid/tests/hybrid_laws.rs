//! The laws of a sequence layer for stacks of mixed blocks.

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use seq_core::testing::Conformance;
use seq_gru::GruConfig;
use seq_hybrid::{
    BlockConfig, Hybrid, HybridConfig, HybridState, Lengths, SequenceLayer, SequenceState,
};
use seq_lstm::LstmConfig;
use seq_mamba::{Mamba2Config, Mamba3Config, MambaConfig};
use seq_rnn::RnnConfig;
use seq_ssm::{S4BlockConfig, S4Config, S4dConfig, S5Config};
use seq_transformer::{
    FeedForwardConfig, MixtureOfExpertsConfig, MultiHeadAttentionConfig, RotaryConfig,
    TransformerBlockConfig,
};

/// `blocks` are of a width that is a multiple of 2 and follows from a small number.
fn check(blocks: fn(usize) -> Vec<BlockConfig>) {
    let make = move |size: usize, device: &Device| {
        let d_model = 2 * (size % 4 + 1);
        // With so few values a norm keeps little more than their signs, unless its epsilon is large.
        let config = HybridConfig::new(d_model, blocks(d_model)).with_norm_eps(0.5);
        config.init(device)
    };
    Conformance::new(make).with_cases(1).check();
}

#[test]
fn as_in_jamba() {
    check(|d_model| {
        let attention = MultiHeadAttentionConfig::new(d_model, 2);
        vec![
            MambaConfig::new(d_model).with_d_state(3).into(),
            FeedForwardConfig::new(d_model, 6).with_gated(true).into(),
            attention.with_num_kv_heads(Some(1)).into(),
            MixtureOfExpertsConfig::new(d_model, 4, 3).into(),
        ]
    });
}

#[test]
fn the_other_mambas_and_a_transformer() {
    check(|d_model| {
        let attention = MultiHeadAttentionConfig::new(d_model, 1)
            .with_rotary(Some(RotaryConfig::new(d_model)))
            .with_window(Some(3));
        let feed_forward = FeedForwardConfig::new(d_model, 5).into();
        vec![
            Mamba2Config::new(d_model)
                .with_head_dim(2)
                .with_d_state(3)
                .with_norm_eps(0.1)
                .with_chunk_size(3)
                .into(),
            TransformerBlockConfig::new(attention, feed_forward)
                .with_norm(seq_transformer::NormConfig::Layer { epsilon: 0.5 })
                .into(),
            Mamba3Config::new(d_model)
                .with_head_dim(2)
                .with_d_state(4)
                .with_norm_eps(0.1)
                .with_chunk_size(3)
                .into(),
        ]
    });
}

#[test]
fn recurrent_and_attention() {
    check(|d_model| {
        vec![
            RnnConfig::new(d_model, 3)
                .with_d_output(Some(d_model))
                .into(),
            LstmConfig::new(d_model, d_model + 1)
                .with_d_projection(Some(d_model))
                .into(),
            MultiHeadAttentionConfig::new(d_model, 2).into(),
            GruConfig::new(d_model, d_model).with_num_layers(2).into(),
        ]
    });
}

#[test]
fn state_spaces() {
    check(|d_model| {
        // Large steps, so that a few of them see the whole system.
        let block = || S4BlockConfig::new().with_norm_eps(0.5);
        vec![
            BlockConfig::S4d {
                layer: S4dConfig::new(d_model)
                    .with_d_state(4)
                    .with_dt_min(0.05)
                    .with_dt_max(0.5),
                block: block().with_prenorm(false),
            },
            BlockConfig::S4 {
                layer: S4Config::new(d_model)
                    .with_d_state(4)
                    .with_dt_min(0.05)
                    .with_dt_max(0.5),
                block: block(),
            },
            BlockConfig::S5 {
                layer: S5Config::new(d_model)
                    .with_d_state(4)
                    .with_dt_min(0.05)
                    .with_dt_max(0.5),
                block: block(),
            },
        ]
    });
}

/// A small one of four blocks.
fn small(repeat: usize, device: &Device) -> Hybrid {
    let blocks = vec![
        MambaConfig::new(8).into(),
        MixtureOfExpertsConfig::new(8, 16, 4).into(),
        MultiHeadAttentionConfig::new(8, 2).into(),
        FeedForwardConfig::new(8, 16).into(),
    ];
    HybridConfig::new(8, blocks)
        .with_repeat(repeat)
        .init(device)
}

#[test]
fn a_repetition_has_weights_of_its_own() {
    let device = seq_hybrid::device();
    let [once, twice] = [1, 2].map(|repeat| small(repeat, &device));
    assert_eq!(twice.layers.len(), 8);
    // The last norm is there once.
    assert_eq!(twice.num_params() - 8, 2 * (once.num_params() - 8));
}

#[test]
fn one_state_has_the_memories_of_all_blocks() {
    let device = seq_hybrid::device();
    let hybrid = small(1, &device);
    let x = || Tensor::<3>::random([1, 5, 8], Distribution::Default, &device);
    // Caches of different lengths side by side.
    let (_, long) = hybrid.forward(x(), None);
    let (_, short) = hybrid.forward(x().narrow(1, 0, 2), None);
    let both = Vec::concat([long, short]);
    assert_eq!(both.batch(), 2);
    let HybridState::Attention(cache) = &both[2] else {
        panic!("{:?}", both[2]);
    };
    assert_eq!(cache.positions(), [5, 2]);
    let names: Vec<String> = both.record().tensors.into_keys().collect();
    assert!(
        names
            .iter()
            .all(|name| name.starts_with("0.") || name.starts_with("2."))
    );
    assert!(names.contains(&"2.keys".to_owned()));

    let restored = hybrid
        .initial_state(1, &device)
        .restore(&both.to_bytes())
        .unwrap();
    let next = || Tensor::<2>::ones([2, 8], &device);
    let mut damaged = both.record();
    let steps = TensorData::from([[5i64, 5], [6, 6]]);
    damaged.tensors.insert("2.steps".to_owned(), steps);
    let template = hybrid.initial_state(1, &device);
    let error = template.restore_record(damaged).unwrap_err().to_string();
    assert!(error.starts_with("tensor `2.steps`: expected"), "{error}");
    let [(a, _), (b, _)] = [both, restored].map(|state| hybrid.step(next(), state));
    assert_eq!(a.into_data(), b.into_data());
}

#[test]
fn balance_is_the_mean_over_the_mixtures() {
    let device = seq_hybrid::device();
    let hybrid = small(2, &device);
    let x = Tensor::<3>::random([2, 6, 8], Distribution::Default, &device);
    let (y, _, balance) = hybrid.forward_balanced(x.clone(), None, None);
    assert_eq!(y.into_data(), hybrid.forward(x.clone(), None).0.into_data());
    let balance = balance.expect("there are experts").into_scalar::<f32>();

    let (mut y, mut sum) = (x.clone(), 0.0);
    for layer in &hybrid.layers {
        let (next, _, balance) = layer.forward_balanced(y, None, None);
        y = next;
        sum += balance.map_or(0.0, |balance| balance.into_scalar::<f32>());
    }
    assert!((balance - sum / 2.0).abs() < 1e-6, "{balance} {sum}");

    // Padding has no part in it.
    let alone = hybrid
        .forward_balanced(x.clone().narrow(1, 0, 4), None, None)
        .2;
    let alone = alone.expect("there are experts").into_scalar::<f32>();
    let padded = hybrid
        .forward_balanced(x.clone(), Some(&Lengths::new([4, 4])), None)
        .2;
    let padded = padded.expect("there are experts").into_scalar::<f32>();
    assert!((padded - alone).abs() < 1e-6, "{padded} {alone}");

    let blocks = vec![
        MambaConfig::new(8).into(),
        FeedForwardConfig::new(8, 16).into(),
    ];
    let dense = HybridConfig::new(8, blocks).init(&device);
    assert!(dense.forward_balanced(x, None, None).2.is_none());
}

#[test]
#[should_panic(expected = "the state is of 4 blocks, the layer has 8")]
fn a_state_of_another_stack_is_refused() {
    let device = seq_hybrid::device();
    let state = small(1, &device).initial_state(1, &device);
    small(2, &device).step(Tensor::zeros([1, 8], &device), state);
}

#[test]
#[should_panic(expected = "the state is one of Mamba, the layer Attention")]
fn a_state_of_another_kind_is_refused() {
    let device = seq_hybrid::device();
    let hybrid = small(1, &device);
    let mut state = hybrid.initial_state(1, &device);
    state.swap(0, 2);
    hybrid.layers[2].step(Tensor::zeros([1, 8], &device), state.remove(2));
}
