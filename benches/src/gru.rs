use burn::nn::{self, GateController};
use burn::tensor::{Device, Tensor};
use seq_core::recurrent::RecurrentConfig;
use seq_gru::{GruCell, GruCellState, GruConfig};

use crate::recurrent::Compared;

impl Compared for GruCell {
    const NAME: &'static str = "gru";
    const GATES: usize = 3;
    type BurnNn = nn::Gru;

    fn config(
        d_input: usize,
        d_hidden: usize,
        num_layers: usize,
    ) -> impl RecurrentConfig<Cell = Self> {
        GruConfig::new(d_input, d_hidden).with_num_layers(num_layers)
    }

    fn burn_nn(d_input: usize, d_hidden: usize, device: &Device) -> nn::Gru {
        nn::GruConfig::new(d_input, d_hidden, true).init(device)
    }

    fn gates(gru: &mut nn::Gru) -> Vec<&mut GateController> {
        vec![&mut gru.reset_gate, &mut gru.update_gate, &mut gru.new_gate]
    }

    fn forward(
        gru: &nn::Gru,
        x: Tensor<3>,
        state: Option<GruCellState>,
    ) -> (Tensor<3>, GruCellState) {
        let y = gru.forward(x, state.map(|state| state.hidden));
        // It gives no state; that is the last output.
        let last = y.dims()[1] - 1;
        let hidden = y.clone().narrow(1, last, 1).squeeze_dim(1);
        (y, GruCellState { hidden })
    }
}
