//! The laws of a sequence layer, for every option of the LSTM.

use burn::tensor::{Distribution, Tensor, Tolerance};
use seq_lstm::{
    Activation, Bidirectional, Lengths, Lstm, LstmConfig, LstmState, SequenceLayer, Zoneout,
};

/// Everything at once, but for what changes the direction.
fn all_options(config: LstmConfig) -> LstmConfig {
    // Of two values or three, layer normalisation keeps little more than which is larger: rounding then
    // shows a hundredfold in the gradients.
    let d_hidden = config.d_hidden + 3;
    LstmConfig { d_hidden, ..config }
        .with_num_layers(2)
        .with_d_projection(Some(d_hidden.div_ceil(2)))
        .with_peephole(true)
        .with_layer_norm(true)
        .with_clip(Some(0.7))
        .with_cell_clip(Some(0.9))
        .with_zoneout(Zoneout::new().with_hidden(0.1).with_cell(0.3))
}

seq_core::conformance_tests! { LstmConfig:
    plain: check |config| config;
    without_bias: check |config| config.with_bias(false);
    two_layers: check |config| config.with_num_layers(2);
    projection: check |config| config.with_num_layers(2).with_d_projection(Some(2));
    peephole: check |config| config.with_peephole(true);
    layer_norm: check |config| config.with_layer_norm(true);
    clip: check |config| config.with_clip(Some(0.2));
    cell_clip: check |config| config.with_cell_clip(Some(0.1));
    zoneout: check |config| config.with_zoneout(Zoneout::new().with_hidden(0.2).with_cell(0.4));
    smooth_activations: check |config| config
        .with_gate_activation(Activation::Tanh)
        .with_cell_activation(Activation::Softsign)
        .with_hidden_activation(Activation::Softsign);
    kinked_activations: check |config| config
        .with_gate_activation(Activation::HardSigmoid)
        .with_cell_activation(Activation::Relu)
        .with_hidden_activation(Activation::Identity);
    all_options_at_once: check all_options;

    reverse: check_whole |config| config.with_reverse(true).with_num_layers(2);
    bidirectional: check_whole |config| config.with_bidirectional(true).with_num_layers(2);
    bidirectional_with_all_options: check_whole |config| all_options(config).with_bidirectional(true);
}

#[test]
fn two_layers_wrapped_are_one_bidirectional_layer() {
    let device = seq_lstm::device();
    let lstm = LstmConfig::new(3, 4).with_bidirectional(true).init(&device);
    let [there, back] = [0, 1].map(|direction| Lstm {
        cells: vec![lstm.cells[direction].clone()],
        bidirectional: false,
        ..lstm.clone()
    });
    let x = Tensor::<3>::random([3, 5, 3], Distribution::Default, &device);
    let lengths = Lengths::new([2, 5, 1]);

    let (y, state) = lstm.forward_padded(x.clone(), &lengths, None);
    let (wrapped, (first, second)) =
        Bidirectional::new(there, back).forward_padded(x, &lengths, None);
    let same = |a: Tensor<3>, b: Tensor<3>| {
        a.into_data()
            .assert_approx_eq::<f32>(&b.into_data(), Tolerance::absolute(1e-5));
    };
    same(wrapped, y);
    let (hidden, cell) = state.into_tensors();
    let cells = vec![first.cells[0].clone(), second.cells[0].clone()];
    let (wrapped_hidden, wrapped_cell) = LstmState { cells }.into_tensors();
    same(wrapped_hidden, hidden);
    same(wrapped_cell, cell);
}
