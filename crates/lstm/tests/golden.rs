//! The LSTM against what PyTorch and onnxruntime answer.

use burn::module::Param;
use seq_core::testing::{Golden, Run};
use seq_lstm::{Lengths, LstmConfig, LstmState, SequenceLayer};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LayerConfig {
    batch: usize,
    time: usize,
    d_input: usize,
    d_hidden: usize,
    num_layers: usize,
    bias: bool,
    bidirectional: bool,
    reverse: bool,
    d_projection: Option<usize>,
    peephole: bool,
    clip: Option<f64>,
    initial_state: bool,
    with_lengths: bool,
}

fn layer(config: LayerConfig, run: &mut Run) {
    let mut lstm = LstmConfig::new(config.d_input, config.d_hidden)
        .with_num_layers(config.num_layers)
        .with_bias(config.bias)
        .with_bidirectional(config.bidirectional)
        .with_reverse(config.reverse)
        .with_d_projection(config.d_projection)
        .with_peephole(config.peephole)
        .with_clip(config.clip)
        .init(run.device());
    let directions = if config.bidirectional { 2 } else { 1 };
    for (row, cell) in lstm.cells.iter_mut().enumerate() {
        let direction = if row % directions == 1 {
            "_reverse"
        } else {
            ""
        };
        let name = |name| format!("weight.{name}_l{}{direction}", row / directions);
        let mut matrix = |which| Param::from_tensor(run.float::<2>(&name(which)));
        cell.weight_ih = matrix("weight_ih");
        cell.weight_hh = matrix("weight_hh");
        cell.weight_hr = config.d_projection.map(|_| matrix("weight_hr"));
        let mut vector = |which| Param::from_tensor(run.float::<1>(&name(which)));
        cell.bias_ih = config.bias.then(|| vector("bias_ih"));
        cell.bias_hh = config.bias.then(|| vector("bias_hh"));
        cell.peephole = config.peephole.then(|| vector("peephole"));
    }

    let x = run.float::<3>("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.d_input]);
    let state = config
        .initial_state
        .then(|| LstmState::from_tensors(run.float("input.h_0"), run.float("input.c_0")));
    let (y, state) = match config.with_lengths {
        true => lstm.forward_padded(x, &Lengths::new(run.numbers("input.lengths")), state),
        false => lstm.forward(x, state),
    };
    let (h_n, c_n) = state.into_tensors();
    run.output("y", y);
    run.output("h_n", h_n);
    run.output("c_n", c_n);
}

#[test]
fn golden_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    Golden::new(folder).kind("lstm", "layer", layer).check();
}
