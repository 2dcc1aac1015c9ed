//! What must always hold of the state-space dual scan.

use burn::tensor::{DType, Tensor};
use proptest::prelude::*;
use seq_core::testing::random::{Random, differentiate, error};
use seq_core::testing::recurrent::cpu_devices;
use seq_mamba::{Lengths, Projection, SelectiveScan, Ssd, SsdDecay, StepSize};

/// Which parts a scan has, and how large it is.
#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    time: usize,
    groups: usize,
    heads: usize,
    head_dim: usize,
    d_state: usize,
    chunk_size: usize,
    /// By step sizes, not by logarithms of decays.
    steps: bool,
    softplus: bool,
    bias: bool,
    limit: bool,
    d: bool,
    d_per_channel: bool,
    z: bool,
    state: bool,
    lengths: bool,
    resets: bool,
    strided: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let sizes = (1_usize..4, 1_usize..75, 1_usize..20, 1_usize..20);
    let heads = (1_usize..4, 1_usize..4);
    let options = any::<[bool; 11]>();
    (sizes, heads, 1_usize..80, options, any::<u64>()).prop_map(
        |((batch, time, head_dim, d_state), (groups, heads), chunk_size, options, seed)| {
            let [
                steps,
                softplus,
                bias,
                limit,
                d,
                d_per_channel,
                z,
                state,
                lengths,
                resets,
                strided,
            ] = options;
            Case {
                batch,
                time,
                groups,
                heads: heads * groups,
                head_dim,
                d_state,
                chunk_size,
                steps,
                softplus,
                bias,
                limit,
                d,
                d_per_channel,
                z,
                state,
                lengths,
                resets,
                strided,
                seed,
            }
        },
    )
}

fn scan(case: &Case, random: &mut Random<'_>) -> Ssd {
    let &Case {
        batch,
        time,
        heads,
        head_dim,
        d_state,
        ..
    } = case;
    let channels = [batch, time, heads, head_dim];
    let x = match case.strided {
        true => random
            .tensor("x", [batch, heads, time, head_dim])
            .swap_dims(1, 2),
        false => random.tensor("x", channels),
    };
    let projected = [batch, time, case.groups, d_state];
    let (b, c) = (random.tensor("b", projected), random.tensor("c", projected));
    let decay = match case.steps {
        true => {
            let low = if case.softplus { -2.0 } else { 0.0 };
            SsdDecay::Steps(StepSize {
                bias: case.bias.then(|| random.between("bias", [heads], 0.0, 0.5)),
                softplus: case.softplus,
                limit: case.limit.then_some([0.1, 0.8]),
                ..StepSize::new(
                    random.between("dt", [batch, time, heads], low, 1.0),
                    random.between("a", [heads], -2.0, 0.0),
                )
            })
        }
        false => SsdDecay::Logarithm(random.between("decay", [batch, time, heads], -2.0, 0.0)),
    };
    let width = if case.d_per_channel { head_dim } else { 1 };
    let some = |n: usize| (0..n).map(|i| (case.seed >> (i % 60)) as usize);
    let lengths = || some(batch).map(|x| x % (time + 1)).collect::<Vec<_>>();
    let resets = |row: usize| some(time).map(|x| (x + row).is_multiple_of(5)).collect();
    Ssd {
        d: case.d.then(|| random.tensor("d", [heads, width])),
        z: case.z.then(|| random.tensor("z", channels)),
        state: case
            .state
            .then(|| random.tensor("state", [batch, heads, head_dim, d_state])),
        lengths: case.lengths.then(|| lengths().into()),
        resets: case.resets.then(|| (0..batch).map(resets).collect()),
        chunk_size: case.chunk_size,
        ..Ssd::new(x, decay, b, c)
    }
}

