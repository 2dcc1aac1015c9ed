//! What is random while training, and only then.

use burn::module::Module;
use burn::tensor::{Distribution, Tensor};
use seq_core::testing::recurrent::training::{self, assert_share, on_cpus};
use seq_lstm::{Lstm, LstmConfig, RecurrentDropout, SequenceLayer, Zoneout};

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

#[test]
fn zoneout_keeps_at_random_and_then_mixes() {
    training::zoneout_keeps_at_random_and_then_mixes(0.3, |device| {
        let zoneout = Zoneout::new().with_hidden(0.3).with_cell(0.3);
        let with = LstmConfig::new(8, 64)
            .with_zoneout(zoneout)
            .init_cell(device);
        let mut without = with.clone();
        without.zoneout = Zoneout::new();
        [with, without]
    });
}

#[test]
fn orthogonal_gates_are_orthogonal_and_trained() {
    let config = LstmConfig::new(3, 4).with_orthogonal(true);
    training::orthogonal_gates_are_orthogonal_and_trained(&config);
}

#[test]
fn recurrent_dropout_is_for_training_alone() {
    let plain = LstmConfig::new(8, 16);
    let dropout = RecurrentDropout::new()
        .with_gates(0.5)
        .with_hidden(0.5)
        .with_cell(0.5);
    let with = plain.clone().with_recurrent_dropout(dropout);
    training::recurrent_dropout_is_for_training_alone(&with, &plain);
}

#[test]
fn dropout_is_between_layers() {
    training::dropout_is_between_layers(|num_layers| {
        LstmConfig::new(8, 16)
            .with_num_layers(num_layers)
            .with_dropout(0.5)
    });
}
