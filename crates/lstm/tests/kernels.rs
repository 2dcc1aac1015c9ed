//! What only the fused kernels do.

use seq_core::testing::recurrent::kernels;
use seq_lstm::{Activation, LstmConfig, Zoneout};

#[test]
fn most_options_are_fused() {
    let plain = LstmConfig::new(3, 4);
    let with = [
        plain.clone(),
        plain.clone().with_bias(false),
        plain
            .clone()
            .with_peephole(true)
            .with_clip(Some(0.5))
            .with_cell_clip(Some(0.5))
            .with_gate_activation(Activation::HardSigmoid)
            .with_cell_activation(Activation::Softsign)
            .with_hidden_activation(Activation::Relu),
    ];
    let without = [
        plain.clone().with_d_projection(Some(2)),
        plain.with_zoneout(Zoneout::new().with_cell(0.1)),
    ];
    kernels::fused_are(with, without);
}

#[test]
fn a_long_single_sequence_is_the_reference() {
    kernels::a_long_single_sequence_is_the_reference(|d_input, d_hidden, bias| {
        LstmConfig::new(d_input, d_hidden).with_bias(bias)
    });
}

seq_core::kernel_tests!(|d_input, d_hidden| [LstmConfig::new(d_input, d_hidden)]);
