//! What only the fused kernels do: they walk in chunks through long sequences, and keep packed weights
//! from run to run.

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{DType, Device, Distribution, Gradients, Tensor};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use super::{cpu_devices, initial_state};
use crate::checkpoint::Stored;
use crate::recurrent::{CellState, PyTorchCell, RecurrentCell, RecurrentConfig};
use crate::testing::compare::{close, values};

/// The tests that hold for every kernel, for each of the configurations that a function of `d_input` and
/// `d_hidden` gives.
#[macro_export]
macro_rules! kernel_tests {
    ($configs:expr) => {
        #[test]
        fn changed_weights_are_packed_again() {
            for config in ($configs)(5, 20) {
                $crate::testing::recurrent::kernels::changed_weights_are_packed_again(&config);
            }
        }

        #[test]
        fn only_what_is_tracked_gets_a_gradient() {
            for config in ($configs)(3, 5) {
                $crate::testing::recurrent::kernels::only_what_is_tracked_gets_a_gradient(&config);
            }
        }

        #[test]
        fn an_empty_batch_has_gradients_of_zero() {
            for config in ($configs)(3, 5) {
                $crate::testing::recurrent::kernels::an_empty_batch_has_gradients_of_zero(&config);
            }
        }
    };
}

/// Whether the fused kernel has the options of the cell.
pub fn is_fused<C: RecurrentCell>(cell: &C) -> bool {
    let state = initial_state(cell, 1);
    let options = (&state.hidden().device(), state.hidden().dtype());
    let x = Tensor::zeros([1, 1, cell.d_input()], options);
    let layer = cell.weights().recurrence(x, state);
    cell.fused(layer, None, false).is_ok()
}

/// Checks on the CPU backends that the fused kernel has the options of some configurations and not
/// those of others.
///
/// # Panics
///
/// When it is otherwise.
pub fn fused_are<K: RecurrentConfig>(
    with: impl IntoIterator<Item = K>,
    without: impl IntoIterator<Item = K>,
) {
    let with = with.into_iter().map(|config| (config, true));
    let without = without.into_iter().map(|config| (config, false));
    for (index, (config, expected)) in with.chain(without).enumerate() {
        for device in cpu_devices() {
            let fused = is_fused(&config.init_cell(&device));
            assert_eq!(fused, expected, "configuration {index} on {device:?}");
        }
    }
}

/// Checks that a long single sequence is the reference, for cells of `configure(d_input, d_hidden,
/// bias)` that have a kernel, within 2e-6 (f32) and 3e-15 (f64) of one plus the largest value.
///
/// Measured over 200 cases: up to 2e-7 and 3e-16 with the LSTM.
///
/// # Panics
///
/// When it is not.
pub fn a_long_single_sequence_is_the_reference<K: RecurrentConfig>(
    configure: impl Fn(usize, usize, bool) -> K,
) {
    let sizes = (1_usize..300, 1_usize..70, 1_usize..70);
    let config = Config {
        failure_persistence: None,
        ..Config::with_cases(24)
    };
    let run = |((time, d_input, d_hidden), reverse, bias)| {
        for device in cpu_devices() {
            let cell = configure(d_input, d_hidden, bias).init_cell(&device);
            assert!(is_fused(&cell), "there is no kernel to compare");
            let x = Tensor::<3>::random([1, time, d_input], Distribution::Default, &device);
            let single = agrees(&cell, x.clone(), reverse, 2e-6);
            single.map_err(TestCaseError::fail)?;
            let double = agrees(&cell.map(&mut Double), x.cast(DType::F64), reverse, 3e-15);
            double.map_err(TestCaseError::fail)?;
        }
        Ok(())
    };
    let strategy = (sizes, any::<bool>(), any::<bool>());
    if let Err(error) = TestRunner::new(config).run(&strategy, run) {
        panic!("{error}");
    }
}

