//! What is random while training, and only then; and states that are trained.

use burn::tensor::Tensor;
use seq_core::testing::recurrent::training::{self, on_cpus};
use seq_gru::{GruConfig, RecurrentInit, SequenceLayer};

#[test]
fn zoneout_keeps_at_random_and_then_mixes() {
    training::zoneout_keeps_at_random_and_then_mixes(0.3, |device| {
        let with = GruConfig::new(8, 64).with_zoneout(0.3).init_cell(device);
        let mut without = with.clone();
        without.zoneout = 0.0;
        [with, without]
    });
}

#[test]
fn recurrent_dropout_is_for_training_alone() {
    let plain = GruConfig::new(8, 16);
    for reset_after in [true, false] {
        let plain = plain.clone().with_reset_after(reset_after);
        let with = plain.clone().with_recurrent_dropout(0.5);
        training::recurrent_dropout_is_for_training_alone(&with, &plain);
    }
}

#[test]
fn dropout_is_between_layers() {
    training::dropout_is_between_layers(|num_layers| {
        GruConfig::new(8, 16)
            .with_num_layers(num_layers)
            .with_dropout(0.5)
    });
}

#[test]
fn orthogonal_gates_are_orthogonal_and_trained() {
    let config = GruConfig::new(3, 4).with_recurrent_init(RecurrentInit::Orthogonal);
    training::orthogonal_gates_are_orthogonal_and_trained(&config);
}

#[test]
fn a_trained_state_begins_at_zeros_and_is_trained() {
    on_cpus(|device| {
        let gru = GruConfig::new(3, 4).with_trained_state(true).init(device);
        let initial = gru.cells[0].initial_hidden.as_ref().unwrap().val();
        let values = initial.to_data();
        assert_eq!(values.as_slice::<f32>().unwrap(), [0.0; 4]);
        let (y, _) = gru.forward(Tensor::ones([2, 5, 3], device), None);
        let gradient = initial.grad(&y.sum().backward()).unwrap();
        assert!(gradient.not_equal_elem(0.0).all().into_scalar::<bool>());
    });
}
