//! The laws of a sequence layer for S4, and its kernel against the formulas of the paper.

use std::f64::consts::TAU;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use nalgebra::{Complex, DMatrix};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::testing::Conformance;
use seq_core::testing::first_device;
use seq_ssm::{Lengths, S4, S4Config, S4State, SequenceLayer};

fn make(size: usize, device: &Device) -> S4 {
    // Large steps, so that a few of them see the whole system.
    S4Config::new(size)
        .with_d_state(2 * (size % 4 + 1))
        .with_dt_min(0.05)
        .with_dt_max(0.5)
        .init(device)
}

#[test]
fn laws() {
    Conformance::new(make)
        .with_reference(|s4: &S4, x, lengths, state| s4.reference(x, lengths, state))
        .check();
}

#[test]
fn laws_at_another_rate() {
    Conformance::new(|size, device| make(size, device).with_rate(1.7))
        .with_reference(|s4: &S4, x, lengths, state| s4.reference(x, lengths, state))
        .check();
}

/// The same layer in f64, with autodiff.
fn in_f64(s4: S4) -> S4 {
    struct Cast;
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            param.map(|x| {
                let x = x.without_autodiff().cast(DType::F64);
                x.autodiff().require_grad()
            })
        }
    }
    s4.map(&mut Cast)
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

fn random<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    let mut rng = StdRng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, DType::F64))
}

/// The largest difference, of one plus the largest value.
fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    let largest = expected.iter().fold(0.0f64, |max, x| max.max(x.abs()));
    let pairs = found.iter().zip(expected);
    let error = pairs.fold(0.0f64, |max, (a, b)| max.max((a - b).abs()));
    error / (1.0 + largest)
}

/// One feature: numbers of both halves of every conjugate pair.
struct Feature {
    dt: f64,
    lambda: Vec<Complex<f64>>,
    p: Vec<Complex<f64>>,
    b: Vec<Complex<f64>>,
    c: Vec<Complex<f64>>,
}

fn features(s4: &S4) -> Vec<Feature> {
    let [d_model, pairs] = s4.a_imag.dims();
    let (dt, real, imag) = (
        numbers(s4.log_dt.val()),
        numbers(s4.log_a_real.val()),
        numbers(s4.a_imag.val()),
    );
    let [p, b, c] = [&s4.p, &s4.b, &s4.c].map(|x| numbers(x.val()));
    let feature = |h: usize| {
        let both = |half: &dyn Fn(usize) -> Complex<f64>| {
            let half: Vec<_> = (0..pairs).map(|n| half(h * pairs + n)).collect();
            let conj: Vec<_> = half.iter().map(|z| z.conj()).collect();
            [half, conj].concat()
        };
        let planes = |x: &Vec<f64>| both(&|at| Complex::new(x[2 * at], x[2 * at + 1]));
        Feature {
            dt: dt[h].exp(),
            lambda: both(&|at| Complex::new(-real[at].exp(), imag[at])),
            p: planes(&p),
            b: planes(&b),
            c: planes(&c),
        }
    };
    (0..d_model).map(feature).collect()
}

impl Feature {
    /// The discretised system, dense: A, B and C.
    fn dense(&self) -> [DMatrix<Complex<f64>>; 3] {
        let column = |x: &[Complex<f64>]| DMatrix::from_column_slice(x.len(), 1, x);
        let p = column(&self.p);
        let a =
            DMatrix::from_diagonal(&column(&self.lambda).column(0).into_owned()) - &p * p.adjoint();
        let one = DMatrix::identity(p.len(), p.len());
        let half = a * Complex::from(self.dt / 2.0);
        let inverse = (&one - &half).try_inverse().unwrap();
        let b = &inverse * column(&self.b) * Complex::from(self.dt);
        [inverse * (one + half), b, column(&self.c).transpose()]
    }

