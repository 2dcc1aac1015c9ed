use burn::nn::{self, GateController};
use burn::tensor::{Device, Tensor};
use seq_core::recurrent::RecurrentConfig;
use seq_lstm::{LstmCell, LstmCellState, LstmConfig};

use crate::recurrent::Compared;

impl Compared for LstmCell {
    const NAME: &'static str = "lstm";
    const GATES: usize = 4;
    type BurnNn = nn::Lstm;

    fn config(
        d_input: usize,
        d_hidden: usize,
        num_layers: usize,
    ) -> impl RecurrentConfig<Cell = Self> {
        LstmConfig::new(d_input, d_hidden).with_num_layers(num_layers)
    }

    fn burn_nn(d_input: usize, d_hidden: usize, device: &Device) -> nn::Lstm {
        nn::LstmConfig::new(d_input, d_hidden, true).init(device)
    }

    fn gates(lstm: &mut nn::Lstm) -> Vec<&mut GateController> {
        let forget = lstm.forget_gate.as_mut();
        vec![
            &mut lstm.input_gate,
            forget.expect("a forget gate of its own"),
            &mut lstm.cell_gate,
            &mut lstm.output_gate,
        ]
    }

    fn forward(
        lstm: &nn::Lstm,
        x: Tensor<3>,
        state: Option<LstmCellState>,
    ) -> (Tensor<3>, LstmCellState) {
        let state = state.map(|LstmCellState { hidden, cell }| nn::LstmState { hidden, cell });
        let (y, nn::LstmState { hidden, cell }) = lstm.forward(x, state);
        (y, LstmCellState { hidden, cell })
    }
}
