//! What must always hold of the convolutions.
#![cfg(all(feature = "testing", any(feature = "ndarray", feature = "flex")))]

use burn::tensor::{DType, Device, Tensor, TensorData};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::convolution::CausalConv;
use seq_core::testing::recurrent::{cpu_backends, memory};
use seq_core::{BackendName, Lengths};

/// Which parts a convolution has, and how large it is.
#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    time: usize,
    width: usize,
    d_conv: usize,
    bias: bool,
    silu: bool,
    state: bool,
    lengths: bool,
    resets: bool,
    /// Whether input and weight are views of tensors that lie in another order.
    strided: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1_usize..4, 1_usize..12, 1_usize..40, 1_usize..6);
    (sizes, any::<[bool; 6]>(), any::<u64>()).prop_map(
        |((batch, time, width, d_conv), options, seed)| {
            let [bias, silu, state, lengths, resets, strided] = options;
            Case {
                batch,
                time,
                width,
                d_conv,
                bias,
                silu,
                state,
                lengths,
                resets,
                strided,
                seed,
            }
        },
    )
}

/// A convolution, and its tensors as leaves, in this order: x, weight, bias, state.
struct Trial {
    conv: CausalConv,
    x: Tensor<3>,
    weight: Tensor<2>,
    probes: [Tensor<3>; 2],
}

