//! What must always hold of the selective scan.

use burn::tensor::{DType, Tensor};
use proptest::prelude::*;
use seq_core::testing::random::{Random, differentiate, error};
use seq_core::testing::recurrent::cpu_devices;
use seq_mamba::{Lengths, Projection, SelectiveScan};

/// Which parts a scan has, and how large it is.
#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    time: usize,
    width: usize,
    d_state: usize,
    /// Groups of B and of C, none for constant ones.
    groups: [Option<usize>; 2],
    softplus: bool,
    d: bool,
    z: bool,
    bias: bool,
    state: bool,
    lengths: bool,
    resets: bool,
    seed: u64,
}

impl Case {
    fn d_inner(&self) -> usize {
        self.width * self.groups.iter().flatten().product::<usize>()
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let groups = || prop_oneof![Just(None), Just(Some(1)), Just(Some(2)), Just(Some(3))];
    let sizes = (1_usize..4, 1_usize..75, 1_usize..20, 1_usize..20);
    let options = any::<[bool; 7]>();
    (sizes, (groups(), groups()), options, any::<u64>()).prop_map(
        |((batch, time, width, d_state), (b, c), options, seed)| {
            let [softplus, d, z, bias, state, lengths, resets] = options;
            Case {
                batch,
                time,
                width,
                d_state,
                groups: [b, c],
                softplus,
                d,
                z,
                bias,
                state,
                lengths,
                resets,
                seed,
            }
        },
    )
}

fn scan(case: &Case, random: &mut Random<'_>) -> SelectiveScan {
    let (batch, time, d_inner, d_state) = (case.batch, case.time, case.d_inner(), case.d_state);
    let projection = |name, groups: Option<usize>, random: &mut Random<'_>| match groups {
        None => Projection::Constant(random.tensor(name, [d_inner, d_state])),
        Some(groups) => Projection::Varying(random.tensor(name, [batch, time, groups, d_state])),
    };
    let b = projection("b", case.groups[0], random);
    let c = projection("c", case.groups[1], random);
    let x = [batch, time, d_inner];
    let low = if case.softplus { -2.0 } else { 0.0 };
    let u = random.tensor("u", x);
    let delta = random.between("delta", x, low, 1.0);
    let a = random.between("a", [d_inner, d_state], -2.0, 0.0);
    let some = |n: usize| (0..n).map(|i| (case.seed >> (i % 60)) as usize);
    let lengths = || some(batch).map(|x| x % (time + 1)).collect::<Vec<_>>();
    let resets = |row: usize| some(time).map(|x| (x + row).is_multiple_of(5)).collect();
    SelectiveScan {
        d: case.d.then(|| random.tensor("d", [d_inner])),
        z: case.z.then(|| random.tensor("z", x)),
        delta_bias: case
            .bias
            .then(|| random.between("bias", [d_inner], 0.0, 0.5)),
        delta_softplus: case.softplus,
        state: case
            .state
            .then(|| random.tensor("state", [batch, d_inner, d_state])),
        lengths: case.lengths.then(|| lengths().into()),
        resets: case.resets.then(|| (0..batch).map(resets).collect()),
        ..SelectiveScan::new(u, delta, a, b, c)
    }
}