/// The same by the scan of Mamba-1, whose channels are those of all heads.
fn selective(scan: Ssd) -> (Tensor<4>, Tensor<4>) {
    let shape @ [batch, time, heads, head_dim] = scan.x.dims();
    let [_, _, _, d_state] = scan.b.dims();
    let d_inner = heads * head_dim;
    let channels = |x: Tensor<4>| x.reshape([batch, time, d_inner]);
    let spread = |x: Tensor<3>| {
        x.unsqueeze_dim::<4>(3)
            .expand(shape)
            .reshape([batch, time, d_inner])
    };
    let of_heads = |x: Tensor<1>| {
        let x = x.unsqueeze_dim::<2>(1).expand([heads, head_dim]);
        x.reshape([d_inner])
    };
    let SsdDecay::Steps(steps) = scan.decay else {
        panic!("a selective scan has step sizes");
    };
    let a = of_heads(steps.a)
        .unsqueeze_dim::<2>(1)
        .expand([d_inner, d_state]);
    let selective = SelectiveScan {
        d: scan
            .d
            .map(|d| d.expand([heads, head_dim]).reshape([d_inner])),
        z: scan.z.map(channels),
        delta_bias: steps.bias.map(of_heads),
        delta_softplus: steps.softplus,
        state: scan
            .state
            .map(|state| state.reshape([batch, d_inner, d_state])),
        lengths: scan.lengths,
        resets: scan.resets,
        ..SelectiveScan::new(
            channels(scan.x),
            spread(steps.dt),
            a,
            Projection::Varying(scan.b),
            Projection::Varying(scan.c),
        )
    };
    let (y, state) = selective.reference();
    (
        y.reshape(shape),
        state.reshape([batch, heads, head_dim, d_state]),
    )
}

/// A stretch of all rows of a scan.
fn part(scan: &Ssd, first: usize, len: usize) -> Ssd {
    let narrow = |x: &Tensor<4>| x.clone().narrow(1, first, len);
    let decay = match &scan.decay {
        SsdDecay::Logarithm(decay) => SsdDecay::Logarithm(decay.clone().narrow(1, first, len)),
        SsdDecay::Steps(steps) => SsdDecay::Steps(StepSize {
            dt: steps.dt.clone().narrow(1, first, len),
            ..steps.clone()
        }),
    };
    Ssd {
        x: narrow(&scan.x),
        decay,
        b: narrow(&scan.b),
        c: narrow(&scan.c),
        z: scan.z.as_ref().map(narrow),
        ..scan.clone()
    }
}

type Values = Vec<(&'static str, Tensor<1>)>;

fn agree(found: Values, expected: Values, tolerance: f64) -> Result<(), TestCaseError> {
    prop_assert_eq!(found.len(), expected.len());
    for ((name, found), (_, expected)) in found.into_iter().zip(expected) {
        let error = error(found, expected);
        prop_assert!(error < tolerance, "{}: {:e}", name, error);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn the_kernel_is_the_reference(case in cases()) {
        for device in cpu_devices() {
            // Measured over 400 cases, here and below: up to 1.8e-6 and 1e-14.
            for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 2e-14)] {
                let by = |run: fn(Ssd) -> (Tensor<4>, Tensor<4>)| {
                    differentiate(case.seed, &device, dtype, |random| run(scan(&case, random)))
                };
                agree(by(Ssd::run), by(Ssd::reference), tolerance)?;
            }
        }
    }

    #[test]
    fn it_is_a_selective_scan_of_one_rate_a_head(case in cases()) {
        let case = Case { steps: true, limit: false, ..case };
        for device in cpu_devices() {
            let by = |run: fn(Ssd) -> (Tensor<4>, Tensor<4>)| {
                differentiate(case.seed, &device, DType::F64, |random| run(scan(&case, random)))
            };
            agree(by(Ssd::reference), by(selective), 2e-14)?;
        }
    }

    #[test]
    fn any_chunk_size_gives_the_same(case in cases(), other in 1_usize..80) {
        let other = Case { chunk_size: other, ..case.clone() };
        for device in cpu_devices() {
            let by = |case: &Case| {
                differentiate(case.seed, &device, DType::F64, |random| scan(case, random).run())
            };
            agree(by(&case), by(&other), 2e-14)?;
        }
    }

    #[test]
    fn parts_with_the_state_handed_on_are_the_whole(case in cases(), cut in 0.0..1.0) {
        for device in cpu_devices() {
            let time = case.time + 1;
            let case = Case { lengths: false, resets: false, time, ..case.clone() };
            let cut = 1 + (cut * case.time as f64) as usize * (time - 2) / time;
            let mut random = Random::new(case.seed, &device, DType::F64);
            let whole = scan(&case, &mut random);
            let (first, state) = part(&whole, 0, cut).run();
            let (second, last) = Ssd {
                state: Some(state),
                ..part(&whole, cut, time - cut)
            }
            .run();
            let (expected, expected_last) = whole.run();
            prop_assert!(error(Tensor::cat(vec![first, second], 1), expected) < 2e-14);
            prop_assert!(error(last, expected_last) < 2e-14);
        }
    }

    #[test]
    fn any_finite_step_size_and_rate_give_no_nan(
        values in prop::array::uniform3(-1e30_f32..1e30),
        scale in prop::sample::select(vec![1.0_f32, 1e-10, 1e-30]),
        reference in any::<bool>(),
    ) {
        for device in cpu_devices() {
            let device = device.autodiff();
            let [dt, a, z] = values.map(|value| value * scale);
            // What is written stays in the range of f32.
            let full = |value: f32| Tensor::<4>::full([1, 40, 2, 5], value, &device).require_grad();
            let small = || Tensor::<4>::full([1, 40, 1, 3], 1e-3, &device);
            let (x, z) = (full(1e-6), full(z.clamp(-1e6, 1e6)));
            let dt = Tensor::<3>::full([1, 40, 2], dt, &device).require_grad();
            let a = Tensor::<1>::full([2], -a.abs(), &device).require_grad();
            let steps = StepSize { softplus: true, ..StepSize::new(dt.clone(), a.clone()) };
            let scan = Ssd {
                z: Some(z.clone()),
                chunk_size: 16,
                ..Ssd::new(x.clone(), SsdDecay::Steps(steps), small(), small())
            };
            let (y, state) = if reference { scan.reference() } else { scan.run() };
            prop_assert!(!y.clone().is_nan().any().into_scalar::<bool>());
            prop_assert!(!state.is_nan().any().into_scalar::<bool>());
            let gradients = y.sum().backward();
            let gradients = [
                x.grad(&gradients).unwrap().reshape([-1]),
                dt.grad(&gradients).unwrap().reshape([-1]),
                a.grad(&gradients).unwrap(),
                z.grad(&gradients).unwrap().reshape([-1]),
            ];
            for gradient in gradients {
                let gradient: Tensor<1> = gradient;
                prop_assert!(!gradient.is_nan().any().into_scalar::<bool>());
            }
        }
    }
}

