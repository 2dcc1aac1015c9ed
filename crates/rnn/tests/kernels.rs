//! What only the fused kernels do.

use burn::nn::LeakyReluConfig;
use burn::nn::activation::{ActivationConfig, HardSigmoidConfig};
use seq_core::testing::recurrent::kernels;
use seq_rnn::RnnConfig;

/// With a recurrent matrix, and with elementwise recurrent weights.
fn both(d_input: usize, d_hidden: usize) -> [RnnConfig; 2] {
    let plain = RnnConfig::new(d_input, d_hidden);
    [plain.clone(), plain.with_independent(true)]
}

#[test]
fn most_options_are_fused() {
    let activations = [
        ActivationConfig::Tanh,
        ActivationConfig::Relu,
        ActivationConfig::Sigmoid,
        ActivationConfig::Softsign,
        ActivationConfig::Identity,
        ActivationConfig::HardSigmoid(HardSigmoidConfig::new()),
    ];
    let with = both(3, 4).into_iter().flat_map(|config| {
        let config = config.with_hidden_clip(Some(0.5)).with_d_output(Some(2));
        let bare = config.clone().with_bias(false);
        let activated = activations
            .clone()
            .map(|one| config.clone().with_activation(one));
        activated.into_iter().chain([bare])
    });
    let steep = HardSigmoidConfig::new().with_alpha(0.3);
    let without = [
        ActivationConfig::LeakyRelu(LeakyReluConfig::new()),
        ActivationConfig::HardSigmoid(steep),
    ];
    let plain = RnnConfig::new(3, 4);
    kernels::fused_are(with, without.map(|one| plain.clone().with_activation(one)));
}

#[test]
fn a_long_single_sequence_is_the_reference() {
    kernels::a_long_single_sequence_is_the_reference(|d_input, d_hidden, bias| {
        RnnConfig::new(d_input, d_hidden).with_bias(bias)
    });
    kernels::a_long_single_sequence_is_the_reference(|d_input, d_hidden, bias| {
        RnnConfig::new(d_input, d_hidden)
            .with_bias(bias)
            .with_independent(true)
    });
}

seq_core::kernel_tests!(both);