/// Compares outputs and last state with the reference, relative to one plus the largest value.
fn agrees<C: RecurrentCell>(
    cell: &C,
    x: Tensor<3>,
    reverse: bool,
    tolerance: f64,
) -> Result<(), String> {
    let state = || initial_state(cell, x.dims()[0]);
    let (y, last) = cell.sequence(x.clone(), None, reverse, state());
    let (expected, expected_last) = cell.reference(x.clone(), None, reverse, state());
    close(
        &values(&y, &last),
        &values(&expected, &expected_last),
        tolerance,
    )
}

/// Turns parameters into f64.
struct Double;

impl ModuleMapper for Double {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| tensor.cast(DType::F64))
    }
}

/// Checks that weights which training changed are packed again.
///
/// # Panics
///
/// When they are not.
pub fn changed_weights_are_packed_again<K: RecurrentConfig>(config: &K) {
    for device in cpu_devices() {
        let device = device.autodiff();
        let mut cell = config.init_cell(&device);
        let ones = Tensor::<3>::ones([1, 4, cell.d_input()], &device);
        let x = ones.random_like(Distribution::Default).inner();
        let mut before = None;
        for _ in 0..20 {
            let plain = cell.valid();
            assert!(is_fused(&plain), "there is no kernel to pack weights for");
            // The first run packs, the second finds what was packed.
            for _ in 0..2 {
                agrees(&plain, x.clone(), false, 2e-6).unwrap_or_else(|error| panic!("{error}"));
            }
            let (y, _) = plain.sequence(x.clone(), None, false, initial_state(&plain, 1));
            let sum: f64 = y.sum().into_scalar();
            assert_ne!(before, Some(sum), "the step changed nothing");
            before = Some(sum);

            let (y, _) = cell.sequence(ones.clone(), None, false, initial_state(&cell, 1));
            let mut descent = Descent(y.sum().backward());
            cell = cell.map(&mut descent);
        }
    }
}

/// A step of gradient descent.
struct Descent(Gradients);

impl ModuleMapper for Descent {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        param.map(|tensor| {
            let gradient = tensor.grad(&self.0).expect("the gradient of a parameter");
            Tensor::from_inner(tensor.inner() - gradient * 0.1).require_grad()
        })
    }
}

/// A cell to train on a CPU backend, and the device.
fn trained<K: RecurrentConfig>(config: &K) -> impl Iterator<Item = (K::Cell, Device)> {
    cpu_devices().map(move |device| {
        let device = device.autodiff();
        let cell = config.init_cell(&device);
        assert!(is_fused(&cell), "there is no kernel to differentiate");
        (cell, device)
    })
}

/// Checks that an input weight that is not tracked gets no gradient, and the rest does.
///
/// # Panics
///
/// When it is otherwise.
pub fn only_what_is_tracked_gets_a_gradient<K>(config: &K)
where
    K: RecurrentConfig,
    K::Cell: PyTorchCell,
{
    for (mut cell, device) in trained(config) {
        for (name, parameter) in cell.parameters() {
            if let ("weight_ih", Stored::Matrix(weight)) = (name, parameter) {
                *weight = weight.clone().set_require_grad(false);
            }
        }
        let x = Tensor::<3>::ones([2, 3, cell.d_input()], &device).require_grad();
        let (y, _) = cell.sequence(x.clone(), None, false, initial_state(&cell, 2));
        let gradients = y.sum().backward();
        assert!(cell.weights().weight_ih.val().grad(&gradients).is_none());
        assert!(cell.weights().weight_hh.val().grad(&gradients).is_some());
        assert!(x.grad(&gradients).is_some());
    }
}

/// Checks that a batch without sequences has outputs, and gradients of zero.
///
/// # Panics
///
/// When it has not.
pub fn an_empty_batch_has_gradients_of_zero<K: RecurrentConfig>(config: &K) {
    for (cell, device) in trained(config) {
        let x = Tensor::ones([0, 3, cell.d_input()], &device);
        let (y, _) = cell.sequence(x, None, false, initial_state(&cell, 0));
        assert_eq!(y.dims(), [0, 3, cell.d_output()]);
        let gradients = y.sum().backward();
        let gradient = cell.weights().weight_hh.val().grad(&gradients).unwrap();
        let largest: f32 = gradient.abs().max().into_scalar();
        assert_eq!(largest, 0.0);
    }
}
