//! The laws of a sequence layer for S4D and the dense system, and what the two say of one another.

use burn::module::Param;
use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::testing::Conformance;
use seq_ssm::{
    CheckpointError, Discretisation, Hippo, LinearSsmConfig, S4d, S4dConfig, S4dInit,
    SequenceLayer, SequenceState,
};

fn config(size: usize) -> S4dConfig {
    // Large steps, so that a few of them see the whole system.
    S4dConfig::new(size)
        .with_d_state(2 * (size % 4 + 1))
        .with_dt_min(0.05)
        .with_dt_max(0.5)
}

fn check(change: fn(S4dConfig) -> S4dConfig, rate: f64) {
    let make = move |size, device: &Device| change(config(size)).init(device).with_rate(rate);
    Conformance::new(make)
        .with_reference(|s4d: &S4d, x, lengths, state| s4d.reference(x, lengths, state))
        .check();
}

#[test]
fn zero_order_hold() {
    check(|config| config, 1.0);
}

#[test]
fn bilinear_at_another_rate() {
    let change = |config: S4dConfig| config.with_discretisation(Discretisation::Bilinear);
    check(change, 1.7);
}

#[test]
fn real_and_mixed() {
    check(
        |config| config.with_initialisation(S4dInit::Real).with_mixing(true),
        1.0,
    );
}

#[test]
fn bidirectional() {
    Conformance::new(|size, device| config(size).with_bidirectional(true).init(device))
        .check_whole();
}

#[test]
fn the_dense_system() {
    for hippo in [Hippo::LegS, Hippo::LegT, Hippo::Fourier] {
        let make = move |size: usize, device: &Device| {
            LinearSsmConfig::new(size, size % 3 + 1, 2 * (size % 2 + 1))
                .with_hippo(hippo)
                .with_discretisation(match hippo {
                    Hippo::LegS => Discretisation::Zoh,
                    _ => Discretisation::Bilinear,
                })
                .with_dt(0.2)
                .init(device)
        };
        Conformance::new(make).with_cases(2).check();
    }
}

fn random(shape: [usize; 3], seed: u64, (device, dtype): (&Device, DType)) -> Tensor<3> {
    let mut rng = StdRng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, dtype))
}

/// The largest difference, relative to one plus the largest value.
fn error<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f64 {
    let (found, expected) = (found.cast(DType::F64), expected.cast(DType::F64));
    let scale: f64 = expected.clone().abs().max().into_scalar();
    let difference: f64 = (found - expected).abs().max().into_scalar();
    difference / (1.0 + scale)
}

/// The kernel in f32 beside the sums that define it, in f64.
#[test]
fn a_late_value_of_a_kernel_is_right_in_f32() {
    // The powers are of f64 on CPUs alone.
    let device = seq_core::testing::first_device();
    let time = 65_536;
    for initialisation in [S4dInit::Lin, S4dInit::Inv, S4dInit::LegS, S4dInit::Real] {
        let layer = S4dConfig::new(2)
            .with_initialisation(initialisation)
            .init(&device);
        let kernel: Vec<f64> = layer.kernel(time).into_data().iter::<f64>().collect();
        let values = |x: Tensor<1>| -> Vec<f64> { x.into_data().iter::<f64>().collect() };
        let flat = |x: Tensor<2>| values(x.reshape([-1]));
        let (log_dt, re, im) = (
            values(layer.log_dt.val()),
            flat(layer.log_a_real.val()),
            flat(layer.a_imag.val()),
        );
        let c = values(layer.c.val().reshape([-1]));
        let mut worst = 0.0f64;
        let mut largest = 0.0f64;
        for channel in 0..2 {
            let dt = log_dt[channel].exp();
            for k in [0, 1, 63, 64, 255, 256, 1_000, 5_000, 20_000, time - 1] {
                let mut sum = 0.0;
                for n in channel * 32..(channel + 1) * 32 {
                    let a = nalgebra::Complex::new(-re[n].exp(), im[n]);
                    let b = ((a * dt).exp() - 1.0) / a;
                    let c = nalgebra::Complex::new(c[2 * n], c[2 * n + 1]);
                    sum += 2.0 * (c * b * (a * dt * k as f64).exp()).re;
                }
                worst = worst.max((kernel[channel * time + k] - sum).abs());
                largest = largest.max(sum.abs());
            }
        }
        // Measured: 2e-7 of the largest value.
        assert!(worst < 1e-6 * largest, "{initialisation:?}: {worst:e}");
    }
}

