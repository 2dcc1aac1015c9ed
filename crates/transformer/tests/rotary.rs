//! What must hold of rotary positions.

use burn::tensor::{DType, Device, Tensor, TensorData};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::testing::recurrent::{cpu_devices, memory};
use seq_transformer::{Rotary, RotaryConfig, RotaryScaling};
use serde_json::Value;

/// The chosen device in f32, and those that compute in f64 in both.
fn devices() -> Vec<(Device, DType)> {
    let cpu = cpu_devices().flat_map(|device| [(device.clone(), DType::F32), (device, DType::F64)]);
    let chosen = (seq_transformer::device(), DType::F32);
    std::iter::once(chosen).chain(cpu).collect()
}

fn random(seed: u64, shape: [usize; 4], options: (&Device, DType)) -> Tensor<4> {
    let mut generator = StdRng::seed_from_u64(seed);
    let count = shape.iter().product();
    let values: Vec<f64> = (0..count)
        .map(|_| generator.random_range(-1.0..1.0))
        .collect();
    Tensor::from_data(TensorData::new(values, shape), options)
}

/// The largest difference.
fn error<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f64 {
    (found - expected).abs().max().into_scalar()
}

fn assert_equal(found: Tensor<4>, expected: Tensor<4>) {
    found.into_data().assert_eq(&expected.into_data(), true);
}

fn numbers(value: &Value) -> Vec<f64> {
    let numbers = value.as_array().expect("an array");
    numbers
        .iter()
        .map(|x| x.as_f64().expect("a number"))
        .collect()
}

fn sizes(value: &Value) -> Vec<usize> {
    serde_json::from_value(value.clone()).expect("sizes")
}

/// The angles of the other implementation are in single precision, which costs up to 8e-7 at position 40.
#[test]
fn transformers_turns_in_the_same_way() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/rotary.json")).expect("JSON");
    assert_eq!(cases.len(), 14);
    for case in &cases {
        let name = &case["name"];
        let config: RotaryConfig =
            serde_json::from_value(case["config"].clone()).expect("a config");
        let rotary = config.init();
        let length = case["length"].as_u64().expect("a length") as usize;
        let (frequencies, expected) = (rotary.frequencies(length), numbers(&case["frequencies"]));
        assert_eq!(frequencies.len(), expected.len(), "{name}");
        for (found, expected) in frequencies.iter().zip(expected) {
            // Measured: up to 2.8e-7.
            assert!(
                (found / expected - 1.0).abs() < 1e-6,
                "{name}: {found}, {expected}"
            );
        }
        let factor = case["attention_factor"].as_f64().expect("a factor");
        assert!((rotary.attention_factor() - factor).abs() < 1e-12, "{name}");

        let offsets = sizes(&case["offsets"]);
        let shape: [usize; 4] = sizes(&case["shape"]).try_into().expect("four axes");
        let pairs = frequencies.len();
        let [batch, time, heads, _] = shape;
        for (device, dtype) in devices() {
            let options = (&device, dtype);
            let tensor = |name: &str| {
                Tensor::<4>::from_data(TensorData::new(numbers(&case[name]), shape), options)
            };
            let x = tensor("x");
            for y in [
                rotary.forward(x.clone(), &offsets),
                rotary.reference(x, &offsets),
            ] {
                let error = error(y, tensor("y"));
                assert!(error < 5e-6, "{name}: {error:.1e}");
            }
            if config.interleaved {
                continue;
            }
            // What becomes of (1, 0).
            let part = [batch, time, heads, pairs];
            let (ones, zeros) = (Tensor::ones(part, options), Tensor::zeros(part, options));
            let mut parts = vec![ones, zeros];
            if 2 * pairs < config.d_head {
                parts.push(Tensor::zeros(
                    [batch, time, heads, config.d_head - 2 * pairs],
                    options,
                ));
            }
            let y = rotary.forward(Tensor::cat(parts, 3), &offsets);
            for (first, name) in [(0, "cos"), (pairs, "sin")] {
                let expected = TensorData::new(numbers(&case[name]), part);
                let expected = Tensor::<4>::from_data(expected, options);
                let error = error(y.clone().narrow(3, first, pairs), expected);
                assert!(error < 5e-6, "{name}: {error:.1e}");
            }
        }
    }
}

