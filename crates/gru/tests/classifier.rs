//! The shared classifier over a GRU.

use burn::module::Module;
use burn::tensor::{Distribution, Tensor};
use seq_core::models::Classifier;
use seq_core::testing::backends;
use seq_gru::{GruConfig, Lengths, SequenceLayer};

/// The largest measured is 7.5e-9.
const TOLERANCE: f32 = 1e-6;

#[test]
fn each_of_a_padded_batch_gets_the_head_of_its_own_mean() {
    for backend in backends() {
        let device = backend.device();
        let gru = GruConfig::new(3, 4).with_bidirectional(true).init(&device);
        let model = Classifier::new(5, gru, &device);
        let lengths = [6, 1, 4];
        let x = Tensor::<3>::random([3, 6, 3], Distribution::Normal(0.0, 1.0), &device);
        let logits = model.forward(x.clone(), &Lengths::new(lengths));
        assert_eq!(logits.dims(), [3, model.num_classes()]);
        for (row, length) in lengths.into_iter().enumerate() {
            let alone = x.clone().narrow(0, row, 1).narrow(1, 0, length);
            let (y, _) = model.layer.forward(alone, None);
            let expected = model.head.forward(y.mean_dim(1).squeeze_dim::<2>(1));
            let error = (logits.clone().narrow(0, row, 1) - expected).abs().max();
            let error = error.into_scalar::<f32>();
            println!("{backend}, row {row}: an error of {error:e}");
            assert!(
                error < TOLERANCE,
                "{backend}, row {row}: an error of {error:e}"
            );
        }
    }
}

#[test]
fn a_sequence_without_steps_gets_the_bias_of_the_head() {
    let device = seq_gru::device();
    let model = Classifier::new(5, GruConfig::new(3, 4).init(&device), &device);
    let x = Tensor::<3>::full([2, 6, 3], f32::NAN, &device);
    let logits = model.forward(x, &Lengths::new([0, 0]));
    let bias = model.head.bias.as_ref().unwrap().val();
    let error = (logits - bias.unsqueeze()).abs().max().into_scalar::<f32>();
    assert_eq!(error, 0.0);
}

#[test]
fn dropout_is_for_training() {
    let device = seq_gru::device().autodiff();
    let model = Classifier::new(5, GruConfig::new(3, 16).init(&device), &device).with_dropout(0.5);
    let x = Tensor::<3>::random([4, 6, 3], Distribution::Default, &device);
    let lengths = Lengths::new([6; 4]);
    let logits = || model.forward(x.clone(), &lengths).into_data();
    assert_ne!(logits(), logits());
    let valid = model.valid();
    let logits = || valid.forward(x.clone().inner(), &lengths).into_data();
    assert_eq!(logits(), logits());
}
