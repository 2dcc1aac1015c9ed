//! The laws of a sequence layer, for every option of Mamba-3.

use burn::tensor::{Device, Tensor, TensorData, Tolerance};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::testing::Conformance;
use seq_mamba::{Lengths, Mamba3, Mamba3Config, SequenceLayer, SequenceState};

fn check(change: fn(Mamba3Config) -> Mamba3Config) {
    let make = move |size: usize, device: &Device| {
        let config = Mamba3Config::new(2 * (size % 7 + 1))
            .with_d_state(size % 3 + 4)
            .with_head_dim(2)
            // With so few values a norm keeps little more than their signs, unless its epsilon is large.
            .with_norm_eps(0.1)
            .with_chunk_size(size % 4 + 1);
        change(config).init(device)
    };
    Conformance::new(make)
        .with_reference(|mamba: &Mamba3, x, lengths, state| mamba.reference(x, lengths, state))
        .check();
}

#[test]
fn plain() {
    check(|config| config);
}

#[test]
fn groups_and_heads_of_their_own_norm() {
    check(|config| {
        config
            .with_n_groups(2)
            .with_head_dim(2)
            .with_out_proj_norm(true)
    });
}

#[test]
fn all_of_a_state_turns_fast() {
    check(|config| {
        config
            .with_rope_fraction(1.0)
            .with_dt_min(0.5)
            .with_dt_max(4.0)
            .with_a_floor(0.6)
    });
}

fn random(generator: &mut StdRng, shape: [usize; 3], device: &Device) -> Tensor<3> {
    let count = shape.iter().product();
    let values: Vec<f32> = (0..count)
        .map(|_| generator.random_range(-1.0..1.0))
        .collect();
    Tensor::from_data(TensorData::new(values, shape), device)
}

fn small() -> Mamba3Config {
    Mamba3Config::new(6)
        .with_head_dim(4)
        .with_d_state(5)
        .with_chunk_size(4)
}

#[test]
fn sequences_in_one_row_are_what_they_are_alone() {
    let device = seq_mamba::device();
    device.seed(1);
    let mamba = small().init(&device);
    let x = random(&mut StdRng::seed_from_u64(3), [1, 12, 6], &device);
    let begins = [0, 2, 3, 9];
    let resets = (0..12).map(|step| begins.contains(&step)).collect();
    let (packed, last) = mamba.forward_packed(x.clone(), vec![resets], None);
    for (i, &begin) in begins.iter().enumerate() {
        let time = begins.get(i + 1).unwrap_or(&12) - begin;
        let (alone, state) = mamba.forward(x.clone().narrow(1, begin, time), None);
        let same = |a: TensorData, b: TensorData| {
            a.assert_approx_eq::<f32>(&b, Tolerance::absolute(1e-6));
        };
        let packed = packed.clone().narrow(1, begin, time);
        same(packed.into_data(), alone.into_data());
        if begin == 9 {
            same(last.v.clone().into_data(), state.v.clone().into_data());
            // Its angles are others, by which the whole is turned.
            let next = x.clone().narrow(1, 0, 1).squeeze_dim::<2>(1);
            let [found, expected] = [last.clone(), state].map(|state| {
                let (y, _) = mamba.step(next.clone(), state);
                y.into_data()
            });
            same(found, expected);
        }
    }
}

/// What a stream of steps gives is what the same input gives in chunks, and neither grows.
#[test]
fn a_long_stream_is_its_chunks() {
    let device = seq_mamba::device();
    device.seed(1);
    let mamba = small().with_chunk_size(64).init(&device);
    let (chunk, chunks) = (500, 3);
    let mut generator = StdRng::seed_from_u64(5);
    let mut stream = mamba.initial_state(1, &device);
    let mut chunked = stream.clone();
    for _ in 0..chunks {
        let x = random(&mut generator, [1, chunk, 6], &device);
        let (y, next) = mamba.forward(x.clone(), Some(chunked));
        chunked = next;
        let mut steps = Vec::new();
        for step in 0..chunk {
            let x = x.clone().narrow(1, step, 1).squeeze_dim::<2>(1);
            let (y, next) = mamba.step(x, stream);
            stream = next;
            steps.push(y.unsqueeze_dim::<3>(1));
        }
        // Measured: 1.0e-7 on the CPU, 3.7e-6 on wgpu.
        let tolerance = Tolerance::absolute(2e-5);
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
#[should_panic(expected = "the input has shape [2, 5, 3], the layer d_model 6")]
fn a_wrong_width_is_named() {
    let device = seq_mamba::device();
    device.seed(1);
    let mamba = small().init(&device);
    mamba.forward(Tensor::ones([2, 5, 3], &device), None);
}

#[test]
#[should_panic(expected = "the state has shapes")]
fn a_state_of_another_batch_is_named() {
    let device = seq_mamba::device();
    device.seed(1);
    let mamba = small().init(&device);
    let state = mamba.initial_state(3, &device);
    mamba.forward_padded(
        Tensor::ones([2, 5, 6], &device),
        &Lengths::new([2, 5]),
        Some(state),
    );
}
