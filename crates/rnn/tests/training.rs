//! What is random while training, and only then; and how weights begin.

use burn::module::Param;
use burn::nn::activation::ActivationConfig;
use burn::tensor::Tensor;
use seq_core::testing::recurrent::training::{self, assert_share, on_cpus};
use seq_rnn::{RecurrentCell, RecurrentInit, RnnCellState, RnnConfig};

#[test]
fn recurrent_dropout_is_for_training_alone() {
    let plain = RnnConfig::new(8, 16);
    for independent in [true, false] {
        let plain = plain.clone().with_independent(independent);
        let with = plain.clone().with_recurrent_dropout(0.5);
        training::recurrent_dropout_is_for_training_alone(&with, &plain);
    }
}

#[test]
fn a_hidden_unit_is_dropped_for_a_whole_call() {
    const TIME: usize = 10;
    on_cpus(|device| {
        // Each unit keeps its value, but for dropout, which doubles it or makes it zero.
        let mut cell = RnnConfig::new(1, 32)
            .with_bias(false)
            .with_activation(ActivationConfig::Identity)
            .with_recurrent_init(RecurrentInit::Identity)
            .with_recurrent_dropout(0.5)
            .init_cell(device);
        cell.weights.weight_ih = Param::from_tensor(Tensor::zeros([32, 1], device));
        let hidden = Tensor::ones([64, 32], device);
        let x = Tensor::zeros([64, TIME, 1], device);
        let (_, last) = cell.sequence(x, None, false, RnnCellState { hidden });
        let values: Vec<f32> = last.hidden.into_data().iter().collect();
        let doubled = values.iter().filter(|&&value| value == 1024.0).count();
        let dropped = values.iter().filter(|&&value| value == 0.0).count();
        assert_eq!(doubled + dropped, 64 * 32);
        assert_share("dropped", dropped, 64 * 32, 0.5);
    });
}

#[test]
fn dropout_is_between_layers() {
    training::dropout_is_between_layers(|num_layers| {
        RnnConfig::new(8, 16)
            .with_num_layers(num_layers)
            .with_dropout(0.5)
    });
}

#[test]
fn orthogonal_gates_are_orthogonal_and_trained() {
    let config = RnnConfig::new(3, 4).with_recurrent_init(RecurrentInit::Orthogonal);
    training::orthogonal_gates_are_orthogonal_and_trained(&config);
}

#[test]
fn recurrent_weights_begin_as_the_identity() {
    on_cpus(|device| {
        let config = RnnConfig::new(3, 4).with_recurrent_init(RecurrentInit::Identity);
        let matrix = config.init_cell(device).weights.weight_hh.val();
        matrix
            .into_data()
            .assert_eq(&Tensor::<2>::eye(4, device).into_data(), true);
        let independent = config.with_independent(true).init_cell(device);
        let row = independent.weights.weight_hh.val();
        row.into_data()
            .assert_eq(&Tensor::<2>::ones([1, 4], device).into_data(), true);
    });
}