/// Vectors to be turned.
#[derive(Debug, Clone)]
struct Case {
    shape: [usize; 4],
    config: RotaryConfig,
    offsets: Vec<usize>,
    strided: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1_usize..4, 1_usize..9, 1_usize..4);
    let widths = (1_usize..40, 0_usize..3);
    let offsets = (any::<bool>(), prop::collection::vec(0_usize..300, 3));
    let options = any::<(bool, bool, u64)>();
    (sizes, widths, offsets, options).prop_map(
        |((batch, time, heads), (pairs, rest), (shared, offsets), (interleaved, strided, seed))| {
            let d_head = 2 * pairs + rest;
            let count = if shared { 1 } else { batch };
            Case {
                shape: [batch, time, heads, d_head],
                config: RotaryConfig::new(d_head)
                    .with_d_rotary(Some(2 * pairs))
                    .with_interleaved(interleaved)
                    .with_scaling(Some(RotaryScaling::yarn(2.0, 64))),
                offsets: offsets[..count].to_vec(),
                strided,
                seed,
            }
        },
    )
}

/// What `run` makes of a random tensor, and the gradient of its sum weighed at random.
fn differentiate(
    case: &Case,
    device: &Device,
    dtype: DType,
    run: fn(&Rotary, Tensor<4>, &[usize]) -> Tensor<4>,
) -> [Tensor<4>; 2] {
    let device = device.clone().autodiff();
    let [batch, time, heads, d_head] = case.shape;
    let leaf = match case.strided {
        true => random(case.seed, [batch, heads, time, d_head], (&device, dtype)),
        false => random(case.seed, case.shape, (&device, dtype)),
    };
    let leaf = leaf.require_grad();
    let x = match case.strided {
        true => leaf.clone().swap_dims(1, 2),
        false => leaf.clone(),
    };
    let y = run(&case.config.init(), x, &case.offsets);
    let weights = random(!case.seed, case.shape, (&device, dtype));
    let gradients = (y.clone() * weights).sum().backward();
    let gradient = leaf.grad(&gradients).expect("the gradient of a leaf");
    [y.inner(), gradient]
}

fn agrees_with_the_reference(case: &Case) -> Result<(), TestCaseError> {
    for device in cpu_devices() {
        // Measured over 500 cases: up to 1.2e-7 and 2.2e-16.
        for (dtype, tolerance) in [(DType::F32, 5e-7), (DType::F64, 1e-15)] {
            let found = differentiate(case, &device, dtype, Rotary::forward);
            let expected = differentiate(case, &device, dtype, Rotary::reference);
            for (found, expected) in found.into_iter().zip(expected) {
                let error = error(found, expected);
                prop_assert!(error < tolerance, "{dtype:?}: {error:.1e}");
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(60) })]

    #[test]
    fn the_kernel_is_the_reference(case in cases()) {
        agrees_with_the_reference(&case)?;
    }

    #[test]
    fn the_gradient_is_that_of_finite_differences(case in cases()) {
        for device in cpu_devices() {
            let case = Case { strided: false, ..case.clone() };
            let [_, gradient] = differentiate(&case, &device, DType::F64, Rotary::forward);
            let options = (&device, DType::F64);
            let (x, along) = (random(case.seed, case.shape, options), random(7, case.shape, options));
            let weights = random(!case.seed, case.shape, options);
            let rotary = case.config.init();
            let loss = |step: f64| {
                let x = x.clone() + along.clone() * step;
                (rotary.forward(x, &case.offsets) * weights.clone()).sum().into_scalar::<f64>()
            };
            // It is linear: any step will do.
            let difference = (loss(0.5) - loss(-0.5)) / 1.0;
            let slope: f64 = (gradient * along).sum().into_scalar();
            // Measured over 500 cases: up to 1.7e-13, of sums of up to 2000 products.
            prop_assert!((slope - difference).abs() < 1e-12, "{slope} {difference}");
        }
    }

    #[test]
    fn chunks_are_the_whole(case in cases(), cut in 0_usize..9) {
        let [_, time, _, _] = case.shape;
        let cut = 1 + cut % time;
        for (device, dtype) in devices() {
            let rotary = case.config.init();
            let x = random(case.seed, case.shape, (&device, dtype));
            let first = rotary.forward(x.clone().narrow(1, 0, cut), &case.offsets);
            let mut chunks = vec![first];
            if cut < time {
                let offsets: Vec<usize> = case.offsets.iter().map(|offset| offset + cut).collect();
                chunks.push(rotary.forward(x.clone().narrow(1, cut, time - cut), &offsets));
            }
            assert_equal(Tensor::cat(chunks, 1), rotary.forward(x, &case.offsets));
        }
    }

    #[test]
    fn scores_depend_on_the_distance_alone(
        interleaved in any::<bool>(),
        [query, key, shift] in prop::array::uniform3(0_usize..100),
    ) {
        for device in cpu_devices() {
            let rotary = RotaryConfig::new(24).with_interleaved(interleaved).init();
            let vector = |seed| random(seed, [1, 1, 2, 24], (&device, DType::F64));
            let score = |shift| {
                let query = rotary.forward(vector(1), &[query + shift]);
                query * rotary.forward(vector(2), &[key + shift])
            };
            let score = |shift| score(shift).sum_dim(3);
            // Measured over 500 cases: up to 1.2e-14.
            prop_assert!(error(score(shift), score(0)) < 1e-13);
        }
    }
}

