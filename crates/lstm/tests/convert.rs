//! Weights from modules of Burn and from Keras' arrays.

use burn::module::Param;
use burn::nn;
use burn::nn::activation::ActivationConfig;
use burn::tensor::Tensor;
use seq_core::testing::backends;
use seq_core::testing::recurrent::convert::{assert_close, shake, uniform};
use seq_lstm::{ConvertError, Lstm, LstmCell, LstmConfig, SequenceLayer};

#[test]
fn burn_modules_are_taken_over() {
    for backend in backends() {
        let device = backend.device();
        let x = uniform([2, 5, 3], &device);
        let plain = nn::LstmConfig::new(3, 4, true);
        let configs = [
            plain.clone(),
            nn::LstmConfig::new(3, 4, false),
            plain.clone().with_reverse(true),
            plain
                .with_clip(Some(0.1))
                .with_gate_activation(ActivationConfig::HardSigmoid(nn::HardSigmoidConfig::new()))
                .with_cell_activation(ActivationConfig::Softsign)
                .with_hidden_activation(ActivationConfig::Relu),
        ];
        for config in configs {
            let mut burn = config.init(&device);
            shake(gates(&mut burn));
            let lstm = Lstm::from_burn(burn.clone()).unwrap();
            let (expected, last) = burn.forward(x.clone(), None);
            let (y, state) = lstm.forward(x.clone(), None);
            assert_close(&y, &expected);
            assert_close(&state.cells[0].cell, &last.cell);
        }
        let mut burn = nn::BiLstmConfig::new(3, 4, true).init(&device);
        shake(gates(&mut burn.forward));
        shake(gates(&mut burn.reverse));
        let lstm = Lstm::from_burn(burn.clone()).unwrap();
        assert_close(&lstm.forward(x.clone(), None).0, &burn.forward(x, None).0);
    }
}

fn gates(lstm: &mut nn::Lstm) -> [&mut nn::GateController; 4] {
    [
        &mut lstm.input_gate,
        lstm.forget_gate.as_mut().unwrap(),
        &mut lstm.cell_gate,
        &mut lstm.output_gate,
    ]
}

#[test]
fn burn_modules_that_do_not_fit_are_refused() {
    let device = seq_lstm::device();
    let config = nn::LstmConfig::new(3, 4, true);
    let refused = |lstm: nn::Lstm| Lstm::from_burn(lstm).unwrap_err();

    let error = refused(config.clone().with_input_forget(true).init(&device));
    assert!(matches!(error, ConvertError::CoupledGates), "{error}");

    let steep = nn::HardSigmoidConfig::new().with_alpha(0.3);
    for activation in [ActivationConfig::Gelu, ActivationConfig::HardSigmoid(steep)] {
        let error = refused(
            config
                .clone()
                .with_cell_activation(activation)
                .init(&device),
        );
        let ConvertError::UnknownActivation { role, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(*role, "cell_activation");
    }

    let mut odd = config.init(&device);
    odd.output_gate = nn::LstmConfig::new(3, 5, true).init(&device).output_gate;
    let error = refused(odd).to_string();
    assert_eq!(
        error,
        "`output_gate.input_transform.weight` has shape [3, 5], expected [3, 4]"
    );

    let mut odd = nn::BiLstmConfig::new(3, 4, true).init(&device);
    odd.reverse = nn::LstmConfig::new(3, 5, true).init(&device);
    let error = Lstm::from_burn(odd).unwrap_err();
    assert!(matches!(error, ConvertError::WrongShape { .. }), "{error}");
}

#[test]
fn keras_kernels_are_transposed_pytorch_weights() {
    let device = seq_lstm::device();
    let lstm = LstmConfig::new(3, 4).init(&device);
    let cell = &lstm.cells[0];
    let bias = |bias: &Option<Param<Tensor<1>>>| bias.as_ref().unwrap().val();
    let (kernel, recurrent) = (
        cell.weights.weight_ih.val().transpose(),
        cell.weights.weight_hh.val().transpose(),
    );
    let keras = LstmCell::from_keras(
        kernel.clone(),
        recurrent.clone(),
        Some(bias(&cell.weights.bias_ih) + bias(&cell.weights.bias_hh)),
    );
    let x = uniform([2, 5, 3], &device);
    let (y, _) = Lstm::from(keras.unwrap()).forward(x.clone(), None);
    assert_close(&y, &lstm.forward(x, None).0);

    let without = LstmCell::from_keras(kernel.clone(), recurrent.clone(), None).unwrap();
    assert!(without.weights.bias_ih.is_none() && without.weights.bias_hh.is_none());

    let vector = |size| Some(Tensor::<1>::zeros([size], &device));
    let matrix = |rows, columns| Tensor::<2>::zeros([rows, columns], &device);
    for (name, kernel, recurrent_kernel, bias) in [
        ("kernel", matrix(3, 12), recurrent.clone(), None),
        ("kernel", matrix(0, 16), recurrent.clone(), None),
        ("recurrent_kernel", matrix(3, 16), matrix(4, 12), None),
        ("bias", kernel, recurrent, vector(32)),
    ] {
        let error = LstmCell::from_keras(kernel, recurrent_kernel, bias).unwrap_err();
        let ConvertError::WrongShape { name: found, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(found, name);
    }
}
