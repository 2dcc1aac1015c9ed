//! Weights from modules of Burn and from Keras' arrays, and the two conventions of the update gate.

use burn::module::Param;
use burn::nn::activation::{ActivationConfig, HardSigmoidConfig};
use burn::nn::{self, gru};
use burn::tensor::{Device, Tensor, activation};
use seq_core::testing::backends;
use seq_core::testing::recurrent::convert::{assert_close, shake, uniform};
use seq_gru::{Activation, ConvertError, Gru, GruCell, GruConfig, SequenceLayer, UpdateGate};

fn gates(gru: &mut gru::Gru) -> [&mut nn::GateController; 3] {
    [&mut gru.reset_gate, &mut gru.update_gate, &mut gru.new_gate]
}

#[test]
fn burn_modules_are_taken_over() {
    for backend in backends() {
        let device = backend.device();
        let x = uniform([2, 5, 3], &device);
        let plain = gru::GruConfig::new(3, 4, true);
        let configs = [
            plain.clone(),
            gru::GruConfig::new(3, 4, false),
            plain.clone().with_reset_after(false),
            plain
                .with_clip(Some(0.1))
                .with_gate_activation(ActivationConfig::HardSigmoid(HardSigmoidConfig::new()))
                .with_hidden_activation(ActivationConfig::Softsign),
        ];
        for config in configs {
            let mut burn = config.init(&device);
            shake(gates(&mut burn));
            let gru = Gru::from_burn(burn.clone()).unwrap();
            let expected = burn.forward(x.clone(), None);
            assert_close(&gru.forward(x.clone(), None).0, &expected);
        }
        let mut burn = gru::BiGruConfig::new(3, 4, true).init(&device);
        shake(gates(&mut burn.forward));
        shake(gates(&mut burn.reverse));
        let gru = Gru::from_burn(burn.clone()).unwrap();
        let (expected, _) = burn.forward(x.clone(), None);
        assert_close(&gru.forward(x, None).0, &expected);
    }
}

#[test]
fn burn_modules_that_do_not_fit_are_refused() {
    let device = seq_gru::device();
    let config = gru::GruConfig::new(3, 4, true);
    let gelu = config
        .clone()
        .with_hidden_activation(ActivationConfig::Gelu);
    let error = Gru::from_burn(gelu.init(&device)).unwrap_err();
    let ConvertError::UnknownActivation { role, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*role, "hidden_activation");

    let mut odd = config.init(&device);
    odd.new_gate = gru::GruConfig::new(3, 5, true).init(&device).new_gate;
    assert_eq!(
        Gru::from_burn(odd).unwrap_err().to_string(),
        "`new_gate.input_transform.weight` has shape [3, 5], expected [3, 4]"
    );

    let mut odd = gru::BiGruConfig::new(3, 4, true).init(&device);
    odd.reverse = gru::GruConfig::new(3, 5, true).init(&device);
    let error = Gru::from_burn(odd).unwrap_err();
    assert!(matches!(error, ConvertError::WrongShape { .. }), "{error}");
}

/// The arrays of a Keras layer of width 4 that reads 3, with both biases.
struct Keras {
    kernel: Tensor<2>,
    recurrent_kernel: Tensor<2>,
    biases: [Tensor<1>; 2],
}

impl Keras {
    fn new(device: &Device) -> Self {
        Self {
            kernel: uniform([3, 12], device),
            recurrent_kernel: uniform([4, 12], device),
            biases: [uniform([12], device), uniform([12], device)],
        }
    }

    /// As in `keras.layers.GRUCell`, with its gates z, r and hh.
    fn step(&self, x: Tensor<2>, h: Tensor<2>, reset_after: bool) -> Tensor<2> {
        let [bias, recurrent_bias] = self.biases.clone().map(Tensor::unsqueeze::<2>);
        let part = |x: &Tensor<2>, gate: usize| x.clone().narrow(1, 4 * gate, 4);
        let inputs = x.matmul(self.kernel.clone()) + bias;
        let gate = |gate: usize| {
            let mut inner = h.clone().matmul(part(&self.recurrent_kernel, gate));
            if reset_after {
                inner = inner + part(&recurrent_bias, gate);
            }
            activation::sigmoid(part(&inputs, gate) + inner)
        };
        let (z, r) = (gate(0), gate(1));
        let kernel = part(&self.recurrent_kernel, 2);
        let recurrent = match reset_after {
            true => r * (h.clone().matmul(kernel) + part(&recurrent_bias, 2)),
            false => (r * h.clone()).matmul(kernel),
        };
        let hh = (part(&inputs, 2) + recurrent).tanh();
        z.clone() * h + (-z + 1.0) * hh
    }
}

