//! The laws of a sequence layer for S5, and its outputs against the dense system.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use nalgebra::{Complex, DMatrix};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::testing::Conformance;
use seq_core::testing::first_device;
use seq_ssm::{Bidirectional, Discretisation, Lengths, Nplr, S5, S5Config, SequenceLayer};

fn check(change: fn(S5Config) -> S5Config) {
    let make = move |size: usize, device: &Device| {
        // Large steps, so that a few of them see the whole system.
        let config = S5Config::new(size)
            .with_d_state(4 * (size % 4 + 1))
            .with_dt_min(0.05)
            .with_dt_max(0.5);
        change(config).init(device)
    };
    Conformance::new(make)
        .with_reference(|s5: &S5, x, lengths, state| s5.reference(x, lengths, state))
        .check();
}

#[test]
fn zero_order_hold() {
    check(|config| config);
}

#[test]
fn bilinear_in_blocks() {
    check(|config| {
        config
            .with_num_blocks(2)
            .with_discretisation(Discretisation::Bilinear)
    });
}

/// A device that computes in f64: wgpu stores it alone.
fn precise() -> Device {
    let device = seq_ssm::device();
    match seq_core::is_cpu(&device) {
        true => device,
        false => first_device(),
    }
}

fn numbers<const D: usize>(x: Tensor<D>) -> Vec<f64> {
    x.into_data().iter::<f64>().collect()
}

/// The same layer in f64, without autodiff.
fn in_f64(s5: S5) -> S5 {
    struct Cast;
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|x| x.cast(DType::F64))
        }
    }
    s5.map(&mut Cast)
}

fn random<const D: usize>(shape: [usize; D], seed: u64) -> Tensor<D> {
    let mut rng = StdRng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
    let options = (&precise(), DType::F64);
    Tensor::from_data(TensorData::new(values, shape), options)
}

/// The system in the basis of the real states of HiPPO-N, with one step size, discretised as a dense matrix.
#[test]
fn a_layer_is_the_dense_system_of_real_states() {
    let (d_model, d_state, blocks, time, dt) = (3, 12, 2, 40, 0.03);
    let config = S5Config::new(d_model)
        .with_d_state(d_state)
        .with_num_blocks(blocks)
        .with_dt_min(dt)
        .with_dt_max(dt);
    let x = random([1, time, d_model], 1);
    for discretisation in [Discretisation::Zoh, Discretisation::Bilinear] {
        let config = config.clone().with_discretisation(discretisation);
        let s5 = in_f64(config.init(&precise()));
        let dt = numbers(s5.log_dt.val())[0].exp();

        // Half of the eigenvectors, a block after the other.
        let legs = Nplr::legs(d_state / blocks).half();
        let [size, pairs] = [d_state / blocks, d_state / 2];
        let v = DMatrix::from_fn(d_state, pairs, |n, k| match n / size == k / (size / 2) {
            true => legs.v[(n % size, k % (size / 2))],
            false => Complex::from(0.0),
        });
        let complex = |x: Vec<f64>, rows: usize, columns: usize| {
            DMatrix::from_fn(rows, columns, |row, column| {
                let at = 2 * (row * columns + column);
                Complex::new(x[at], x[at + 1])
            })
        };
        let b = complex(numbers(s5.b.val()), pairs, d_model);
        let c = complex(numbers(s5.c.val()), d_model, pairs);
        let real = |x: DMatrix<Complex<f64>>| x.map(|z| 2.0 * z.re);
        let (re, im) = (numbers(s5.log_a_real.val()), numbers(s5.a_imag.val()));
        let lambda = (0..pairs).map(|n| Complex::new(-re[n].exp(), im[n]));
        let lambda = DMatrix::from_diagonal(&nalgebra::DVector::from_iterator(pairs, lambda));
        let a = real(&v * lambda * v.adjoint());
        let (b, c) = (real(&v * b), real(c * v.adjoint()));

        let one = DMatrix::<f64>::identity(d_state, d_state);
        let (a, b) = match discretisation {
            Discretisation::Zoh => {
                let grown = (&a * dt).exp();
                let b = a.try_inverse().unwrap() * (&grown - one) * b;
                (grown, b)
            }
            _ => {
                let inverse = (&one - &a * (dt / 2.0)).try_inverse().unwrap();
                (&inverse * (one + a * (dt / 2.0)), inverse * b * dt)
            }
        };
        let (values, d) = (numbers(x.clone()), numbers(s5.d.val()));
        let mut state = DMatrix::zeros(d_state, 1);
        let mut expected = Vec::new();
        for x in values.chunks(d_model) {
            let x = DMatrix::from_column_slice(d_model, 1, x);
            state = &a * state + &b * &x;
            let y = &c * &state;
            expected.extend((0..d_model).map(|i| y[i] + d[i] * x[i]));
        }

        let (y, _) = s5.forward(x.clone(), None);
        let pairs = numbers(y).into_iter().zip(expected);
        let error = pairs.fold(0.0f64, |max, (a, b)| max.max((a - b).abs()));
        println!("{discretisation:?}: off by {error:e}");
        assert!(error < 1e-12, "{discretisation:?}: off by {error:e}");
    }
}

