//! What is random while training, and only then.

use std::sync::{Mutex, PoisonError};

use burn::module::Module;
use burn::tensor::{Device, Distribution, Tensor};
use seq_core::BackendName;
use seq_lstm::{
    Lstm, LstmCell, LstmCellState, LstmConfig, RecurrentCell, RecurrentDropout, SequenceLayer,
    Zoneout,
};

/// Runs a test on each CPU backend, on a device to train on, always with the same random numbers.
fn on_cpus(test: impl Fn(&Device)) {
    // All threads draw from one source.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    for backend in BackendName::compiled() {
        if ["ndarray", "flex"].contains(&backend.name()) {
            println!("{backend}");
            let device = backend.device();
            device.seed(1);
            test(&device.autodiff());
        }
    }
}

/// Four standard deviations of the binomial distribution are allowed.
fn assert_share(what: &str, count: usize, of: usize, probability: f64) {
    let share = count as f64 / of as f64;
    let deviation = (probability * (1.0 - probability) / of as f64).sqrt();
    assert!(
        (share - probability).abs() < 4.0 * deviation,
        "{what}: {share} instead of {probability} with a standard deviation of {deviation}"
    );
}

fn largest(x: Tensor<2>) -> f64 {
    x.max().into_scalar()
}

#[test]
fn a_candidate_is_dropped_for_a_whole_call() {
    const TIME: i64 = 10;
    on_cpus(|device| {
        let dropout = RecurrentDropout::new().with_gates(0.5);
        let config = LstmConfig::new(8, 32).with_recurrent_dropout(dropout);
        let lstm = config.init(device);
        let x = Tensor::<3>::random([64, TIME as usize, 8], Distribution::Default, device);
        // Of every unit of every sequence, at how many steps its output is zero.
        let zeros = |lstm: &Lstm, x: &Tensor<3>| -> Vec<i64> {
            let (y, _) = lstm.forward(x.clone(), None);
            let zeros = y.equal_elem(0.0).int().sum_dim(1);
            zeros.into_data().iter::<i64>().collect()
        };

        let first = zeros(&lstm, &x);
        assert_eq!(first.len(), 64 * 32);
        assert!(first.iter().all(|steps| [0, TIME].contains(steps)));
        let dropped = first.iter().filter(|&&steps| steps == TIME).count();
        assert_share("dropped", dropped, first.len(), 0.5);
        assert_ne!(first, zeros(&lstm, &x), "two calls had the same mask");

        let trained = zeros(&lstm.valid(), &x.inner());
        assert!(trained.iter().all(|&steps| steps == 0));
    });
}

/// The hidden and the cell state after a step with the input, hidden and cell state given.
fn step(cell: &LstmCell, [x, hidden, memory]: [Tensor<2>; 3]) -> [Tensor<2>; 2] {
    let cell_state = LstmCellState {
        hidden,
        cell: memory,
    };
    let (_, state) = cell.step(x, cell_state);
    [state.hidden, state.cell]
}

#[test]
fn zoneout_keeps_at_random_and_then_mixes() {
    // Measured: up to 4.8e-7.
    const TOLERANCE: f64 = 2e-6;
    on_cpus(|device| {
        let zoneout = Zoneout::new().with_hidden(0.3).with_cell(0.3);
        let cell = LstmConfig::new(8, 64)
            .with_zoneout(zoneout)
            .init_cell(device);
        let mut without = cell.clone();
        without.zoneout = Zoneout::new();
        let given = [8, 64, 64]
            .map(|width| Tensor::<2>::random([64, width], Distribution::Normal(0.0, 1.0), device));

        let after = step(&cell, given.clone());
        let fresh = step(&without, given.clone());
        let mixed = step(&cell.valid(), given.clone().map(Tensor::inner));
        let [_, hidden, memory] = given;
        let states = [hidden, memory].into_iter().zip(fresh);
        for (((old, new), after), (mixed, what)) in states
            .zip(after)
            .zip(mixed.into_iter().zip(["hidden", "cell"]))
        {
            let to_old = (after.clone() - old.clone()).abs();
            let to_new = (after - new.clone()).abs();
            let error = largest(to_old.clone().min_pair(to_new.clone()));
            assert!(
                error < TOLERANCE,
                "{what}: {error} from the old and the new"
            );
            let kept: i64 = to_old.lower(to_new).int().sum().into_scalar();
            assert_share(what, kept as usize, 64 * 64, 0.3);

            let expected = old.inner() * 0.3 + new.inner() * 0.7;
            let mixture_error = largest((mixed - expected).abs());
            println!("{what}: errors {error:e}, {mixture_error:e}");
            assert!(mixture_error < TOLERANCE, "{what}: {mixture_error}");
        }
    });
}

#[test]
fn dropout_is_between_layers() {
    on_cpus(|device| {
        let differs = |lstm: &Lstm, x: &Tensor<3>| {
            let y = || lstm.forward(x.clone(), None).0.into_data();
            y() != y()
        };
        let x = Tensor::<3>::random([4, 10, 8], Distribution::Default, device);
        for num_layers in [1, 2] {
            let config = LstmConfig::new(8, 16).with_num_layers(num_layers);
            let lstm = config.with_dropout(0.5).init(device);
            assert_eq!(differs(&lstm, &x), num_layers == 2, "{num_layers} layers");
            assert!(!differs(&lstm.valid(), &x.clone().inner()));
        }
    });
}