#[test]
fn long_sequences_are_their_steps() {
    let device = seq_ssm::device();
    device.seed(7);
    let layer = config(3).init(&device);
    let x = random([2, 1500, 3], 3, (&device, DType::F32));
    let (y, state) = layer.forward(x.clone(), None);
    let (expected, last) = layer.reference(x, None, layer.initial_state(2, &device));
    // Measured: 4e-7.
    assert!(error(y, expected) < 4e-6);
    assert!(error(state.hidden, last.hidden) < 4e-6);
}

/// A stream in constant memory: what its chunks give.
#[test]
fn a_stream_is_its_chunks() {
    let device = seq_ssm::device();
    let on_cpu = seq_core::is_cpu(&device);
    device.seed(7);
    let layer = S4dConfig::new(2).with_d_state(4).init(&device);
    let mut stream = layer.initial_state(1, &device);
    let mut chunked = stream.clone();
    for chunk in 0..4 {
        let x = random([1, 500, 2], chunk, (&device, DType::F32));
        let (y, next) = layer.forward(x.clone(), Some(chunked));
        chunked = next;
        let mut steps = Vec::new();
        for x in x.split(1, 1) {
            let (y, next) = layer.step(x.squeeze_dim(1), stream);
            stream = next;
            steps.push(y.unsqueeze_dim::<3>(1));
        }
        // Measured: 2e-7 on CPUs, and 1e-6 on a GPU, whose powers come of rough exponentials.
        let tolerance = if on_cpu { 1e-6 } else { 1e-5 };
        assert!(error(Tensor::cat(steps, 1), y) < tolerance);
    }
    let fresh = layer.initial_state(1, &device).to_bytes();
    assert_eq!(stream.to_bytes().len(), fresh.len());
}

/// The bilinear rule at `dt A = -2` leaves nothing of a state.
#[test]
fn a_state_that_is_forgotten_at_once_is_no_nan() {
    let device = seq_ssm::device().autodiff();
    let mut layer = S4dConfig::new(1)
        .with_d_state(2)
        .with_discretisation(Discretisation::Bilinear)
        .init(&device);
    layer.log_dt = Param::from_data([0.0], &device);
    layer.log_a_real = Param::from_data([[2.0f64.ln()]], &device);
    layer.a_imag = Param::from_data([[0.0]], &device);
    let x = random([1, 5, 1], 1, (&device, DType::F32)).require_grad();
    let (y, _) = layer.forward(x.clone(), Some(layer.initial_state(1, &device)));
    let (expected, _) = layer.reference(x.clone(), None, layer.initial_state(1, &device));
    assert!(error(y.clone(), expected) < 1e-6);
    let gradients = y.sum().backward();
    let gradient = x.grad(&gradients).expect("the gradient of a tracked input");
    assert!(gradient.is_finite().all().into_scalar::<bool>());
}

#[test]
fn weights_go_out_and_come_back() {
    let device = seq_ssm::device();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s4d.safetensors");
    let plain = config(5);
    for config in [
        plain.clone(),
        plain.clone().with_mixing(true),
        plain.with_bidirectional(true),
    ] {
        let layer = config.init(&device);
        layer.save_pytorch(&file).unwrap();
        let loaded = S4d::load_pytorch(&file, &device).unwrap();
        let x = random([2, 9, 5], 7, (&device, DType::F32));
        let [found, expected] =
            [loaded, layer].map(|layer| layer.forward(x.clone(), None).0.into_data());
        found.assert_eq(&expected, true);
    }
}

#[test]
fn a_file_without_a_part_is_refused() {
    let device = seq_ssm::device();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("s4d.safetensors");
    let mut weights = config(5).init(&device).state_dict();
    weights.retain(|(name, _)| name != "kernel.log_dt");
    seq_core::checkpoint::write_safetensors(&file, weights).unwrap();
    let error = S4d::load_pytorch(&file, &device).unwrap_err();
    let CheckpointError::MissingTensor { name, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(name, "kernel.log_dt");
}

#[test]
#[should_panic(expected = "a bidirectional layer needs the whole sequence and has no step")]
fn a_bidirectional_layer_has_no_step() {
    let device = seq_ssm::device();
    let layer = config(2).with_bidirectional(true).init(&device);
    layer.step(
        Tensor::zeros([1, 2], &device),
        layer.initial_state(1, &device),
    );
}