impl Trial {
    fn new(case: &Case, device: &Device, dtype: DType) -> Self {
        let Case {
            batch,
            time,
            width,
            d_conv,
            ..
        } = *case;
        let mut rng = StdRng::seed_from_u64(case.seed);
        let mut values = |count: usize| -> Vec<f64> {
            (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
        };
        let mut cube = |shape: [usize; 3]| {
            let data = TensorData::new(values(shape.iter().product()), shape);
            Tensor::<3>::from_data(data, (device, dtype))
        };
        let leaf = |x: Tensor<3>| match device.is_autodiff() {
            true => x.require_grad(),
            false => x,
        };
        let kept = d_conv - 1;
        let (x, weight) = match case.strided {
            true => (
                leaf(cube([batch, width, time])),
                leaf(cube([1, d_conv, width])),
            ),
            false => (
                leaf(cube([batch, time, width])),
                leaf(cube([1, width, d_conv])),
            ),
        };
        let turned = |x: &Tensor<3>| match case.strided {
            true => x.clone().swap_dims(1, 2),
            false => x.clone(),
        };
        let (bias, state) = (cube([1, 1, width]), cube([batch, width, kept]));
        let some = |n: usize| (0..n).map(|i| (case.seed >> (i % 60)) as usize);
        let lengths: Vec<usize> = some(batch).map(|x| x % (time + 1)).collect();
        let resets = |row: usize| some(time).map(|x| (x + row).is_multiple_of(5)).collect();
        let probes = [cube([batch, time, width]), cube([batch, width, kept])];
        let conv = CausalConv {
            bias: case.bias.then(|| leaf(bias).reshape([width])),
            silu: case.silu,
            state: case.state.then(|| leaf(state)),
            lengths: case.lengths.then(|| lengths.into()),
            resets: case.resets.then(|| (0..batch).map(resets).collect()),
            ..CausalConv::new(turned(&x), turned(&weight).squeeze_dim(0))
        };
        Self {
            conv,
            weight: weight.clone().squeeze_dim(0),
            x,
            probes,
        }
    }
}

type Run = fn(CausalConv) -> (Tensor<3>, Tensor<3>);

/// Outputs, last state, and the gradients of their sum weighed at random.
fn differentiate(case: &Case, device: &Device, dtype: DType, run: Run) -> Vec<Tensor<1>> {
    let trial = Trial::new(case, &device.clone().autodiff(), dtype);
    let state = trial.conv.state.clone();
    let (bias, weight) = (trial.conv.bias.clone(), trial.weight.clone());
    // What is not a leaf keeps no gradient: these are seen through what they are made of.
    let bias = bias.map(|bias| bias.detach().require_grad());
    let weight = weight.detach().require_grad();
    let conv = CausalConv {
        bias: bias.clone(),
        weight: match case.strided {
            true => weight.clone().swap_dims(0, 1),
            false => weight.clone(),
        },
        ..trial.conv
    };
    let (y, last) = run(conv);
    let [y_probe, last_probe] = trial.probes;
    let loss = (y.clone() * y_probe).sum();
    let loss = match case.d_conv {
        1 => loss,
        _ => loss + (last.clone() * last_probe).sum(),
    };
    let gradients = loss.backward();
    let row = |x: Tensor<3>| x.inner().reshape([-1]);
    let mut values = vec![row(y)];
    if case.d_conv > 1 {
        values.push(row(last));
    }
    values.extend(trial.x.grad(&gradients).map(|x| x.reshape([-1])));
    values.extend(weight.grad(&gradients).map(|x| x.reshape([-1])));
    values.extend(bias.and_then(|bias| bias.grad(&gradients)));
    let state = state.filter(|_| case.d_conv > 1);
    values.extend(state.and_then(|state| Some(state.grad(&gradients)?.reshape([-1]))));
    values
}

/// The largest difference, relative to one plus the largest value.
fn error<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f64 {
    let scale: f64 = expected.clone().abs().max().into_scalar();
    let difference: f64 = (found - expected).abs().max().into_scalar();
    difference / (1.0 + scale)
}

fn devices() -> impl Iterator<Item = Device> {
    cpu_backends().map(BackendName::device)
}

/// A stretch of all rows of a convolution.
fn part(conv: &CausalConv, first: usize, len: usize) -> CausalConv {
    CausalConv {
        x: conv.x.clone().narrow(1, first, len),
        ..conv.clone()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn the_kernel_is_the_reference(case in cases()) {
        for device in devices() {
            for (dtype, tolerance) in [(DType::F32, 5e-6), (DType::F64, 1e-14)] {
                let found = differentiate(&case, &device, dtype, CausalConv::run);
                let expected = differentiate(&case, &device, dtype, CausalConv::reference);
                prop_assert_eq!(found.len(), expected.len());
                for (part, (found, expected)) in found.into_iter().zip(expected).enumerate() {
                    let error = error(found, expected);
                    prop_assert!(error < tolerance, "part {}: {:e} in {:?}", part, error, dtype);
                }
            }
        }
    }

    #[test]
    fn chunks_and_steps_with_the_state_handed_on_are_the_whole(case in cases(), cut in 0.0..1.0) {
        for device in devices() {
            let case = Case { lengths: false, resets: false, time: case.time + 1, ..case.clone() };
            let cut = 1 + (cut * (case.time - 1) as f64) as usize;
            let whole = Trial::new(&case, &device, DType::F64).conv;
            let (expected, expected_last) = whole.clone().run();
            for sizes in [vec![cut, case.time - cut], vec![1; case.time]] {
                let (mut first, mut state, mut outputs) = (0, whole.state.clone(), Vec::new());
                for len in sizes.into_iter().filter(|&len| len > 0) {
                    let (y, last) = CausalConv { state, ..part(&whole, first, len) }.run();
                    (first, state) = (first + len, Some(last));
                    outputs.push(y);
                }
                prop_assert!(error(Tensor::cat(outputs, 1), expected.clone()) < 1e-14);
                if case.d_conv > 1 {
                    let last = state.expect("the state after the last part");
                    prop_assert!(error(last, expected_last.clone()) < 1e-14);
                }
            }
        }
    }
}

#[test]
fn what_is_beyond_the_end_or_before_a_reset_does_not_matter() {
    let case = Case {
        batch: 2,
        time: 14,
        width: 19,
        d_conv: 4,
        bias: true,
        silu: true,
        state: true,
        lengths: false,
        resets: false,
        strided: false,
        seed: 7,
    };
    for device in devices() {
        let plain = Trial::new(&case, &device, DType::F32).conv;
        let hole = |len| Tensor::full([1, len, case.width], f32::NAN, &device);
        let x = plain.x.clone();
        let x = x.slice_assign([1..2, 0..5], hole(5));
        let x = x.slice_assign([1..2, 11..14], hole(3));
        let mut resets = vec![vec![false; case.time]; 2];
        resets[1][5] = true;
        let holed = CausalConv {
            x,
            lengths: Some(Lengths::new([14, 11])),
            resets: Some(resets),
            ..plain.clone()
        };
        let (y, state) = holed.run();
        let alone = CausalConv {
            state: None,
            ..part(&plain, 5, 6)
        };
        let (expected, expected_state) = alone.run();
        let (whole, whole_state) = plain.run();
        let row = |x: &Tensor<3>, row: usize| x.clone().narrow(0, row, 1);
        let same = |found: Tensor<3>, expected: Tensor<3>| {
            found.into_data().assert_eq(&expected.into_data(), true);
        };
        same(row(&y, 1).narrow(1, 5, 6), row(&expected, 1));
        same(row(&state, 1), row(&expected_state, 1));
        let padding = Tensor::zeros([1, 3, case.width], &device);
        same(row(&y, 1).narrow(1, 11, 3), padding);
        same(row(&y, 0), row(&whole, 0));
        same(row(&state, 0), row(&whole_state, 0));
    }
}

#[test]
#[should_panic(
    expected = "the weight has shape [5, 3], the convolution of an input [2, 7, 4] needs [4, 3]"
)]
fn shapes_that_do_not_fit_are_named() {
    let device = seq_core::device();
    CausalConv::new(
        Tensor::ones([2, 7, 4], &device),
        Tensor::ones([5, 3], &device),
    )
    .run();
}

/// Forward and backward at sizes around those of a register, with all there is.
#[test]
fn kernels() {
    for backend in cpu_backends() {
        for (time, width, d_conv) in [(1, 1, 4), (9, 16, 1), (12, 35, 4)] {
            let case = Case {
                batch: 2,
                time,
                width,
                d_conv,
                bias: true,
                silu: true,
                state: true,
                lengths: true,
                resets: true,
                strided: false,
                seed: 0x1234_5678_9abc,
            };
            let found = differentiate(&case, &backend.device(), DType::F32, CausalConv::run);
            for x in found {
                assert!(x.is_finite().all().into_scalar::<bool>());
            }
        }
    }
}

#[test]
fn kernels_keep_to_their_memory() {
    memory::under_valgrind("kernels");
}
