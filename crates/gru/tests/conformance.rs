//! The laws of a sequence layer, for every option of the GRU.

use seq_gru::{Activation, GruConfig, UpdateGate};

/// Everything at once, but for what changes the direction or keeps the layer from the kernel.
fn fused_options(config: GruConfig) -> GruConfig {
    config
        .with_num_layers(2)
        .with_update_gate(UpdateGate::Write)
        .with_clip(Some(0.7))
        .with_hidden_clip(Some(0.4))
        .with_trained_state(true)
}

fn fused_options_with_reset_before(config: GruConfig) -> GruConfig {
    fused_options(config).with_reset_after(false)
}

fn all_options(config: GruConfig) -> GruConfig {
    fused_options_with_reset_before(config)
        .with_layer_norm(true)
        .with_zoneout(0.2)
}

// What changes only the mathematics of a unit has to obey the one law that is about that.
seq_core::conformance_tests! { GruConfig:
    plain: check |config| config;
    without_bias: kernels |config| config.with_bias(false);
    reset_before: check |config| config.with_reset_after(false);
    update_gate: kernels |config| config.with_update_gate(UpdateGate::Write);
    layer_norm: check |config| config.with_layer_norm(true);
    clip: kernels |config| config.with_clip(Some(0.2));
    hidden_clip: kernels |config| config.with_hidden_clip(Some(0.1));
    zoneout: check |config| config.with_zoneout(0.3);
    trained_state: check |config| config.with_trained_state(true);
    smooth_activations: kernels |config| config
        .with_gate_activation(Activation::Tanh)
        .with_hidden_activation(Activation::Softsign);
    kinked_activations: kernels |config| config
        .with_gate_activation(Activation::HardSigmoid)
        .with_hidden_activation(Activation::Relu);
    all_fused_options_at_once: check fused_options;
    all_fused_options_with_reset_before: kernels fused_options_with_reset_before;
    all_options_at_once: check all_options;

    reverse: check_whole |config| config.with_reverse(true).with_num_layers(2);
    bidirectional: check_whole |config| config.with_bidirectional(true).with_num_layers(2);
    bidirectional_with_all_options: check_whole |config| all_options(config).with_bidirectional(true);
}
