//! The kernels of the linear map against Burn's product.
#![cfg(all(feature = "testing", any(feature = "ndarray", feature = "flex")))]

use burn::tensor::{DType, Device, Tensor, TensorData, Tolerance};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::testing::recurrent::cpu_devices;
use seq_core::{PackedWeights, linear, linear_packed, linear_transposed};

fn random<const D: usize>(
    shape: [usize; D],
    rng: &mut StdRng,
    (device, dtype): (&Device, DType),
) -> Tensor<D> {
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
    let tensor = Tensor::from_data(TensorData::new(values, shape), (device, dtype));
    match tensor.is_autodiff() {
        true => tensor.require_grad(),
        false => tensor,
    }
}

/// Which map.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Plain,
    WithBias,
    Transposed,
}

const KINDS: [Kind; 3] = [Kind::Plain, Kind::WithBias, Kind::Transposed];

/// The outputs, and the gradients of x, the weight and the bias of their weighted sum.
fn run(
    [batch, time, d_input, d_output]: [usize; 4],
    kind: Kind,
    (device, dtype): (&Device, DType),
    fused: bool,
) -> Vec<TensorData> {
    let mut rng = StdRng::seed_from_u64(7);
    let options = (device, dtype);
    let x: Tensor<3> = random([batch, time, d_input], &mut rng, options);
    let transposed = matches!(kind, Kind::Transposed);
    let shape = match transposed {
        true => [d_output, d_input],
        false => [d_input, d_output],
    };
    let weight: Tensor<2> = random(shape, &mut rng, options);
    let bias = matches!(kind, Kind::WithBias).then(|| random::<1>([d_output], &mut rng, options));
    let probe: Tensor<3> = random([batch, time, d_output], &mut rng, options);
    // A strided input, too.
    let input = x.clone().swap_dims(0, 1);
    let probe = probe.swap_dims(0, 1);
    let y = match (fused, transposed) {
        (true, true) => linear_transposed(input, weight.clone()),
        (true, false) => linear(input, weight.clone(), bias.clone()),
        (false, _) => {
            let weight = match transposed {
                true => weight.clone().transpose(),
                false => weight.clone(),
            };
            let y = input.matmul(weight.unsqueeze());
            match &bias {
                Some(bias) => y + bias.clone().unsqueeze(),
                None => y,
            }
        }
    };
    let gradients = (y.clone() * probe).sum().backward();
    let mut results = vec![y.into_data()];
    results.push(x.grad(&gradients).expect("a gradient").into_data());
    results.push(weight.grad(&gradients).expect("a gradient").into_data());
    results.extend(bias.map(|bias| bias.grad(&gradients).expect("a gradient").into_data()));
    results
}

/// Measured differences: 1.1e-5 in f32, of sums of a thousand products, and 2e-14 in f64.
fn check(size: [usize; 4], kind: Kind) {
    for device in cpu_devices().map(Device::autodiff) {
        for (dtype, tolerance) in [(DType::F32, 5e-5), (DType::F64, 1e-13)] {
            let fused = run(size, kind, (&device, dtype), true);
            let plain = run(size, kind, (&device, dtype), false);
            for (fused, plain) in fused.into_iter().zip(plain) {
                fused.assert_approx_eq::<f64>(&plain, Tolerance::rel_abs(tolerance, tolerance));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn kernels_are_burns_product(
        size in [1usize..4, 1usize..40, 1usize..70, 1usize..70],
        kind in proptest::sample::select(&KINDS[..]),
    ) {
        check(size, kind);
    }
}

/// Few rows, and sizes that several threads share, some of them deeper than a panel.
#[test]
fn kernels_are_burns_product_at_size() {
    for kind in KINDS {
        for size in [
            [1, 1, 300, 1111],
            [2, 3, 515, 200],
            [1, 8, 64, 64],
            [2, 35, 530, 67],
        ] {
            check(size, kind);
        }
    }
}

/// Weights that are kept packed give the same bits, also after others were used, changed or trained.
#[test]
fn packed_weights_are_those_of_the_call() {
    seq_core::cpu::keep_memory();
    for device in cpu_devices() {
        let packed = PackedWeights::default();
        for dtype in [DType::F32, DType::F64] {
            let options = (&device, dtype);
            for [rows, d_input, d_output] in
                [[64, 3, 5], [70, 530, 67], [65, 40, 130], [3, 40, 130]]
            {
                let mut rng = StdRng::seed_from_u64(7);
                let x: Tensor<2> = random([rows, d_input], &mut rng, options);
                let bias: Tensor<1> = random([d_output], &mut rng, options);
                let mut weight: Tensor<2> = random([d_input, d_output], &mut rng, options);
                for turn in 0..4 {
                    let expected = linear(x.clone(), weight.clone(), Some(bias.clone()));
                    for _ in 0..2 {
                        let y =
                            linear_packed(x.clone(), weight.clone(), Some(bias.clone()), &packed);
                        assert_eq!(y.into_data(), expected.to_data());
                    }
                    weight = match turn {
                        // In place, if nobody holds it.
                        0 => weight * 2.0,
                        1 => random([d_output, d_input], &mut rng, options).transpose(),
                        _ => random([d_input, d_output], &mut rng, options),
                    };
                }
                let tracked = weight.clone().autodiff().require_grad();
                let y = linear_packed(x.clone().autodiff(), tracked.clone(), None, &packed);
                let gradients = y.sum().backward();
                let sums = x.clone().sum_dim(0).transpose().expand([d_input, d_output]);
                let gradient = tracked.grad(&gradients).expect("a gradient");
                let tolerance = Tolerance::rel_abs(1e-4, 1e-4);
                gradient
                    .into_data()
                    .assert_approx_eq::<f64>(&sums.into_data(), tolerance);
            }
        }
    }
}

#[test]
#[should_panic(expected = "the input has shape [2, 5, 3], the weight [4, 6]")]
fn widths_that_differ_are_named() {
    let device = seq_core::device();
    linear(
        Tensor::<3>::ones([2, 5, 3], &device),
        Tensor::ones([4, 6], &device),
        None,
    );
}
