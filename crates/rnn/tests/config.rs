//! Configurations that make no layer.

use burn::nn::PReluConfig;
use burn::nn::activation::ActivationConfig;
use seq_rnn::{RecurrentConfig, RecurrentInit, RnnConfig};

#[test]
fn impossible_options_are_named() {
    let config = || RnnConfig::new(3, 4);
    let cases = [
        (RnnConfig::new(0, 4), "d_input must be at least 1, is 0"),
        (RnnConfig::new(3, 0), "d_hidden must be at least 1, is 0"),
        (
            config().with_num_layers(0),
            "num_layers must be at least 1, is 0",
        ),
        (
            config().with_d_output(Some(0)),
            "d_output must be at least 1, is 0",
        ),
        (
            config().with_dropout(1.0),
            "dropout must be in [0, 1), is 1",
        ),
        (
            config().with_recurrent_dropout(-0.5),
            "recurrent_dropout must be in [0, 1), is -0.5",
        ),
        (
            config().with_hidden_clip(Some(f64::NAN)),
            "hidden_clip must be positive, is NaN",
        ),
        (
            config()
                .with_independent(true)
                .with_recurrent_init(RecurrentInit::Orthogonal),
            "recurrent_init must be LikeInput or Identity for independent units, is Orthogonal",
        ),
    ];
    for (config, message) in cases {
        assert_eq!(config.validate().unwrap_err().to_string(), message);
    }
    for (config, option) in [
        (
            config().with_bidirectional(true).with_reverse(true),
            "reverse",
        ),
        (
            config().with_activation(ActivationConfig::PRelu(PReluConfig::new())),
            "activation",
        ),
    ] {
        assert_eq!(config.validate().unwrap_err().option, option);
    }
    assert_eq!(config().validate(), Ok(()));
}
