//! The kernels under a memory checker.
#![cfg(all(feature = "testing", any(feature = "ndarray", feature = "flex")))]

use burn::nn::{LayerNormConfig, RmsNormConfig};
use burn::tensor::{Distribution, Tensor};
use seq_core::blocks::Norm;
use seq_core::scan::{Complex, ComplexDecay, ComplexScan, Decay, LinearScan};
use seq_core::testing::recurrent::{cpu_backends, memory};
use seq_core::{Lengths, PackedWeights, linear, linear_packed, linear_transposed};

/// Forward and backward at sizes around those of registers and of a chunk, and with several threads,
/// with lengths and resets.
#[test]
fn scans() {
    for backend in cpu_backends() {
        let device = backend.device().autodiff();
        for [time, width] in [[1, 1], [65, 15], [66, 130], [130, 259]] {
            let random = |shape: [usize; 3]| {
                Tensor::<3>::random(shape, Distribution::Default, &device).require_grad()
            };
            let x = Complex::new(random([2, time, width]), random([2, time, width]));
            let decays = [
                ComplexDecay::Varying(x.clone().map(|plane| plane * 0.5)),
                ComplexDecay::Constant(
                    x.clone()
                        .map(|plane| plane.slice([0..1, 0..1]).reshape([-1])),
                ),
            ];
            for decay in decays {
                let scan = ComplexScan {
                    lengths: Some(Lengths::new([time, time / 2])),
                    resets: Some(vec![vec![true; time], vec![false; time]]),
                    ..ComplexScan::new(decay, x.clone())
                };
                let (states, last) = scan.run();
                let (real, _) = LinearScan::new(Decay::Varying(x.im.clone()), x.re.clone()).run();
                let loss = states.re.sum() + states.im.sum() + last.re.sum() + real.sum();
                let gradient = x.re.grad(&loss.backward()).expect("a gradient");
                assert_eq!(gradient.dims(), [2, time, width]);
            }
        }
    }
}

/// The norms, at widths around those of registers, with one thread and with two.
#[test]
fn norms() {
    for backend in cpu_backends() {
        let device = backend.device().autodiff();
        for [rows, width] in [[1, 1], [3, 15], [2, 77], [130, 259]] {
            let norms = [
                Norm::from(LayerNormConfig::new(width).init(&device)),
                Norm::from(RmsNormConfig::new(width).init(&device)),
            ];
            for norm in norms {
                let x = Tensor::<2>::random([rows, width], Distribution::Default, &device);
                let x = x.require_grad();
                let gradients = norm.forward(x.clone()).sum().backward();
                let gradient = x.grad(&gradients).expect("a gradient");
                assert!(gradient.is_finite().all().into_scalar::<bool>());
            }
        }
    }
}

/// The linear maps, of few rows and of many, with one thread and with two.
#[test]
fn linear_maps() {
    seq_core::cpu::keep_memory();
    for backend in cpu_backends() {
        let device = backend.device().autodiff();
        for [rows, d_input, d_output] in [[1, 1, 1], [3, 530, 259], [9, 77, 15], [300, 21, 67]] {
            let random = |shape: [usize; 2]| {
                Tensor::<2>::random(shape, Distribution::Default, &device).require_grad()
            };
            let (x, weight) = (random([rows, d_input]), random([d_input, d_output]));
            let bias = Tensor::<1>::ones([d_output], &device).require_grad();
            let y = linear(x.clone(), weight, Some(bias.clone()));
            let y = linear_transposed(y, random([d_input, d_output]));
            let inference = backend.device();
            let x_again = Tensor::<2>::ones([rows, d_input], &inference);
            let packed = PackedWeights::default();
            let weight = Tensor::ones([d_input, d_output], &inference);
            let again = linear_packed(x_again, weight, None, &packed)
                .sum()
                .into_scalar::<f64>();
            assert_eq!(again, (rows * d_input * d_output) as f64);
            let gradients = y.sum().backward();
            for gradient in [
                x.grad(&gradients).map(|x| x.flatten::<1>(0, 1)),
                bias.grad(&gradients),
            ] {
                let gradient = gradient.expect("a gradient").is_finite();
                assert!(gradient.all().into_scalar::<bool>());
            }
        }
    }
}

#[test]
fn kernels_keep_to_their_memory() {
    memory::under_valgrind("linear_maps");
    memory::under_valgrind("scans");
    memory::under_valgrind("norms");
}