#[test]
fn what_is_beyond_the_end_or_before_a_reset_does_not_matter() {
    for device in cpu_devices() {
        let case = Case {
            batch: 2,
            time: 40,
            groups: 1,
            heads: 2,
            head_dim: 5,
            d_state: 3,
            chunk_size: 16,
            steps: true,
            softplus: true,
            bias: true,
            limit: false,
            d: true,
            d_per_channel: false,
            z: true,
            state: true,
            lengths: false,
            resets: false,
            strided: false,
            seed: 7,
        };
        let mut random = Random::new(case.seed, &device, DType::F32);
        let plain = scan(&case, &mut random);
        // The second row holds NaN up to a reset, and NaN from its end on.
        let nan = |x: &Tensor<4>| {
            let [_, _, a, b] = x.dims();
            let hole = |len| Tensor::full([1, len, a, b], f32::NAN, &device);
            x.clone()
                .slice_assign([1..2, 0..11], hole(11))
                .slice_assign([1..2, 30..40], hole(10))
        };
        let mut resets = vec![vec![false; 40]; 2];
        resets[1][11] = true;
        let holed = Ssd {
            x: nan(&plain.x),
            b: nan(&plain.b),
            c: nan(&plain.c),
            z: plain.z.as_ref().map(nan),
            lengths: Some(Lengths::new([40, 30])),
            resets: Some(resets),
            ..plain.clone()
        };
        let (y, state) = holed.run();
        let (expected, expected_state) = Ssd {
            state: None,
            ..part(&plain, 11, 19)
        }
        .run();
        let (whole, whole_state) = plain.run();

        let row = |x: &Tensor<4>, row: usize| x.clone().narrow(0, row, 1);
        // Sums may be taken in another order.
        let same = |found: Tensor<4>, expected: Tensor<4>| {
            assert!(error(found, expected) < 1e-6);
        };
        same(row(&y, 1).narrow(1, 11, 19), row(&expected, 1));
        same(row(&state, 1), row(&expected_state, 1));
        let padding = row(&y, 1).narrow(1, 30, 10).into_data();
        padding.assert_eq(
            &Tensor::<4>::zeros([1, 10, 2, 5], &device).into_data(),
            true,
        );
        same(row(&y, 0), row(&whole, 0));
        same(row(&state, 0), row(&whole_state, 0));
    }
}

#[test]
#[should_panic(
    expected = "c has shape [2, 7, 1, 2], the scan of an input [2, 7, 4, 3] needs [2, 7, 1, 5]"
)]
fn shapes_that_do_not_fit_are_named() {
    let device = seq_mamba::device();
    let ones = |shape: [usize; 4]| Tensor::<4>::ones(shape, &device);
    let decay = SsdDecay::Logarithm(Tensor::zeros([2, 7, 4], &device));
    Ssd::new(
        ones([2, 7, 4, 3]),
        decay,
        ones([2, 7, 1, 5]),
        ones([2, 7, 1, 2]),
    )
    .run();
}
