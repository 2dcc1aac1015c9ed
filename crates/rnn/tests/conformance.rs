//! The laws of a sequence layer, for every option of the RNN.

use burn::nn::LeakyReluConfig;
use burn::nn::activation::{ActivationConfig, HardSigmoidConfig};
use seq_rnn::RnnConfig;

/// Everything at once, but for what changes the direction or keeps the layer from the kernel.
fn fused_options(config: RnnConfig) -> RnnConfig {
    let d_output = Some(config.d_hidden.div_ceil(2));
    config
        .with_num_layers(2)
        .with_activation(ActivationConfig::Softsign)
        .with_d_output(d_output)
        .with_independent(true)
        .with_hidden_clip(Some(0.4))
}

fn all_options(config: RnnConfig) -> RnnConfig {
    fused_options(config)
        .with_activation(ActivationConfig::LeakyRelu(LeakyReluConfig::new()))
        .with_layer_norm(true)
}

// What changes only the mathematics of a unit has to obey the one law that is about that.
seq_core::conformance_tests! { RnnConfig:
    plain: check |config| config;
    without_bias: kernels |config| config.with_bias(false);
    relu: kernels |config| config.with_activation(ActivationConfig::Relu);
    sigmoid: kernels |config| config.with_activation(ActivationConfig::Sigmoid);
    hard_sigmoid: kernels |config| config
        .with_activation(ActivationConfig::HardSigmoid(HardSigmoidConfig::new()));
    softsign: kernels |config| config.with_activation(ActivationConfig::Softsign);
    identity: kernels |config| config.with_activation(ActivationConfig::Identity);
    activation_without_a_kernel: check |config| config
        .with_activation(ActivationConfig::LeakyRelu(LeakyReluConfig::new()));
    output_map: check |config| config.with_num_layers(2).with_d_output(Some(2));
    independent: check |config| config.with_independent(true);
    independent_relu: kernels |config| config
        .with_independent(true)
        .with_bias(false)
        .with_activation(ActivationConfig::Relu);
    layer_norm: check |config| config.with_layer_norm(true);
    hidden_clip: kernels |config| config.with_hidden_clip(Some(0.1));
    all_fused_options_at_once: check fused_options;
    all_options_at_once: check all_options;

    reverse: check_whole |config| config.with_reverse(true).with_num_layers(2);
    bidirectional: check_whole |config| config.with_bidirectional(true).with_num_layers(2);
    bidirectional_with_all_options: check_whole |config| all_options(config).with_bidirectional(true);
}