    /// `C A^k B` one after the other.
    fn powers(&self, time: usize) -> Vec<f64> {
        let [a, mut b, c] = self.dense();
        let value = |_| {
            let value = (&c * &b)[(0, 0)].re;
            b = &a * &b;
            value
        };
        (0..time).map(value).collect()
    }

    /// Algorithm 1 of the paper: the truncated generating function at the roots of unity, by four Cauchy
    /// products and Woodbury's identity, and its inverse Fourier transform.
    fn generating(&self, time: usize) -> Vec<f64> {
        let [a, _, c] = self.dense();
        let truncated = &c - &c * a.pow(time as u32);
        let turn = |k: usize| {
            let angle = TAU * (k % time) as f64 / time as f64;
            Complex::new(angle.cos(), angle.sin())
        };
        let at = |l: usize| {
            let z = turn(l).conj();
            let (minus, plus) = (1.0 - z, (1.0 + z) * self.dt / 2.0);
            let cauchy = |left: &dyn Fn(usize) -> Complex<f64>, right: &[Complex<f64>]| {
                let terms =
                    (0..right.len()).map(|n| left(n) * right[n] / (minus - plus * self.lambda[n]));
                terms.sum::<Complex<f64>>()
            };
            let (c, p) = (|n: usize| truncated[(0, n)], |n: usize| self.p[n].conj());
            let low_rank = cauchy(&c, &self.p) * plus / (1.0 + plus * cauchy(&p, &self.p));
            (cauchy(&c, &self.b) - low_rank * cauchy(&p, &self.b)) * self.dt
        };
        let spectrum: Vec<_> = (0..time).map(at).collect();
        let value = |k: usize| {
            let terms = spectrum.iter().enumerate().map(|(l, z)| z * turn(l * k));
            terms.sum::<Complex<f64>>().re / time as f64
        };
        (0..time).map(value).collect()
    }
}

#[test]
fn the_kernel_is_that_of_the_dense_system_and_of_the_generating_function() {
    let device = precise().autodiff();
    let mut worst = [0.0f64; 2];
    for (d_state, time) in [
        (2, 1),
        (4, 2),
        (6, 63),
        (16, 64),
        (8, 65),
        (64, 200),
        (6, 331),
    ] {
        let s4 = S4Config::new(3).with_d_state(d_state).init(&device);
        let s4 = in_f64(s4);
        let kernel = numbers(s4.kernel(time));
        for (found, feature) in kernel.chunks(time).zip(features(&s4)) {
            let errors = [feature.powers(time), feature.generating(time)];
            let errors = errors.map(|expected| distance(found, &expected));
            worst = std::array::from_fn(|i| worst[i].max(errors[i]));
        }
    }
    println!("off by {worst:?}");
    assert!(worst[0] < 1e-12 && worst[1] < 1e-11, "off by {worst:?}");
}

