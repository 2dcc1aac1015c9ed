//! What is random while training, and only then.

use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};

use super::cpu_backends;
use crate::SequenceLayer;
use crate::recurrent::{CellState, Recurrent, RecurrentCell, RecurrentConfig};

/// Runs a test on each CPU backend, on a device to train on, always with the same random numbers.
pub fn on_cpus(test: impl Fn(&Device)) {
    // All threads draw from one source.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for backend in cpu_backends() {
        println!("{backend}");
        let device = backend.device();
        device.seed(1);
        test(&device.autodiff());
    }
}

/// Checks that `count` of so many are about as many as the probability says.
///
/// # Panics
///
/// When they are off by more than four standard deviations of the binomial distribution.
pub fn assert_share(what: &str, count: usize, of: usize, probability: f64) {
    let share = count as f64 / of as f64;
    let deviation = (probability * (1.0 - probability) / of as f64).sqrt();
    assert!(
        (share - probability).abs() < 4.0 * deviation,
        "{what}: {share} instead of {probability} with a standard deviation of {deviation}"
    );
}

/// Checks that there is dropout between two layers and nowhere else, and only while training, in
/// layers of `configure(num_layers)`, which set a dropout.
///
/// # Panics
///
/// When there is another one, or none.
pub fn dropout_is_between_layers<K: RecurrentConfig>(configure: impl Fn(usize) -> K) {
    fn differs<C: RecurrentCell>(layer: &Recurrent<C>, x: &Tensor<3>) -> bool {
        let y = || layer.forward(x.clone(), None).0.into_data();
        y() != y()
    }
    on_cpus(|device| {
        for num_layers in [1, 2] {
            let layer = configure(num_layers).init(device);
            let shape = [4, 10, layer.d_input()];
            let x = Tensor::<3>::random(shape, Distribution::Default, device);
            assert_eq!(differs(&layer, &x), num_layers == 2, "{num_layers} layers");
            assert!(!differs(&layer.valid(), &x.inner()));
        }
    });
}

/// Checks that each gate's recurrent weights are orthogonal in the layers of `config`, and are trained:
/// with autodiff, where a parameter has to be a leaf, and without.
///
/// # Panics
///
/// When they are not.
pub fn orthogonal_gates_are_orthogonal_and_trained(config: &impl RecurrentConfig) {
    on_cpus(|device| {
        for device in [device.clone().inner(), device.clone()] {
            let layer = config.init(&device);
            let weights = layer.cells[0].weights();
            let (weight, hidden) = (weights.weight_hh.val(), weights.d_hidden());
            let one = Tensor::eye(hidden, &device);
            for gate in weight.clone().split(hidden, 0) {
                let product = gate.clone().matmul(gate.transpose());
                let error = largest((product - one.clone()).abs());
                assert!(error < 1e-5, "{error}");
            }
            if device.is_autodiff() {
                let (y, _) = layer.forward(Tensor::ones([1, 2, layer.d_input()], &device), None);
                assert!(weight.grad(&y.sum().backward()).is_some());
            }
        }
    });
}

/// Checks that layers of `with`, which sets a recurrent dropout, give something else at every call
/// while training, and afterwards what the same layer of `without` gives, to the bit.
///
/// # Panics
///
/// When they do not.
pub fn recurrent_dropout_is_for_training_alone<K: RecurrentConfig>(with: &K, without: &K) {
    on_cpus(|device| {
        let layer = with.init(device);
        let x = Tensor::<3>::random([4, 10, layer.d_input()], Distribution::Default, device);
        let y = |layer: &Recurrent<K::Cell>, x: &Tensor<3>| {
            layer.forward(x.clone(), None).0.into_data()
        };
        assert_ne!(y(&layer, &x), y(&layer, &x), "two calls had the same mask");
        let trained = layer.valid();
        let plain = without
            .init(&device.clone().inner())
            .load_record(trained.clone().into_record());
        let x = x.inner();
        assert_eq!(y(&trained, &x), y(&plain, &x));
    });
}

/// Checks that zoneout keeps each unit of the state with a probability while training, and afterwards
/// gives the mixture that this makes on average. `cells` gives a cell with zoneout of that probability
/// in all parts of its state, and the same without. Its `d_hidden` must be 64.
///
/// The mixture and what is kept may be 2e-6 off; measured are up to 4.8e-7.
///
/// # Panics
///
/// When it does not.
pub fn zoneout_keeps_at_random_and_then_mixes<C: RecurrentCell>(
    probability: f64,
    cells: impl Fn(&Device) -> [C; 2],
) {
    const TOLERANCE: f64 = 2e-6;
    on_cpus(|device| {
        let [cell, without] = cells(device);
        let random =
            |width| Tensor::<2>::random([64, width], Distribution::Normal(0.0, 1.0), device);
        let x = random(cell.d_input());
        let before = parts(C::State::from_parts(
            random(64),
            C::State::MEMORY.then(|| random(64)),
        ));
        let step = |cell: &C, x: &Tensor<2>, before: &[Tensor<2>]| {
            let state = C::State::from_parts(before[0].clone(), before.get(1).cloned());
            parts(cell.step(x.clone(), state).1)
        };
        let after = step(&cell, &x, &before);
        let fresh = step(&without, &x, &before);
        let inner: Vec<_> = before.iter().cloned().map(Tensor::inner).collect();
        let mixed = step(&cell.valid(), &x.inner(), &inner);
        for (part, what) in ["hidden", "cell"].iter().enumerate().take(before.len()) {
            let (old, new) = (before[part].clone(), fresh[part].clone());
            let to_old = (after[part].clone() - old.clone()).abs();
            let to_new = (after[part].clone() - new.clone()).abs();
            let error = largest(to_old.clone().min_pair(to_new.clone()));
            assert!(
                error < TOLERANCE,
                "{what}: {error} from the old and the new"
            );
            let kept: i64 = to_old.lower(to_new).int().sum().into_scalar();
            assert_share(what, kept as usize, 64 * 64, probability);

            let expected = old.inner() * probability + new.inner() * (1.0 - probability);
            let mixture_error = largest((mixed[part].clone() - expected).abs());
            println!("{what}: errors {error:e}, {mixture_error:e}");
            assert!(mixture_error < TOLERANCE, "{what}: {mixture_error}");
        }
    });
}

/// The hidden state and, if there is one, the cell state.
fn parts(state: impl CellState) -> Vec<Tensor<2>> {
    let (hidden, cell) = state.into_parts();
    std::iter::once(hidden).chain(cell).collect()
}

fn largest(x: Tensor<2>) -> f64 {
    x.max().into_scalar()
}
