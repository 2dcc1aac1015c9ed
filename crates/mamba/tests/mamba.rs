//! The laws of a sequence layer, for every option of Mamba and for the simplified layer.

use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::testing::Conformance;
use seq_mamba::{
    DtInit, Lengths, Mamba, MambaConfig, SequenceLayer, SequenceState, SimplifiedSsmConfig,
};

fn check(change: fn(MambaConfig) -> MambaConfig) {
    let make = move |size: usize, device: &Device| {
        let config = MambaConfig::new(size + 1).with_d_state(size % 3 + 1);
        change(config).init(device)
    };
    Conformance::new(make)
        .with_reference(|mamba: &Mamba, x, lengths, state| mamba.reference(x, lengths, state))
        .check();
}

#[test]
fn plain() {
    check(|config| config);
}

#[test]
fn other_widths() {
    check(|config| {
        config
            .with_d_channels(Some(5))
            .with_dt_low_rank(Some(3))
            .with_d_conv(2)
    });
}

#[test]
fn biases() {
    check(|config| config.with_bias(true).with_conv_bias(false));
}

#[test]
fn norms() {
    // With so few values a norm keeps little more than their signs, unless its epsilon is large.
    check(|config| {
        config
            .with_dt_b_c_norm_eps(Some(0.5))
            .with_dt_low_rank(Some(3))
    });
}

#[test]
fn step_size_limits() {
    check(|config| {
        config
            .with_dt_limit(Some([0.004, 0.03]))
            .with_dt_init(DtInit::Constant)
    });
}

#[test]
fn simplified() {
    let make = |size: usize, device: &Device| SimplifiedSsmConfig::new(size + 3).init(device);
    Conformance::new(make).check();
}

#[test]
fn sequences_in_one_row_are_what_they_are_alone() {
    let device = seq_mamba::device();
    let mamba = MambaConfig::new(6).init(&device);
    let mut rng = StdRng::seed_from_u64(3);
    let values: Vec<f32> = (0..12 * 6).map(|_| rng.random_range(-1.0..1.0)).collect();
    let x = Tensor::<3>::from_data(TensorData::new(values, [1, 12, 6]), &device);
    let begins = [0, 2, 3, 9];
    let resets = (0..12).map(|step| begins.contains(&step)).collect();
    let (packed, last) = mamba.forward_packed(x.clone(), vec![resets], None);
    for (i, &begin) in begins.iter().enumerate() {
        let time = begins.get(i + 1).unwrap_or(&12) - begin;
        let (alone, state) = mamba.forward(x.clone().narrow(1, begin, time), None);
        let same = |a: TensorData, b: TensorData| {
            a.assert_approx_eq::<f32>(&b, Tolerance::absolute(1e-6));
        };
        same(
            packed.clone().narrow(1, begin, time).into_data(),
            alone.into_data(),
        );
        if begin == 9 {
            same(last.conv.clone().into_data(), state.conv.into_data());
            same(last.ssm.clone().into_data(), state.ssm.into_data());
        }
    }
}

/// What a stream of steps gives is what the same input gives in chunks, and neither grows.
#[test]
fn a_long_stream_is_its_chunks() {
    let device = seq_mamba::device();
    let mamba = MambaConfig::new(4).with_d_state(4).init(&device);
    let (chunk, chunks) = (1000, 10);
    let mut rng = StdRng::seed_from_u64(5);
    let mut stream = mamba.initial_state(1, &device);
    let mut chunked = stream.clone();
    for _ in 0..chunks {
        let values: Vec<f32> = (0..chunk * 4)
            .map(|_| rng.random_range(-1.0..1.0))
            .collect();
        let x = Tensor::<3>::from_data(TensorData::new(values, [1, chunk, 4]), &device);
        let (y, next) = mamba.forward(x.clone(), Some(chunked));
        chunked = next;
        let mut steps = Vec::new();
        for step in 0..chunk {
            let x = x.clone().narrow(1, step, 1).squeeze_dim::<2>(1);
            let (y, next) = mamba.step(x, stream);
            stream = next;
            steps.push(y.unsqueeze_dim::<3>(1));
        }
        // Measured: 1e-6.
        let tolerance = Tolerance::absolute(1e-5);
        Tensor::cat(steps, 1)
            .into_data()
            .assert_approx_eq::<f32>(&y.into_data(), tolerance);
    }
    assert_eq!(
        stream.to_bytes().len(),
        mamba.initial_state(1, &device).to_bytes().len()
    );
}

#[test]
#[should_panic(expected = "the input has shape [2, 5, 3], the layer d_model 4")]
fn a_wrong_width_is_named() {
    let device = seq_mamba::device();
    let mamba = MambaConfig::new(4).init(&device);
    mamba.forward(Tensor::ones([2, 5, 3], &device), None);
}

#[test]
#[should_panic(expected = "the state has shapes")]
fn a_state_of_another_batch_is_named() {
    let device = seq_mamba::device();
    let mamba = MambaConfig::new(4).init(&device);
    let state = mamba.initial_state(3, &device);
    mamba.forward_padded(
        Tensor::ones([2, 5, 4], &device),
        &Lengths::new([2, 5]),
        Some(state),
    );
}