#[test]
fn keras_arrays_are_put_into_order() {
    for backend in backends() {
        let device = backend.device();
        let keras = Keras::new(&device);
        let x = uniform([2, 5, 3], &device);
        for reset_after in [true, false] {
            let [bias, recurrent_bias] = keras.biases.clone();
            let mut cell = GruCell::from_keras(
                keras.kernel.clone(),
                keras.recurrent_kernel.clone(),
                Some(bias),
                reset_after.then_some(recurrent_bias),
            )
            .unwrap();
            cell.reset_after = reset_after;
            let mut h = Tensor::zeros([2, 4], &device);
            let (y, _) = Gru::from(cell).forward(x.clone(), None);
            for step in 0..5 {
                let x = x.clone().narrow(1, step, 1).squeeze_dim(1);
                h = keras.step(x, h, reset_after);
                assert_close(&y.clone().narrow(1, step, 1).squeeze_dim(1), &h);
            }
        }
    }
}

#[test]
fn keras_arrays_that_do_not_fit_are_refused() {
    let device = seq_gru::device();
    let vector = |size| Some(Tensor::<1>::zeros([size], &device));
    let matrix = |rows, columns| Tensor::<2>::zeros([rows, columns], &device);
    let without = GruCell::from_keras(matrix(3, 12), matrix(4, 12), None, None).unwrap();
    assert!(without.weights.bias_ih.is_none() && without.weights.bias_hh.is_none());
    for (name, kernel, recurrent_kernel, bias, recurrent_bias) in [
        ("kernel", matrix(3, 16), matrix(4, 12), None, None),
        ("kernel", matrix(0, 12), matrix(4, 12), None, None),
        ("recurrent_kernel", matrix(3, 12), matrix(4, 16), None, None),
        ("bias", matrix(3, 12), matrix(4, 12), vector(24), None),
        ("bias", matrix(3, 12), matrix(4, 12), vector(12), vector(16)),
    ] {
        let error =
            GruCell::from_keras(kernel, recurrent_kernel, bias, recurrent_bias).unwrap_err();
        let ConvertError::WrongShape { name: found, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(found, name);
    }
}

#[test]
fn both_conventions_of_the_update_gate_are_one_function() {
    for backend in backends() {
        let device = backend.device();
        let x = uniform([2, 5, 3], &device);
        let plain = GruConfig::new(3, 4);
        let configs = [
            plain.clone(),
            plain.clone().with_bias(false),
            plain.clone().with_reset_after(false).with_clip(Some(0.2)),
            plain.clone().with_gate_activation(Activation::HardSigmoid),
            plain.clone().with_layer_norm(true),
        ];
        for config in configs {
            let mut cell = config.init_cell(&device);
            if let Some(norm) = &mut cell.weights.norm {
                for norm in norm.input.iter_mut().chain(&mut norm.hidden) {
                    norm.gamma = Param::from_tensor(uniform(norm.gamma.dims(), &device));
                }
            }
            let gru = Gru::from(cell.clone());
            let turned = Gru::from(cell.into_update_gate(UpdateGate::Write).unwrap());
            assert_eq!(turned.cells[0].update_gate, UpdateGate::Write);
            assert_ne!(turned.state_dict(), gru.state_dict());
            assert_close(
                &turned.forward(x.clone(), None).0,
                &gru.forward(x.clone(), None).0,
            );
            let cell = turned.cells[0].clone();
            let again = Gru::from(cell.into_update_gate(UpdateGate::Keep).unwrap());
            assert_eq!(again.state_dict(), gru.state_dict());
        }
    }
    let cell = GruConfig::new(3, 4)
        .with_gate_activation(Activation::Tanh)
        .init_cell(&seq_gru::device());
    let error = cell.into_update_gate(UpdateGate::Write).unwrap_err();
    assert!(matches!(error, ConvertError::Asymmetric { .. }), "{error}");
}