#[test]
fn sequences_in_one_row_are_what_they_are_alone() {
    let s5 = in_f64(S5Config::new(4).with_d_state(6).init(&precise()));
    let x = random([1, 12, 4], 2);
    let begins = [0, 2, 3, 9];
    let resets = (0..12).map(|step| begins.contains(&step)).collect();
    let (packed, last) = s5.forward_packed(x.clone(), vec![resets], None);
    for (i, &begin) in begins.iter().enumerate() {
        let time = begins.get(i + 1).unwrap_or(&12) - begin;
        let (alone, state) = s5.forward(x.clone().narrow(1, begin, time), None);
        let error = |a: Vec<f64>, b: Vec<f64>| {
            let pairs = a.into_iter().zip(b);
            pairs.fold(0.0f64, |max, (a, b)| max.max((a - b).abs()))
        };
        let packed = packed.clone().narrow(1, begin, time);
        assert!(error(numbers(packed), numbers(alone)) < 1e-14);
        if begin == 9 {
            assert!(error(numbers(last.hidden.clone()), numbers(state.hidden)) < 1e-14);
        }
    }
}

/// A layer at twice the step size on every other step sees about the same signal.
#[test]
fn a_rate_resamples() {
    let device = seq_ssm::device();
    let s5 = S5Config::new(1)
        .with_d_state(8)
        .with_dt_max(0.01)
        .init(&device);
    let s5 = in_f64(s5);
    let wave = |rate: usize| {
        let steps = 400 / rate;
        let values: Vec<f64> = (0..steps)
            .map(|t| (0.02 * (t * rate) as f64).sin())
            .collect();
        let options = (&device, DType::F64);
        Tensor::<3>::from_data(TensorData::new(values, [1, steps, 1]), options)
    };
    let fine = numbers(s5.forward(wave(1), None).0);
    let coarse = numbers(s5.with_rate(2.0).forward(wave(2), None).0);
    let error = coarse
        .iter()
        .enumerate()
        .map(|(t, y)| (y - fine[2 * t]).abs());
    let error = error.fold(0.0, f64::max);
    let scale = fine.iter().fold(0.0f64, |max, y| max.max(y.abs()));
    println!("off by {error:e} of {scale:e}");
    assert!(error < 0.02 * scale, "off by {error:e} of {scale:e}");
}

#[test]
fn both_ways_each_sequence_of_a_batch_is_itself() {
    let device = precise();
    let config = S5Config::new(3).with_d_state(4);
    let both = Bidirectional::new(in_f64(config.init(&device)), in_f64(config.init(&device)));
    let x = random([2, 9, 3], 4);
    let (y, _) = both.forward_padded(x.clone(), &Lengths::new([9, 5]), None);
    let (alone, _) = both.forward(x.narrow(0, 1, 1).narrow(1, 0, 5), None);
    let padded = numbers(y.narrow(0, 1, 1).narrow(1, 0, 5));
    let pairs = padded.into_iter().zip(numbers(alone));
    let error = pairs.fold(0.0f64, |max, (a, b)| max.max((a - b).abs()));
    assert!(error < 1e-14, "off by {error:e}");
}

#[test]
fn impossible_options_are_named() {
    let config = || S5Config::new(3);
    let cases = [
        (S5Config::new(0), "d_model must be at least 1, is 0"),
        (
            config().with_num_blocks(0),
            "num_blocks must be at least 1, is 0",
        ),
        (
            config().with_d_state(5),
            "d_state must be a multiple of 2 num_blocks, is 5",
        ),
        (config().with_dt_min(-1.0), "dt_min must be positive, is -1"),
        (
            config().with_dt_max(f64::INFINITY),
            "dt_max must be at least dt_min, and finite, is inf",
        ),
    ];
    for (config, message) in cases {
        assert_eq!(config.validate().unwrap_err().to_string(), message);
    }
    assert_eq!(config().validate(), Ok(()));
}

#[test]
#[should_panic(expected = "the state has shape [3, 64], the layer and the batch need [2, 64]")]
fn a_state_of_another_batch_is_named() {
    let device = seq_ssm::device();
    let s5 = S5Config::new(4).init(&device);
    s5.step(Tensor::ones([2, 4], &device), s5.initial_state(3, &device));
}