/// So much that threads share it.
#[test]
fn many_vectors_are_those_of_the_reference() {
    for interleaved in [false, true] {
        let config = RotaryConfig::new(64).with_interleaved(interleaved);
        agrees_with_the_reference(&Case {
            shape: [2, 75, 4, 64],
            config: config.with_scaling(Some(RotaryScaling::yarn(2.0, 64))),
            offsets: vec![3, 11],
            strided: false,
            seed: 5,
        })
        .expect("the same");
    }
}

#[test]
fn lengths_stay_as_they_were() {
    for (device, dtype) in devices() {
        let x = random(1, [2, 5, 3, 12], (&device, dtype));
        let length = |x: Tensor<4>| x.powi_scalar(2).sum_dim(3);
        let y = RotaryConfig::new(12).init().forward(x.clone(), &[0, 1000]);
        // Measured: up to 9.5e-7.
        assert!(error(length(y), length(x)) < 5e-6);
    }
}

/// A tensor that is used again is not turned in place.
#[test]
fn the_input_stays_as_it_was() {
    for (device, dtype) in devices() {
        let x = random(1, [1, 4, 2, 8], (&device, dtype));
        // Not as it came from the host, which some backends never change.
        let x = x * 2.0;
        let before = x.clone().into_data();
        let view = x.clone().narrow(1, 1, 2);
        let rotary = RotaryConfig::new(8).init();
        let y = rotary.forward(x.clone(), &[3]);
        let narrow = rotary.forward(view, &[4]);
        x.clone().into_data().assert_eq(&before, true);
        assert_equal(narrow, y.clone().narrow(1, 1, 2));
        assert_equal(rotary.forward(x, &[3]), y);
    }
}

/// Positions so far that their rows are not kept.
#[test]
fn far_positions_are_exact() {
    for (device, dtype) in devices() {
        let rotary = RotaryConfig::new(4).init();
        for interleaved in [false, true] {
            let rotary = match interleaved {
                true => rotary.config().clone().with_interleaved(true).init(),
                false => rotary.clone(),
            };
            let x = random(2, [2, 2, 1, 4], (&device, dtype));
            let offsets = [5, 3_000_000];
            let y = rotary.forward(x.clone(), &offsets).into_data();
            let (x, y): (Vec<f64>, Vec<f64>) = (x.into_data().iter().collect(), y.iter().collect());
            for (step, (x, y)) in x.chunks(4).zip(y.chunks(4)).enumerate() {
                let position = (offsets[step / 2] + step % 2) as f64;
                for pair in 0..2 {
                    let (i, j) = match interleaved {
                        true => (2 * pair, 2 * pair + 1),
                        false => (pair, pair + 2),
                    };
                    // Measured: up to 2.8e-8 in f32.
                    let (sin, cos) = (position * 0.01_f64.powi(pair as i32)).sin_cos();
                    assert!((y[i] - (x[i] * cos - x[j] * sin)).abs() < 2e-7);
                    assert!((y[j] - (x[i] * sin + x[j] * cos)).abs() < 2e-7);
                }
            }
        }
    }
}

#[test]
fn a_dynamic_base_depends_on_the_longest_row_of_the_call() {
    for (device, dtype) in devices() {
        let plain = RotaryConfig::new(8).init();
        let config = RotaryConfig::new(8).with_scaling(Some(RotaryScaling::DynamicNtk {
            factor: 2.0,
            max_positions: 16,
        }));
        let rotary = config.init();
        let x = random(3, [2, 2, 1, 8], (&device, dtype));
        let short = rotary.forward(x.clone(), &[3, 14]);
        assert_equal(short.clone(), plain.forward(x.clone(), &[3, 14]));
        let long = rotary.forward(x.clone(), &[3, 15]);
        assert!(error(long, plain.forward(x.clone(), &[3, 15])) > 1e-3);
        // No call changes another.
        assert_equal(rotary.forward(x.clone(), &[3, 14]), short);
    }
}

