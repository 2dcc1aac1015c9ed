//! What only the fused kernels do: they walk in chunks through long sequences, and keep packed weights
//! from run to run.

use burn::module::Module;
use burn::optim::{GradientsParams, SgdConfig};
use burn::tensor::{DType, Device, Distribution, Tensor};
use proptest::prelude::*;
use seq_core::BackendName;
use seq_lstm::{LstmCell, LstmConfig, RecurrentCell};

/// Those that have kernels.
fn cpu_backends() -> impl Iterator<Item = Device> {
    BackendName::compiled()
        .into_iter()
        .filter(|backend| ["ndarray", "flex"].contains(&backend.name()))
        .map(|backend| backend.device())
}

/// How far the kernels are from the reference, relative to the largest value, over outputs and states.
fn error(cell: &LstmCell, x: Tensor<3>, reverse: bool) -> f64 {
    let state = || cell.initial_state(x.dims()[0], &x.device());
    let (y, last) = cell.sequence(x.clone(), None, reverse, state());
    let (expected, expected_last) = cell.reference(x.clone(), None, reverse, state());
    let off = |a: Tensor<2>, b: Tensor<2>| {
        let scale: f64 = b.clone().abs().max().into_scalar();
        let difference: f64 = (a - b).abs().max().into_scalar();
        difference / (1.0 + scale)
    };
    off(y.flatten(0, 1), expected.flatten(0, 1))
        .max(off(last.hidden, expected_last.hidden))
        .max(off(last.cell, expected_last.cell))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn a_long_single_sequence_is_the_reference(
        time in 1_usize..300,
        d_input in 1_usize..70,
        d_hidden in 1_usize..70,
        reverse: bool,
        bias: bool,
    ) {
        for device in cpu_backends() {
            let cell = LstmConfig::new(d_input, d_hidden).with_bias(bias).init_cell(&device);
            let x = Tensor::<3>::random([1, time, d_input], Distribution::Default, &device);
            // Measured over 200 cases: up to 2e-7 and 3e-16.
            prop_assert!(error(&cell, x.clone(), reverse) < 2e-6);
            let cell = cell.map(&mut Double);
            prop_assert!(error(&cell, x.cast(DType::F64), reverse) < 3e-15);
        }
    }
}

/// Turns parameters into f64.
struct Double;

impl burn::module::ModuleMapper for Double {
    fn map_float<const D: usize>(
        &mut self,
        param: burn::module::Param<Tensor<D>>,
    ) -> burn::module::Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(DType::F64))
    }
}

#[test]
fn changed_weights_are_packed_again() {
    for device in cpu_backends() {
        let device = device.autodiff();
        let mut cell = LstmConfig::new(5, 20).init_cell(&device);
        let x = Tensor::<3>::random([1, 4, 5], Distribution::Default, &device);
        let mut optimizer = SgdConfig::new().init();
        let mut before = None;
        for _ in 0..20 {
            let plain = cell.valid();
            let x = x.clone().inner();
            // The first run packs, the second finds what was packed.
            assert!(error(&plain, x.clone(), false) < 2e-6);
            assert!(error(&plain, x.clone(), false) < 2e-6);
            let y = plain.sequence(
                x,
                None,
                false,
                plain.initial_state(1, &device.clone().inner()),
            );
            let sum: f64 = y.0.sum().into_scalar();
            assert_ne!(before, Some(sum), "the step changed nothing");
            before = Some(sum);

            let state = cell.initial_state(1, &device);
            let ones = Tensor::ones([1, 4, 5], &device);
            let (y, _) = cell.sequence(ones, None, false, state);
            let gradients = GradientsParams::from_grads(y.sum().backward(), &cell);
            cell = optimizer.step(0.1, cell, gradients);
        }
    }
}

#[test]
fn only_what_is_tracked_gets_a_gradient() {
    for device in cpu_backends() {
        let device = device.autodiff();
        let mut cell = LstmConfig::new(3, 5).init_cell(&device);
        cell.weight_ih = cell.weight_ih.set_require_grad(false);
        let x = Tensor::<3>::ones([2, 3, 3], &device).require_grad();
        let state = cell.initial_state(2, &device);
        let (y, _) = cell.sequence(x.clone(), None, false, state);
        let gradients = y.sum().backward();
        assert!(cell.weight_ih.val().grad(&gradients).is_none());
        assert!(cell.weight_hh.val().grad(&gradients).is_some());
        assert!(x.grad(&gradients).is_some());
    }
}

#[test]
fn an_empty_batch_has_gradients_of_zero() {
    for device in cpu_backends() {
        let device = device.autodiff();
        let cell = LstmConfig::new(3, 5).init_cell(&device);
        let state = cell.initial_state(0, &device);
        let (y, _) = cell.sequence(Tensor::ones([0, 3, 3], &device), None, false, state);
        assert_eq!(y.dims(), [0, 3, 5]);
        let gradients = y.sum().backward();
        let gradient = cell.weight_hh.val().grad(&gradients).unwrap();
        let largest: f32 = gradient.abs().max().into_scalar();
        assert_eq!(largest, 0.0);
    }
}
