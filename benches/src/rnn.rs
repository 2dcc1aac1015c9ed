use burn::nn::{self, GateController};
use burn::tensor::{Device, Tensor};
use seq_core::recurrent::RecurrentConfig;
use seq_rnn::{RnnCell, RnnCellState, RnnConfig};

use crate::recurrent::Compared;

impl Compared for RnnCell {
    const NAME: &'static str = "rnn";
    const GATES: usize = 1;
    type BurnNn = nn::Rnn;

    fn config(
        d_input: usize,
        d_hidden: usize,
        num_layers: usize,
    ) -> impl RecurrentConfig<Cell = Self> {
        RnnConfig::new(d_input, d_hidden).with_num_layers(num_layers)
    }

    fn burn_nn(d_input: usize, d_hidden: usize, device: &Device) -> nn::Rnn {
        nn::RnnConfig::new(d_input, d_hidden, true).init(device)
    }

    fn gates(rnn: &mut nn::Rnn) -> Vec<&mut GateController> {
        vec![&mut rnn.gate]
    }

    fn forward(
        rnn: &nn::Rnn,
        x: Tensor<3>,
        state: Option<RnnCellState>,
    ) -> (Tensor<3>, RnnCellState) {
        let state = state.map(|RnnCellState { hidden }| nn::RnnState { hidden });
        let (y, nn::RnnState { hidden }) = rnn.forward(x, state);
        (y, RnnCellState { hidden })
    }
}
