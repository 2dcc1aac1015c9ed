//! Fresh layers, and configurations that make none.

use burn::tensor::{Device, Tensor};
use seq_lstm::{LstmConfig, RecurrentConfig, RecurrentDropout, SequenceLayer, Zoneout};

fn config() -> LstmConfig {
    LstmConfig::new(3, 4)
}

#[test]
fn impossible_options_are_named() {
    let dropout = RecurrentDropout::new().with_cell(-0.5);
    let cases = [
        (LstmConfig::new(0, 4), "d_input must be at least 1, is 0"),
        (
            config().with_d_projection(Some(0)),
            "d_projection must be at least 1, is 0",
        ),
        (
            config().with_dropout(1.0),
            "dropout must be in [0, 1), is 1",
        ),
        (config().with_clip(Some(0.0)), "clip must be positive, is 0"),
        (
            config().with_cell_clip(Some(f64::NAN)),
            "cell_clip must be positive, is NaN",
        ),
        (
            config().with_recurrent_dropout(dropout),
            "recurrent_dropout.cell must be in [0, 1), is -0.5",
        ),
        (
            config().with_zoneout(Zoneout::new().with_hidden(1.5)),
            "zoneout.hidden must be in [0, 1), is 1.5",
        ),
    ];
    for (config, message) in cases {
        assert_eq!(config.validate().unwrap_err().to_string(), message);
    }
    let both = config().with_bidirectional(true).with_reverse(true);
    assert_eq!(both.validate().unwrap_err().option, "reverse");
    assert_eq!(config().validate(), Ok(()));
}

/// With and without autodiff, where a parameter has to be a leaf.
fn devices() -> [Device; 2] {
    [seq_lstm::device(), seq_lstm::device().autodiff()]
}

#[test]
fn the_forget_bias_is_set_and_trained() {
    for device in devices() {
        let lstm = config().with_forget_bias(Some(1.5)).init(&device);
        let cell = &lstm.cells[0];
        let forget = |bias: &Option<burn::module::Param<Tensor<1>>>| {
            let bias = bias.as_ref().unwrap().val().narrow(0, 4, 4);
            bias.into_data().try_to_vec::<f32>().unwrap()
        };
        assert_eq!(forget(&cell.weights.bias_ih), [1.5; 4]);
        assert_eq!(forget(&cell.weights.bias_hh), [0.0; 4]);
        if device.is_autodiff() {
            let (y, _) = lstm.forward(Tensor::ones([1, 2, 3], &device), None);
            let gradients = y.sum().backward();
            for bias in [&cell.weights.bias_ih, &cell.weights.bias_hh] {
                assert!(bias.as_ref().unwrap().val().grad(&gradients).is_some());
            }
        }
    }
}