#[test]
fn clones_may_grow_the_table_at_once() {
    let device = seq_transformer::device();
    let rotary = RotaryConfig::new(8).init();
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (rotary, device) = (rotary.clone(), &device);
            scope.spawn(move || {
                for offset in (seed as usize..600).step_by(37) {
                    let x = random(seed, [1, 3, 1, 8], (device, DType::F32));
                    let y = rotary.forward(x.clone(), &[offset]);
                    // Its table grows once only.
                    let expected = RotaryConfig::new(8).init();
                    assert_equal(y, expected.forward(x, &[offset]));
                }
            });
        }
    });
}

#[test]
#[should_panic(expected = "the input has shape [2, 3, 4, 6], the rotation is of heads [8]")]
fn another_width_is_named() {
    let x = Tensor::zeros([2, 3, 4, 6], &seq_transformer::device());
    RotaryConfig::new(8).init().forward(x, &[0, 0]);
}

#[test]
#[should_panic(expected = "the input has shape [2, 3, 4, 8], the offsets [3]")]
fn another_number_of_offsets_is_named() {
    let x = Tensor::zeros([2, 3, 4, 8], &seq_transformer::device());
    RotaryConfig::new(8).init().forward(x, &[0, 0, 0]);
}

#[test]
fn impossible_options_are_named() {
    let config = RotaryConfig::new(8);
    let scaled = |scaling| config.clone().with_scaling(Some(scaling));
    let dynamic = RotaryScaling::DynamicNtk {
        factor: 2.0,
        max_positions: 8,
    };
    let llama3 = |high_freq_factor| RotaryScaling::Llama3 {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor,
        original_max_positions: 8192,
    };
    let factors = |factors: &[f64]| RotaryScaling::Factors {
        factors: factors.to_vec(),
    };
    for (config, expected) in [
        (
            RotaryConfig::new(7),
            "d_rotary must be even, from 2 to d_head, is 7",
        ),
        (
            config.clone().with_base(1.0),
            "base must be above 1 and finite, is 1",
        ),
        (
            scaled(RotaryScaling::Linear { factor: 0.0 }),
            "factor must be positive and finite, is 0",
        ),
        (
            scaled(dynamic).with_d_rotary(Some(2)),
            "d_rotary must be at least 4 with dynamic scaling, is 2",
        ),
        (
            scaled(RotaryScaling::yarn(2.0, 0)),
            "original_max_positions must be at least 1, is 0",
        ),
        (
            scaled(llama3(1.0)),
            "high_freq_factor must be above low_freq_factor, is 1",
        ),
        (
            scaled(factors(&[1.0; 8])),
            "factors must be as many as pairs that turn, is 8",
        ),
        (
            scaled(factors(&[1.0, 1.0, 0.0, 1.0])),
            "factors must be positive and finite, is 0",
        ),
    ] {
        let error = config.validate().expect_err(expected);
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(scaled(llama3(4.0)).validate(), Ok(()));
}

#[test]
fn each_pair_has_its_factor() {
    let factors = vec![1.0, 2.0, 8.0];
    let config = RotaryConfig::new(8).with_d_rotary(Some(6));
    let plain = config.clone().init();
    let scaled = config.with_scaling(Some(RotaryScaling::Factors {
        factors: factors.clone(),
    }));
    let pairs = plain.frequencies(1).into_owned().into_iter().zip(factors);
    let expected: Vec<f64> = pairs.map(|(angle, factor)| angle / factor).collect();
    assert_eq!(scaled.init().frequencies(1).as_ref(), expected);
    let text = serde_json::to_string(&scaled).unwrap();
    assert_eq!(serde_json::from_str::<RotaryConfig>(&text).unwrap(), scaled);
}

/// At sizes around those of a register, in place and not, forward and backward.
#[test]
fn kernels() {
    for device in cpu_devices() {
        for (pairs, rest, interleaved) in
            [(1, 0, true), (1, 1, false), (7, 3, true), (17, 0, false)]
        {
            let d_head = 2 * pairs + rest;
            let config = RotaryConfig::new(d_head)
                .with_d_rotary(Some(2 * pairs))
                .with_interleaved(interleaved);
            for heads in [1, 3, 700] {
                let case = Case {
                    shape: [2, 3, heads, d_head],
                    config: config.clone(),
                    offsets: vec![61, 2],
                    strided: heads == 3,
                    seed: 1,
                };
                for dtype in [DType::F32, DType::F64] {
                    let [y, gradient] = differentiate(&case, &device, dtype, Rotary::forward);
                    let once_more = config.init().forward(y + gradient, &[5]);
                    assert!(once_more.is_finite().all().into_scalar::<bool>());
                }
            }
        }
    }
}

#[test]
fn kernels_keep_to_their_memory() {
    memory::under_valgrind("kernels");
}
