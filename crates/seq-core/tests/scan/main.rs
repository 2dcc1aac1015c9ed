//! What must always hold of the linear scan.
#![cfg(all(feature = "testing", any(feature = "ndarray", feature = "flex")))]

mod case;

use burn::tensor::{DType, Device, Tensor, TensorData};
use case::{Case, Form, Scan};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::Lengths;
use seq_core::scan::{Complex, ComplexDecay, ComplexScan, Decay, LinearScan};
use seq_core::testing::recurrent::cpu_devices;

fn cases() -> impl Strategy<Value = Case> {
    let width = prop_oneof![1_usize..20, 60_usize..100];
    let sizes = (1_usize..4, prop_oneof![Just(1), 1_usize..50], width);
    let options = any::<[bool; 6]>();
    (sizes, options, 0_usize..6, any::<u64>()).prop_map(
        |((batch, time, width), options, tracked, seed)| {
            let [complex, varying, state, lengths, resets, strided] = options;
            Case {
                batch,
                time,
                width,
                complex,
                varying,
                state,
                lengths,
                resets,
                strided,
                tracked,
                seed,
            }
        },
    )
}

/// Some of the outputs, weighed at random.
fn loss(case: &Case, (states, last): &(Vec<Tensor<3>>, Vec<Tensor<2>>)) -> Tensor<1> {
    let states = states.iter().map(|x| x.clone().reshape([-1]));
    let last = last.iter().map(|x| x.clone().reshape([-1]));
    let outputs: Vec<Tensor<1>> = states.chain(last).collect();
    let mut generator = StdRng::seed_from_u64(case.seed + 1);
    let chosen = generator.random_range(0..outputs.len());
    let weighed = outputs.into_iter().enumerate().filter_map(|(i, x)| {
        let [count] = x.dims();
        let weights: Vec<f64> = (0..count)
            .map(|_| generator.random_range(-1.0..1.0))
            .collect();
        let weights = TensorData::new(weights, [count]);
        let weights = Tensor::from_data(weights, (&x.device(), x.dtype()));
        (i == chosen || generator.random()).then(|| (x * weights).sum())
    });
    weighed.reduce(|a, b| a + b).expect("the chosen one")
}

/// Outputs, and the gradients of [`loss`].
fn differentiate(
    case: &Case,
    device: &Device,
    dtype: DType,
    form: Form,
) -> Vec<(&'static str, Tensor<1>)> {
    let device = device.clone().autodiff();
    let (scan, leaves) = case.scan(&case.values(), (&device, dtype));
    let outputs = scan.run(form);
    let gradients = loss(case, &outputs).backward();
    let (states, last) = outputs;
    let states = states
        .into_iter()
        .map(|x| ("states", x.inner().reshape([-1])));
    let last = last
        .into_iter()
        .map(|x| ("the last state", x.inner().reshape([-1])));
    let gradient = |(name, leaf): (_, Tensor<1>)| {
        let zeros = || leaf.clone().inner().zeros_like();
        (name, leaf.grad(&gradients).unwrap_or_else(zeros))
    };
    states
        .chain(last)
        .chain(leaves.into_iter().map(gradient))
        .collect()
}

/// The largest difference, relative to one plus the largest value; infinite where one is no number.
fn error(found: Tensor<1>, expected: Tensor<1>) -> f64 {
    if found.clone().is_nan().any().into_scalar::<bool>() {
        return f64::INFINITY;
    }
    let scale: f64 = expected.clone().abs().max().into_scalar();
    let difference: f64 = (found - expected).abs().max().into_scalar();
    difference / (1.0 + scale)
}

