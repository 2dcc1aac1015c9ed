//! The RNN against what PyTorch answers.

use burn::nn::activation::ActivationConfig;
use seq_core::testing::Golden;
use seq_rnn::RnnConfig;
use serde_json::{Map, Value};

fn begin(d_input: usize, d_hidden: usize, options: &mut Map<String, Value>) -> RnnConfig {
    let activation = match options.remove("nonlinearity") {
        Some(name) if name == "tanh" => ActivationConfig::Tanh,
        Some(name) if name == "relu" => ActivationConfig::Relu,
        other => panic!("the nonlinearity is {other:?}"),
    };
    RnnConfig::new(d_input, d_hidden).with_activation(activation)
}

#[test]
fn golden_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    Golden::new(folder).recurrent("rnn", begin).check();
}
