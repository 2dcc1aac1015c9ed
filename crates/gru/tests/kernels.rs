//! What only the fused kernels do.

use seq_core::testing::recurrent::kernels;
use seq_gru::{Activation, GruConfig, UpdateGate};

/// With the reset gate behind the recurrent product, and before it.
fn both(d_input: usize, d_hidden: usize) -> [GruConfig; 2] {
    let after = GruConfig::new(d_input, d_hidden);
    [after.clone(), after.with_reset_after(false)]
}

#[test]
fn most_options_are_fused() {
    let plain = GruConfig::new(3, 4);
    let with = [
        plain.clone(),
        plain.clone().with_bias(false),
        plain
            .clone()
            .with_update_gate(UpdateGate::Write)
            .with_trained_state(true)
            .with_clip(Some(0.5))
            .with_hidden_clip(Some(0.5))
            .with_gate_activation(Activation::HardSigmoid)
            .with_hidden_activation(Activation::Softsign),
    ];
    let before = with.clone().map(|config| config.with_reset_after(false));
    let with = with.into_iter().chain(before);
    kernels::fused_are(with, [plain.with_zoneout(0.1)]);
}

#[test]
fn a_long_single_sequence_is_the_reference() {
    for reset_after in [true, false] {
        kernels::a_long_single_sequence_is_the_reference(|d_input, d_hidden, bias| {
            GruConfig::new(d_input, d_hidden)
                .with_bias(bias)
                .with_reset_after(reset_after)
        });
    }
}

seq_core::kernel_tests!(both);