/// Measured over 400 cases: up to 8e-7 and 4e-15.
fn forms_agree(case: &Case, forms: &[Form]) {
    for device in cpu_devices() {
        for (dtype, tolerance) in [(DType::F32, 5e-6), (DType::F64, 2e-14)] {
            let expected = differentiate(case, &device, dtype, Form::Sequential);
            for &form in forms {
                let found = differentiate(case, &device, dtype, form);
                assert_eq!(found.len(), expected.len());
                for ((name, found), (_, expected)) in found.into_iter().zip(expected.clone()) {
                    let error = error(found, expected);
                    assert!(
                        error < tolerance,
                        "{form:?}, {name}: {error:e} in {dtype:?}"
                    );
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn all_forms_agree(case in cases(), chunk in 1_usize..9) {
        forms_agree(&case, &[Form::Run, Form::Chunked(chunk), Form::Associative]);
    }

    #[test]
    fn chunks_with_the_state_handed_on_are_the_whole(case in cases(), cut in 0.0..1.0) {
        let time = case.time + 1;
        let case = Case { lengths: false, time, ..case };
        let cut = 1 + (cut * (time - 1) as f64) as usize;
        for device in cpu_devices() {
            let (whole, _) = case.scan(&case.values(), (&device, DType::F32));
            let (first, last) = part(&whole, 0, cut, None).run(Form::Run);
            let rest = part(&whole, cut, time - cut, Some(last));
            let (second, last) = rest.run(Form::Run);
            let (expected, expected_last) = whole.run(Form::Run);
            for ((first, second), expected) in first.into_iter().zip(second).zip(expected) {
                same(Tensor::cat(vec![first, second], 1), expected);
            }
            for (last, expected) in last.into_iter().zip(expected_last) {
                same(last, expected);
            }
        }
    }
}

/// A stretch of all rows, which begins at `state` or where the whole does.
fn part(scan: &Scan, first: usize, len: usize, state: Option<Vec<Tensor<2>>>) -> Scan {
    let narrow = |x: Tensor<3>| x.narrow(1, first, len);
    let resets = |resets: Option<Vec<Vec<bool>>>| {
        let row = |row: Vec<bool>| row[first..first + len].to_vec();
        resets.map(|resets| resets.into_iter().map(row).collect())
    };
    match scan.clone() {
        Scan::Real(scan) => Scan::Real(LinearScan {
            decay: match scan.decay {
                Decay::Constant(decay) => Decay::Constant(decay),
                Decay::Varying(decay) => Decay::Varying(narrow(decay)),
            },
            x: narrow(scan.x),
            state: state.map_or(scan.state, |mut planes| planes.pop()),
            resets: resets(scan.resets),
            lengths: None,
        }),
        Scan::Complex(scan) => Scan::Complex(ComplexScan {
            decay: match scan.decay {
                ComplexDecay::Constant(decay) => ComplexDecay::Constant(decay),
                ComplexDecay::Varying(decay) => ComplexDecay::Varying(decay.map(narrow)),
            },
            x: scan.x.map(narrow),
            state: match state.as_deref() {
                Some([re, im]) => Some(Complex::new(re.clone(), im.clone())),
                _ => scan.state,
            },
            resets: resets(scan.resets),
            lengths: None,
        }),
    }
}

/// Equal to the bit.
fn same<const D: usize>(found: Tensor<D>, expected: Tensor<D>) {
    found.into_data().assert_eq(&expected.into_data(), true);
}

/// All kinds of a scan.
fn kinds() -> impl Iterator<Item = Case> {
    [(false, false), (false, true), (true, false), (true, true)]
        .into_iter()
        .map(|(complex, varying)| Case {
            batch: 2,
            time: 7,
            width: 3,
            complex,
            varying,
            state: true,
            lengths: false,
            resets: false,
            strided: false,
            tracked: 3,
            seed: 7,
        })
}

#[test]
fn scans_that_are_worth_several_threads_agree() {
    for case in kinds() {
        let case = Case {
            batch: 3,
            time: 90,
            width: 131,
            resets: case.varying,
            lengths: case.complex,
            ..case
        };
        forms_agree(&case, &[Form::Run]);
    }
}

#[test]
fn gradients_are_finite_differences() {
    // A central difference of polynomials. Measured: up to 2e-9.
    const STEP: f64 = 1e-5;
    for device in cpu_devices() {
        for case in kinds() {
            for (lengths, resets) in [(false, false), (true, true)] {
                let case = Case {
                    lengths,
                    resets,
                    ..case.clone()
                };
                let values = case.values();
                let found = differentiate(&case, &device, DType::F64, Form::Run);
                let outputs = 2 * case.planes();
                let loss = |values: &[(&'static str, Vec<f64>)]| -> f64 {
                    let (scan, _) = case.scan(values, (&device, DType::F64));
                    loss(&case, &scan.run(Form::Run)).into_scalar()
                };
                for (i, (name, gradient)) in found.into_iter().skip(outputs).enumerate() {
                    let gradient = gradient.into_data().iter::<f64>().collect::<Vec<_>>();
                    for (element, found) in gradient.into_iter().enumerate() {
                        let moved = |by: f64| {
                            let mut values = values.clone();
                            values[i].1[element] += by;
                            loss(&values)
                        };
                        let expected = (moved(STEP) - moved(-STEP)) / (2.0 * STEP);
                        let error = (found - expected).abs();
                        assert!(error < 2e-8, "{name}, {case:?}: {found} or {expected}");
                    }
                }
            }
        }
    }
}

/// `values` with `value` in some steps of one row.
fn filled(case: &Case, values: &mut [f64], row: usize, steps: std::ops::Range<usize>, value: f64) {
    let first = row * case.time * case.width;
    values[first + steps.start * case.width..first + steps.end * case.width].fill(value);
}

#[test]
fn padding_does_not_matter() {
    for device in cpu_devices() {
        for case in kinds() {
            let (time, length) = (40, 29);
            let case = Case { time, ..case };
            let run = |value: f64, form| {
                let mut values = case.values();
                let varying = case.varying;
                for (name, values) in &mut values {
                    if *name == "x" || *name == "the decay" && varying {
                        filled(&case, values, 1, length..time, value);
                    }
                }
                let (mut scan, leaves) =
                    case.scan(&values, (&device.clone().autodiff(), DType::F32));
                let lengths = Some(Lengths::new([time, length]));
                match &mut scan {
                    Scan::Real(scan) => scan.lengths = lengths,
                    Scan::Complex(scan) => scan.lengths = lengths,
                }
                let outputs = scan.run(form);
                let gradients = loss(&case, &outputs).backward();
                let gradients: Vec<_> = leaves
                    .into_iter()
                    .map(|(_, leaf)| leaf.grad(&gradients).expect("a gradient"))
                    .collect();
                (outputs, gradients)
            };
            for form in [Form::Run, Form::Chunked(8)] {
                let ((states, last), gradients) = run(f64::NAN, form);
                let ((expected, expected_last), expected_gradients) = run(1.0, form);
                for state in &states {
                    let padding = state.clone().slice([1..2, length..time]);
                    same(padding.clone(), padding.zeros_like());
                }
                states
                    .into_iter()
                    .zip(expected)
                    .for_each(|(a, b)| same(a, b));
                last.into_iter()
                    .zip(expected_last)
                    .for_each(|(a, b)| same(a, b));
                gradients
                    .into_iter()
                    .zip(expected_gradients)
                    .for_each(|(a, b)| same(a, b));
            }
        }
    }
}

#[test]
fn what_is_before_a_reset_does_not_matter() {
    for device in cpu_devices() {
        for case in kinds() {
            let (time, reset) = (40, 19);
            let case = Case { time, ..case };
            let run = |value: f64, form| {
                let mut values = case.values();
                for (name, values) in &mut values {
                    match *name {
                        "x" => filled(&case, values, 1, 0..reset, value),
                        // At the reset itself, too.
                        "the decay" if case.varying => {
                            filled(&case, values, 1, 0..reset + 1, value)
                        }
                        "the state" => values[case.width..].fill(value),
                        _ => (),
                    }
                }
                let (mut scan, leaves) =
                    case.scan(&values, (&device.clone().autodiff(), DType::F32));
                let mut resets = vec![vec![false; time]; 2];
                resets[1][reset] = true;
                match &mut scan {
                    Scan::Real(scan) => scan.resets = Some(resets),
                    Scan::Complex(scan) => scan.resets = Some(resets),
                }
                // Beside the last state, the outputs of the first row and of what follows the reset.
                let after = |x: Tensor<3>| x.slice([0..2, reset..time]);
                let (states, last) = scan.run(form);
                let outputs = (states.into_iter().map(after).collect(), last);
                let gradients = loss(&case, &outputs).backward();
                let mut seen: Vec<Tensor<1>> = Vec::new();
                seen.extend(outputs.0.into_iter().map(|x| x.inner().reshape([-1])));
                seen.extend(outputs.1.into_iter().map(|x| x.inner().reshape([-1])));
                for (name, leaf) in leaves {
                    let gradient = leaf.grad(&gradients).expect("a gradient");
                    if name == "x" || name == "the decay" && case.varying {
                        let gradient = gradient.reshape([2, time, case.width]);
                        seen.push(after(gradient).reshape([-1]));
                    }
                }
                seen
            };
            for form in [Form::Run, Form::Chunked(8)] {
                for (found, expected) in run(f64::NAN, form).into_iter().zip(run(1.0, form)) {
                    same(found, expected);
                }
            }
        }
    }
}

fn ones() -> LinearScan {
    let device = seq_core::device();
    let decay = Decay::Constant(Tensor::ones([4], &device));
    LinearScan::new(decay, Tensor::ones([2, 7, 4], &device))
}

#[test]
#[should_panic(expected = "the decay has shape [3], the scan of an input [2, 7, 4] needs [4]")]
fn a_constant_decay_that_does_not_fit_is_named() {
    let device = seq_core::device();
    let decay = Decay::Constant(Tensor::ones([3], &device));
    LinearScan { decay, ..ones() }.run();
}

#[test]
#[should_panic(expected = "the decay has shape [2, 6, 4]")]
fn a_varying_decay_that_does_not_fit_is_named() {
    let device = seq_core::device();
    let plane = |shape| Tensor::<3>::ones(shape, &device);
    let decay = ComplexDecay::Varying(Complex::from_real(plane([2, 6, 4])));
    ComplexScan::new(decay, Complex::from_real(plane([2, 7, 4]))).run();
}

#[test]
#[should_panic(
    expected = "the state has shape [1, 4], the scan of an input [2, 7, 4] needs [2, 4]"
)]
fn a_state_that_does_not_fit_is_named() {
    let state = Some(Tensor::ones([1, 4], &seq_core::device()));
    LinearScan { state, ..ones() }.run();
}

#[test]
#[should_panic(expected = "resets has shape [7, 6]")]
fn resets_that_do_not_fit_are_named() {
    let resets = Some(vec![vec![false; 7], vec![false; 6]]);
    LinearScan { resets, ..ones() }.run();
}

#[test]
#[should_panic(expected = "a length of 8 exceeds the input's time 7")]
fn lengths_that_do_not_fit_are_named() {
    let lengths = Some(Lengths::new([8, 7]));
    LinearScan { lengths, ..ones() }.run();
}

#[test]
#[should_panic(expected = "the imaginary parts have shape [3], the real parts [4]")]
fn planes_that_do_not_fit_are_named() {
    let device = seq_core::device();
    Complex::<1>::new(Tensor::ones([4], &device), Tensor::ones([3], &device));
}