/// A stretch of all rows of a scan.
fn part(scan: &SelectiveScan, first: usize, len: usize) -> SelectiveScan {
    let narrow = |x: &Tensor<3>| x.clone().narrow(1, first, len);
    let project = |x: &Projection| match x {
        Projection::Constant(x) => Projection::Constant(x.clone()),
        Projection::Varying(x) => Projection::Varying(x.clone().narrow(1, first, len)),
    };
    SelectiveScan {
        u: narrow(&scan.u),
        delta: narrow(&scan.delta),
        b: project(&scan.b),
        c: project(&scan.c),
        z: scan.z.as_ref().map(narrow),
        ..scan.clone()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn the_kernel_is_the_reference(case in cases()) {
        for device in cpu_devices() {
            // Measured over 400 cases: up to 8e-7 and 2e-15.
            for (dtype, tolerance) in [(DType::F32, 5e-6), (DType::F64, 1e-14)] {
                let by = |run: fn(SelectiveScan) -> (Tensor<3>, Tensor<3>)| {
                    differentiate(case.seed, &device, dtype, |random| run(scan(&case, random)))
                };
                let (found, expected) = (by(SelectiveScan::run), by(SelectiveScan::reference));
                prop_assert_eq!(found.len(), expected.len());
                for ((name, found), (_, expected)) in found.into_iter().zip(expected) {
                    let error = error(found, expected);
                    prop_assert!(error < tolerance, "{}: {:e} in {:?}", name, error, dtype);
                }
            }
        }
    }

    #[test]
    fn chunks_with_the_state_handed_on_are_the_whole(case in cases(), cut in 0.0..1.0) {
        for device in cpu_devices() {
            let time = case.time + 1;
            let case = Case { lengths: false, resets: false, time, ..case.clone() };
            let cut = 1 + (cut * case.time as f64) as usize * (time - 2) / time;
            let mut random = Random::new(case.seed, &device, DType::F64);
            let whole = scan(&case, &mut random);
            let (first, state) = part(&whole, 0, cut).run();
            let (second, last) = SelectiveScan {
                state: Some(state),
                ..part(&whole, cut, time - cut)
            }
            .run();
            let (expected, expected_last) = whole.run();
            prop_assert!(error(Tensor::cat(vec![first, second], 1), expected) < 1e-14);
            prop_assert!(error(last, expected_last) < 1e-14);
        }
    }

    #[test]
    fn any_finite_step_size_and_rate_give_no_nan(
        values in prop::array::uniform3(-1e30_f32..1e30),
        scale in prop::sample::select(vec![1.0_f32, 1e-10, 1e-30]),
    ) {
        for device in cpu_devices() {
            let device = device.autodiff();
            let [delta, a, z] = values.map(|value| value * scale);
            let full = |value| Tensor::<3>::full([1, 40, 5], value, &device).require_grad();
            // What is written stays in the range of f32.
            let small = || Projection::Varying(Tensor::full([1, 40, 1, 3], 1e-3, &device));
            let a = Tensor::<2>::full([5, 3], -a.abs(), &device).require_grad();
            let (u, delta) = (full(1e-6), full(delta));
            let scan = SelectiveScan {
                z: Some(full(z.clamp(-1e6, 1e6))),
                delta_softplus: true,
                ..SelectiveScan::new(u.clone(), delta.clone(), a, small(), small())
            };
            let (y, state) = scan.run();
            prop_assert!(!y.clone().is_nan().any().into_scalar::<bool>());
            prop_assert!(!state.is_nan().any().into_scalar::<bool>());
            let gradients = y.sum().backward();
            for x in [u, delta] {
                let gradient = x.grad(&gradients).unwrap();
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
            width: 5,
            d_state: 3,
            groups: [Some(1), Some(2)],
            softplus: true,
            d: true,
            z: true,
            bias: true,
            state: true,
            lengths: false,
            resets: false,
            seed: 7,
        };
        let mut random = Random::new(case.seed, &device, DType::F32);
        let plain = scan(&case, &mut random);
        let d_inner = case.d_inner();
        // The second row holds NaN up to a reset, and NaN from its end on.
        let nan = |x: &Tensor<3>| {
            let hole = |len| Tensor::full([1, len, d_inner], f32::NAN, &device);
            x.clone()
                .slice_assign([1..2, 0..11], hole(11))
                .slice_assign([1..2, 30..40], hole(10))
        };
        let mut resets = vec![vec![false; 40]; 2];
        resets[1][11] = true;
        let holed = SelectiveScan {
            u: nan(&plain.u),
            delta: nan(&plain.delta),
            z: plain.z.as_ref().map(nan),
            lengths: Some(Lengths::new([40, 30])),
            resets: Some(resets),
            ..plain.clone()
        };
        let (y, state) = holed.run();
        let (expected, expected_state) = SelectiveScan {
            state: None,
            ..part(&plain, 11, 19)
        }
        .run();
        let (whole, whole_state) = plain.run();

        let row = |x: &Tensor<3>, row: usize| x.clone().narrow(0, row, 1);
        let same = |found: Tensor<3>, expected: Tensor<3>| {
            found.into_data().assert_eq(&expected.into_data(), true);
        };
        same(row(&y, 1).narrow(1, 11, 19), row(&expected, 1));
        same(row(&state, 1), row(&expected_state, 1));
        let padding = Tensor::zeros([1, 10, d_inner], &device);
        same(row(&y, 1).narrow(1, 30, 10), padding);
        same(row(&y, 0), row(&whole, 0));
        same(row(&state, 0), row(&whole_state, 0));
    }
}

#[test]
#[should_panic(expected = "a has shape [5, 3], the scan of an input [2, 7, 4] needs [4, 3]")]
fn shapes_that_do_not_fit_are_named() {
    let device = seq_mamba::device();
    let x = || Tensor::<3>::ones([2, 7, 4], &device);
    let projection = || Projection::Varying(Tensor::ones([2, 7, 1, 3], &device));
    let a = Tensor::ones([5, 3], &device);
    SelectiveScan::new(x(), x(), a, projection(), projection()).run();
}
