//! The kernels of the linear map against Burn's product.

use burn::tensor::{DType, Device, Tensor, TensorData, Tolerance};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::{BackendName, is_cpu, linear};

fn random<const D: usize>(
    shape: [usize; D],
    rng: &mut StdRng,
    (device, dtype): (&Device, DType),
) -> Tensor<D> {
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|_| rng.random_range(-1.0..1.0)).collect();
    Tensor::from_data(TensorData::new(values, shape), (device, dtype)).require_grad()
}

/// The outputs, and the gradients of x, the weight and the bias of their weighted sum.
fn run(
    [batch, time, d_input, d_output]: [usize; 4],
    bias: bool,
    (device, dtype): (&Device, DType),
    fused: bool,
) -> Vec<TensorData> {
    let mut rng = StdRng::seed_from_u64(7);
    let options = (device, dtype);
    let x: Tensor<3> = random([batch, time, d_input], &mut rng, options);
    let weight: Tensor<2> = random([d_input, d_output], &mut rng, options);
    let bias = bias.then(|| random::<1>([d_output], &mut rng, options));
    let probe: Tensor<3> = random([batch, time, d_output], &mut rng, options);
    // A strided input, too.
    let input = x.clone().swap_dims(0, 1);
    let probe = probe.swap_dims(0, 1);
    let y = match fused {
        true => linear(input, weight.clone(), bias.clone()),
        false => {
            let y = input.matmul(weight.clone().unsqueeze());
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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Measured differences: 2e-6 in f32, 5e-15 in f64.
    #[test]
    fn kernels_are_burns_product(
        size in [1usize..4, 1usize..40, 1usize..70, 1usize..70],
        bias: bool,
    ) {
        for backend in BackendName::compiled() {
            let device = backend.device();
            if !is_cpu(&device) {
                continue;
            }
            let device = device.autodiff();
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-13)] {
                let fused = run(size, bias, (&device, dtype), true);
                let plain = run(size, bias, (&device, dtype), false);
                for (fused, plain) in fused.into_iter().zip(plain) {
                    fused.assert_approx_eq::<f64>(&plain, Tolerance::rel_abs(tolerance, tolerance));
                }
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
