//! The kernels of the norms against plain tensor operations.
#![cfg(all(feature = "testing", any(feature = "ndarray", feature = "flex")))]

use burn::module::Param;
use burn::nn::{LayerNormConfig, RmsNormConfig};
use burn::tensor::{DType, Device, Tensor, TensorData, Tolerance};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::blocks::{LayerNorm, Norm};
use seq_core::testing::recurrent::cpu_devices;

#[derive(Debug, Clone, Copy)]
enum Kind {
    Layer,
    LayerWithoutBeta,
    Rms,
}

const KINDS: [Kind; 3] = [Kind::Layer, Kind::LayerWithoutBeta, Kind::Rms];

fn random<const D: usize>(
    shape: [usize; D],
    rng: &mut StdRng,
    options: (&Device, DType),
) -> Tensor<D> {
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_data(TensorData::new(values, shape), options)
}

/// A norm with random parameters.
fn norm(kind: Kind, width: usize, rng: &mut StdRng, options: (&Device, DType)) -> Norm {
    let mut parameter = || Param::from_tensor(random([width], rng, options).require_grad());
    let gamma = parameter();
    match kind {
        Kind::Rms => {
            let mut norm = RmsNormConfig::new(width).with_epsilon(1e-3).init(options.0);
            norm.gamma = gamma;
            norm.into()
        }
        kind => Norm::Layer(LayerNorm {
            gamma,
            beta: matches!(kind, Kind::Layer).then(parameter),
            epsilon: 1e-3,
        }),
    }
}

/// `x` and the gradient of the output of a trial.
fn inputs<const D: usize>(shape: [usize; D], options: (&Device, DType)) -> [Tensor<D>; 2] {
    let mut rng = StdRng::seed_from_u64(3);
    // A mean that is large beside the deviation.
    let x = random(shape, &mut rng, options) + 5.0;
    [x.detach().require_grad(), random(shape, &mut rng, options)]
}

/// The outputs, and the gradients of x, gamma and beta of their weighted sum.
fn run(
    [batch, time, heads, width]: [usize; 4],
    kind: Kind,
    options: (&Device, DType),
    body: impl Fn(&Norm, Tensor<4>) -> Tensor<4>,
) -> Vec<TensorData> {
    let norm = norm(kind, width, &mut StdRng::seed_from_u64(7), options);
    let [x, probe] = inputs([batch, time, heads, width], options);
    // A strided input, too.
    let y = body(&norm, x.clone().swap_dims(0, 1));
    let gradients = (y.clone() * probe.swap_dims(0, 1)).sum().backward();
    let mut results = vec![y.into_data()];
    results.push(x.grad(&gradients).expect("a gradient").into_data());
    let parameters = match norm {
        Norm::Layer(norm) => [Some(norm.gamma), norm.beta],
        Norm::Rms(norm) => [Some(norm.gamma), None],
    };
    for parameter in parameters.into_iter().flatten() {
        let gradient = parameter.val().grad(&gradients);
        results.push(gradient.expect("a gradient").into_data());
    }
    results
}

/// Measured differences: 9e-6 in f32, where the means are large, and below 1e-14 in f64.
fn check(size: [usize; 4]) {
    for device in cpu_devices().map(Device::autodiff) {
        for kind in KINDS {
            for (dtype, tolerance) in [(DType::F32, 5e-5), (DType::F64, 1e-13)] {
                let options = (&device, dtype);
                let fused = run(size, kind, options, Norm::forward);
                let plain = run(size, kind, options, Norm::reference);
                for (fused, plain) in fused.into_iter().zip(plain) {
                    fused.assert_approx_eq::<f64>(&plain, Tolerance::rel_abs(tolerance, tolerance));
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn kernels_are_the_reference(
        size in [1usize..3, 1usize..5, 1usize..4, 1usize..150],
    ) {
        check(size);
    }
}

#[test]
fn kernels_are_the_reference_at_the_edges() {
    // A width of one, one that several threads share, and rows of several registers.
    for size in [[1, 1, 1, 1], [3, 5, 2, 1], [2, 33, 4, 257], [1, 2, 1, 1024]] {
        check(size);
    }
}

#[test]
fn gradients_are_finite_differences() {
    let size = [2, 3, 2, 5];
    for device in cpu_devices().map(Device::autodiff) {
        for kind in KINDS {
            let options = (&device, DType::F64);
            let gradient = run(size, kind, options, Norm::forward).swap_remove(1);
            let norm = norm(kind, size[3], &mut StdRng::seed_from_u64(7), options);
            let [x, probe] = inputs(size, options);
            let loss = |x: Vec<f64>| {
                let x = Tensor::<4>::from_data(TensorData::new(x, size), options);
                (norm.forward(x) * probe.clone()).sum().into_scalar::<f64>()
            };
            let values: Vec<f64> = x.into_data().iter().collect();
            for (i, found) in gradient.iter::<f64>().enumerate() {
                let moved = |by: f64| {
                    let mut values = values.clone();
                    values[i] += by;
                    loss(values)
                };
                let expected = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!(
                    (found - expected).abs() < 1e-7,
                    "{kind:?}, element {i}: {found}, by differences {expected}"
                );
            }
        }
    }
}

#[test]
fn nothing_is_normalised_to_nothing() {
    for device in cpu_devices().map(Device::autodiff) {
        for kind in KINDS {
            let options = (&device, DType::F32);
            let norm = norm(kind, 3, &mut StdRng::seed_from_u64(7), options);
            let x = Tensor::<3>::empty([0, 4, 3], options);
            assert_eq!(norm.forward(x).dims(), [0, 4, 3]);
        }
    }
}

#[test]
fn the_epsilon_of_burns_norm_is_kept() {
    let device = seq_core::device();
    for epsilon in [1e-5, 1e-12, 3.3e-7, 0.5, 1e-300] {
        let norm = LayerNormConfig::new(2).with_epsilon(epsilon).init(&device);
        assert_eq!(LayerNorm::from(norm).epsilon, epsilon);
    }
}

#[test]
fn it_is_burns_layer_norm() {
    let device = seq_core::device();
    let burns = LayerNormConfig::new(7).with_epsilon(0.1).init(&device);
    let norm = Norm::from(burns.clone());
    let x = random([2, 7], &mut StdRng::seed_from_u64(7), (&device, DType::F32));
    let tolerance = Tolerance::rel_abs(1e-5, 1e-5);
    let expected = burns.forward(x.clone()).into_data();
    norm.forward(x)
        .into_data()
        .assert_approx_eq::<f32>(&expected, tolerance);
}

#[test]
#[should_panic(expected = "the input has shape [2, 5, 3], the norm a width of 4")]
fn widths_that_differ_are_named() {
    let device = seq_core::device();
    let norm = Norm::from(RmsNormConfig::new(4).init(&device));
    norm.forward(Tensor::<3>::ones([2, 5, 3], &device));
}