/// Gradients with respect to all parameters, in their order.
fn gradients(s4: &S4, gradients: &Gradients) -> Vec<f64> {
    struct Visit<'a>(&'a Gradients, Vec<f64>);
    impl ModuleVisitor for Visit<'_> {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            let gradient = param.val().grad(self.0).expect("each has a part");
            self.1.extend(numbers(gradient));
        }
    }
    let mut visit = Visit(gradients, Vec::new());
    s4.visit(&mut visit);
    visit.1
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(8) })]

    /// The suite tries short sequences; these take several chunks and the Fourier transform.
    #[test]
    fn a_long_sequence_is_its_steps(
        time in prop_oneof![Just(64usize), Just(65), Just(128), 60usize..260],
        batch in 1usize..4,
        seed in any::<u64>(),
    ) {
        let device = precise().autodiff();
        let s4 = in_f64(make(3, &device));
        let plain = precise();
        let x = random([batch, time, 3], seed, &plain);
        let state = random([batch, 3, s4.d_state()], seed ^ 1, &plain);
        let probes = (
            random([batch, time, 3], seed ^ 2, &plain).autodiff(),
            random([batch, 3, s4.d_state()], seed ^ 3, &plain).autodiff(),
        );
        let lengths = (0..batch).map(|row| time - (seed as usize >> 7) % time * row / batch);
        let lengths = Lengths::new(lengths);
        let run = |reference: bool| {
            let leaf = || (x.clone().autodiff().require_grad(), state.clone().autodiff().require_grad());
            let (x, hidden) = leaf();
            let state = S4State { hidden: hidden.clone() };
            let (y, last) = match reference {
                true => s4.reference(x.clone(), Some(&lengths), state),
                false => s4.forward_padded(x.clone(), &lengths, Some(state)),
            };
            let loss = (y.clone() * probes.0.clone()).sum()
                + (last.hidden.clone() * probes.1.clone()).sum();
            let all = loss.backward();
            let mut slopes = gradients(&s4, &all);
            slopes.extend(numbers(x.grad(&all).unwrap()));
            slopes.extend(numbers(hidden.grad(&all).unwrap()));
            ([numbers(y), numbers(last.hidden)].concat(), slopes)
        };
        let ((found, found_slopes), (expected, expected_slopes)) = (run(false), run(true));
        let errors = [distance(&found, &expected), distance(&found_slopes, &expected_slopes)];
        println!("{time} steps: off by {errors:?}");
        prop_assert!(errors[0] < 1e-12 && errors[1] < 1e-11, "off by {:?}", errors);
    }
}

#[test]
fn single_precision_keeps_to_double() {
    let device = precise().autodiff();
    let (time, steps) = (5000, 1000);
    // Step sizes as a layer begins with: from 0.001 on.
    let single = S4Config::new(8).with_d_state(32).init(&device);
    let double = in_f64(single.clone());
    let error = distance(&numbers(single.kernel(time)), &numbers(double.kernel(time)));

    let x = random([1, steps, 8], 5, &precise());
    let (y, _) = double.valid().forward(x.clone(), None);
    let single = single.valid();
    let mut state = single.initial_state(1, &precise());
    let x = x.cast(DType::F32);
    let mut outputs = Vec::new();
    for t in 0..steps {
        let (y, next) = single.step(x.clone().narrow(1, t, 1).squeeze_dim(1), state);
        state = next;
        outputs.push(y.unsqueeze_dim::<3>(1));
    }
    let stepped = distance(&numbers(Tensor::cat(outputs, 1)), &numbers(y));
    println!("a kernel off by {error:e}, steps by {stepped:e}");
    assert!(error < 1e-6, "off by {error:e}");
    assert!(stepped < 1e-4, "off by {stepped:e}");
}

#[test]
#[should_panic(expected = "the input has shape [2, 5, 3], the layer d_model 4")]
fn a_wrong_width_is_named() {
    let device = seq_ssm::device();
    let s4 = S4Config::new(4).init(&device);
    s4.forward(Tensor::ones([2, 5, 3], &device), None);
}

#[test]
#[should_panic(
    expected = "the state has shape [3, 4, 64], the layer and a batch of 2 need [2, 4, 64]"
)]
fn a_state_of_another_batch_is_named() {
    let device = seq_ssm::device();
    let s4 = S4Config::new(4).init(&device);
    let state = s4.initial_state(3, &device);
    s4.step(Tensor::ones([2, 4], &device), state);
}

#[test]
fn impossible_options_are_named() {
    let config = || S4Config::new(3);
    let cases = [
        (S4Config::new(0), "d_model must be at least 1, is 0"),
        (config().with_d_state(0), "d_state must be at least 1, is 0"),
        (config().with_d_state(5), "d_state must be even, is 5"),
        (config().with_dt_min(0.0), "dt_min must be positive, is 0"),
        (
            config().with_dt_max(1e-4),
            "dt_max must be at least dt_min, and finite, is 0.0001",
        ),
    ];
    for (config, message) in cases {
        assert_eq!(config.validate().unwrap_err().to_string(), message);
    }
    assert_eq!(config().validate(), Ok(()));
}
