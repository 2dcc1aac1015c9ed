//! The kernels of the activations against the reference, finite differences and limits.

use burn::tensor::{DType, Tensor};
use proptest::prelude::*;
use seq_core::testing::random::{Random, differentiate, error};
use seq_core::testing::recurrent::cpu_devices;
use seq_transformer::Activation;

pub const ALL: [Activation; 4] = [
    Activation::Relu,
    Activation::Gelu,
    Activation::GeluTanh,
    Activation::Silu,
];

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(30) })]

    /// With and without a gate, of strided tensors, by one thread and by several.
    #[test]
    fn the_kernels_are_the_reference(
        activation in prop::sample::select(&ALL[..]),
        shape in [1_usize..5, 1_usize..40, 1_usize..150],
        strided: bool,
        seed: u64,
    ) {
        for device in cpu_devices() {
            for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 1e-14)] {
                let by = |fused: bool| {
                    differentiate(seed, &device, dtype, |random| {
                        let mut x = |name| {
                            let x: Tensor<3> = random.between(name, shape, -6.0, 6.0);
                            if strided { x.swap_dims(0, 2) } else { x }
                        };
                        let (x, gate, up) = (x("x"), x("gate"), x("up"));
                        match fused {
                            true => (activation.forward(x), activation.forward_gated(gate, up)),
                            false => (activation.reference(x), activation.reference(gate) * up),
                        }
                    })
                };
                for ((name, fused), (_, reference)) in by(true).into_iter().zip(by(false)) {
                    let error = error(fused, reference);
                    prop_assert!(error <= tolerance, "{activation:?} {dtype:?} {name}: {error:e}");
                }
            }
        }
    }
}

#[test]
fn gradients_are_finite_differences() {
    const STEP: f64 = 1e-5;
    for device in cpu_devices() {
        for activation in ALL {
            let autodiff = device.clone().autodiff();
            let mut random = Random::new(1, &autodiff, DType::F64);
            let x: Tensor<1> = random.between("x", [60], -4.0, 4.0);
            let up: Tensor<1> = random.tensor("up", [60]);
            let gradients = activation
                .forward_gated(x.clone(), up.clone())
                .sum()
                .backward();
            let gradient = |x: &Tensor<1>| x.grad(&gradients).expect("a tracked tensor");
            let (x_gradient, up_gradient) = (gradient(&x), gradient(&up));
            let (x, up) = (x.inner(), up.inner());
            let at = |x: Tensor<1>, up: Tensor<1>| activation.forward_gated(x, up);
            let along_x = at(x.clone() + STEP, up.clone()) - at(x.clone() - STEP, up.clone());
            let along_up = at(x.clone(), up.clone() + STEP) - at(x, up - STEP);
            let worst = [(x_gradient, along_x), (up_gradient, along_up)]
                .map(|(gradient, difference)| error(gradient, difference / (2.0 * STEP)))
                .into_iter()
                .fold(0.0, f64::max);
            assert!(worst < 1e-9, "{activation:?}: {worst:e}");
        }
    }
}

#[test]
fn tensors_that_are_needed_stay_as_they_were() {
    for device in cpu_devices() {
        for activation in ALL {
            let mut random = Random::new(2, &device, DType::F32);
            let x: Tensor<2> = random.tensor("x", [6, 50]);
            let fresh = || Tensor::<2>::from_data(x.to_data(), &device);
            let y = activation.forward(x.clone());
            assert!(y.to_data() != x.to_data());
            // What nothing else needs is overwritten, and the same comes out.
            assert_eq!(activation.forward(fresh()).into_data(), y.to_data());
            // Both operands are one tensor.
            let squared = activation.forward_gated(x.clone(), x.clone());
            assert_eq!(squared.into_data(), (y.clone() * x.clone()).into_data());
            let squared = activation.forward_gated(fresh(), x.clone());
            assert_eq!(squared.into_data(), (y.clone() * x.clone()).into_data());
            // A part of a larger tensor.
            let part = activation.forward(fresh().narrow(0, 2, 3));
            assert_eq!(part.into_data(), y.clone().narrow(0, 2, 3).into_data());
            let whole = fresh();
            let part = activation.forward(whole.clone().narrow(0, 0, 1));
            assert_eq!(part.into_data(), y.narrow(0, 0, 1).into_data());
            assert_eq!(whole.into_data(), x.into_data());
        }
    }
}

#[test]
fn small_negative_values_have_their_digits() {
    for device in cpu_devices() {
        let x = || Tensor::<1>::from_data([-5.0, -10.0, -13.0], &device);
        // Of mpmath 1.3.
        for (activation, expected) in [
            (
                Activation::Gelu,
                [-1.433_257_859e-6, -7.619_853_024e-23, -7.952_313_719e-38],
            ),
            (
                Activation::Silu,
                [-3.346_425_462e-2, -4.539_786_870e-4, -2.938_421_587e-5],
            ),
        ] {
            let y: Vec<f64> = activation.forward(x()).into_data().iter().collect();
            for (y, expected) in y.into_iter().zip(expected) {
                let error = (y / expected - 1.0).abs();
                assert!(error < 1e-6, "{activation:?}: {y:e}, expected {expected:e}");
            }
        }
    }
}

#[test]
fn limits_are_exact_and_have_gradients() {
    let xs = [f64::INFINITY, f64::NEG_INFINITY, 1e30, -1e30, 0.0, -0.0];
    for device in cpu_devices() {
        for dtype in [DType::F32, DType::F64] {
            for activation in ALL {
                let device = device.clone().autodiff();
                let x = Tensor::<1>::from_data(xs, (&device, dtype)).require_grad();
                let y = activation.forward(x.clone());
                let gradient = x.grad(&y.clone().sum().backward()).expect("a gradient");
                let values = |x: Tensor<1>| x.into_data().iter::<f64>().collect::<Vec<_>>();
                let at_zero = match activation {
                    Activation::Relu => 0.0,
                    _ => 0.5,
                };
                let expected = [1.0, 0.0, 1.0, 0.0, at_zero, at_zero];
                for (found, expected) in values(gradient).into_iter().zip(expected) {
                    // What is left of GELU's slope far below zero is the smallest number there is.
                    let error = (found - expected).abs();
                    assert!(error < 1e-44, "{activation:?} {dtype:?}: {found:e}");
                }
                let [large, zero] = [values(x.inner())[2], 0.0];
                let expected = [f64::INFINITY, zero, large, zero, zero, zero];
                assert_eq!(values(y.inner()), expected, "{activation:?} {dtype:?}");
            }
        }
    }
}

#[test]
fn what_is_no_number_stays_none() {
    for device in cpu_devices() {
        for activation in ALL {
            let x = Tensor::<1>::from_data([f32::NAN, 1.0], &device);
            let y: Vec<f32> = activation.forward(x).into_data().iter().collect();
            assert!(y[0].is_nan() && y[1].is_finite(), "{activation:?} {y:?}");
        }
    }
}

#[test]
#[should_panic(expected = "the gate has shape [2, 3], what it multiplies [3, 2]")]
fn shapes_that_differ_are_named() {
    let device = seq_transformer::device();
    Activation::Silu.forward_gated(
        Tensor::<2>::ones([2, 3], &device),
        Tensor::ones([3, 2], &device),
    );
}
