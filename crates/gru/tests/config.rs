//! Configurations that make no layer.

use seq_gru::{GruConfig, RecurrentConfig};

#[test]
fn impossible_options_are_named() {
    let config = || GruConfig::new(3, 4);
    let cases = [
        (GruConfig::new(0, 4), "d_input must be at least 1, is 0"),
        (GruConfig::new(3, 0), "d_hidden must be at least 1, is 0"),
        (
            config().with_num_layers(0),
            "num_layers must be at least 1, is 0",
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
            config().with_zoneout(1.5),
            "zoneout must be in [0, 1), is 1.5",
        ),
        (config().with_clip(Some(0.0)), "clip must be positive, is 0"),
        (
            config().with_hidden_clip(Some(f64::NAN)),
            "hidden_clip must be positive, is NaN",
        ),
    ];
    for (config, message) in cases {
        assert_eq!(config.validate().unwrap_err().to_string(), message);
    }
    let both = config().with_bidirectional(true).with_reverse(true);
    assert_eq!(both.validate().unwrap_err().option, "reverse");
    assert_eq!(config().validate(), Ok(()));
}
