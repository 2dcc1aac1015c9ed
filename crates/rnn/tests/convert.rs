//! Weights from modules of Burn.

use burn::nn;
use burn::nn::activation::ActivationConfig;
use seq_core::testing::backends;
use seq_core::testing::recurrent::convert::{assert_close, shake, uniform};
use seq_rnn::{ConvertError, Rnn, SequenceLayer};

#[test]
fn burn_modules_are_taken_over() {
    for backend in backends() {
        let device = backend.device();
        let x = uniform([2, 5, 3], &device);
        let plain = nn::RnnConfig::new(3, 4, true);
        let configs = [
            plain.clone(),
            nn::RnnConfig::new(3, 4, false),
            plain.clone().with_reverse(true),
            plain
                .clone()
                .with_clip(Some(0.1))
                .with_hidden_activation(ActivationConfig::Relu),
            plain.with_hidden_activation(ActivationConfig::Gelu),
        ];
        for config in configs {
            let mut burn = config.init(&device);
            shake([&mut burn.gate]);
            let rnn = Rnn::from_burn(burn.clone()).unwrap();
            let (expected, last) = burn.forward(x.clone(), None);
            let (y, state) = rnn.forward(x.clone(), None);
            assert_close(&y, &expected);
            assert_close(&state.cells[0].hidden, &last.hidden);
        }
        let mut burn = nn::BiRnnConfig::new(3, 4, true).init(&device);
        shake([&mut burn.forward.gate, &mut burn.reverse.gate]);
        let rnn = Rnn::from_burn(burn.clone()).unwrap();
        let (expected, _) = burn.forward(x.clone(), None);
        assert_close(&rnn.forward(x, None).0, &expected);
    }
}

#[test]
fn burn_modules_that_do_not_fit_are_refused() {
    let device = seq_rnn::device();
    let mut odd = nn::BiRnnConfig::new(3, 4, true).init(&device);
    odd.reverse = nn::RnnConfig::new(3, 5, true).init(&device);
    let error = Rnn::from_burn(odd).unwrap_err();
    assert!(matches!(error, ConvertError::WrongShape { .. }), "{error}");

    let mut odd = nn::RnnConfig::new(3, 4, true).init(&device);
    odd.gate.hidden_transform = nn::LinearConfig::new(4, 5).init(&device);
    assert_eq!(
        Rnn::from_burn(odd).unwrap_err().to_string(),
        "`gate.hidden_transform.weight` has shape [4, 5], expected [4, 4]"
    );
}

/// Activations with weights would be lost when the layer is saved for PyTorch.
#[test]
fn activations_with_weights_are_refused() {
    let device = seq_rnn::device();
    for activation in [
        ActivationConfig::PRelu(nn::PReluConfig::new()),
        ActivationConfig::SwiGlu(nn::SwiGluConfig::new(4, 4)),
    ] {
        let config = nn::RnnConfig::new(3, 4, true).with_hidden_activation(activation);
        let error = Rnn::from_burn(config.init(&device)).unwrap_err();
        assert!(
            matches!(error, ConvertError::WeightedActivation { .. }),
            "{error}"
        );
    }
}
