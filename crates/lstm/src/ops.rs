//! The operation of one layer in one direction: its reference body, which specifies it.

use burn::tensor::Tensor;
use seq_core::recurrent::{Activation, RecurrentCell, RecurrentProduct, clip, zoneout};

use crate::layer::{LstmCell, LstmCellState};

/// One step of the recurrence, with what stays the same from step to step.
pub(crate) struct Step<'a> {
    cell: &'a LstmCell,
    product: RecurrentProduct,
    /// Of the input, forget and output gates, each `[1, d_hidden]`.
    peephole: Option<[Tensor<2>; 3]>,
    /// Dropout masks of the whole sequence, `[batch, width]`.
    gates_mask: Option<Tensor<2>>,
    cell_mask: Option<Tensor<2>>,
}

impl<'a> Step<'a> {
    pub fn new(cell: &'a LstmCell, batch: usize) -> Self {
        let hidden = cell.d_hidden();
        let mask = |dropout| cell.weights.mask(dropout, batch, hidden);
        let peephole = cell.peephole.as_ref().map(|peephole| {
            [0, 1, 2].map(|gate| peephole.val().narrow(0, gate * hidden, hidden).unsqueeze())
        });
        Self {
            product: cell.weights.recurrent(batch),
            peephole,
            gates_mask: mask(&cell.gates_dropout),
            cell_mask: mask(&cell.cell_dropout),
            cell,
        }
    }

    /// `inputs` `[batch, 4 * d_hidden]`.
    pub fn run(&self, inputs: Tensor<2>, before: LstmCellState) -> LstmCellState {
        let cell = self.cell;
        let hidden = cell.d_hidden();
        let masked = |x: Tensor<2>, mask: &Option<Tensor<2>>| match mask {
            Some(mask) => x * mask.clone(),
            None => x,
        };
        let peep = |gate: Tensor<2>, index: usize, c: &Tensor<2>| match &self.peephole {
            Some(weights) => gate + weights[index].clone() * c.clone(),
            None => gate,
        };

        let gates = inputs + self.product.all(before.hidden.clone());
        // Where nothing else enters the gates, one activation of all four, for the candidate in vain:
        // a GPU starts a kernel for every operation.
        let activated = (cell.clip.is_none() && cell.peephole.is_none())
            .then(|| cell.gate_activation.forward(gates.clone()));
        let gate = |index: usize| gates.clone().narrow(1, index * hidden, hidden);
        let activate = |gate, activation: Activation| activation.forward(clip(gate, cell.clip));
        let open = |index: usize, peephole: usize, c: &Tensor<2>| match &activated {
            Some(gates) => gates.clone().narrow(1, index * hidden, hidden),
            None => activate(peep(gate(index), peephole, c), cell.gate_activation),
        };

        let i = open(0, 0, &before.cell);
        let f = open(1, 1, &before.cell);
        let g = masked(activate(gate(2), cell.cell_activation), &self.gates_mask);
        let c = masked(
            clip(f * before.cell.clone() + i * g, cell.cell_clip),
            &self.cell_mask,
        );
        let o = open(3, 2, &c);
        let output = match &cell.cell_norm {
            Some(norm) => norm.forward(c.clone()),
            None => c.clone(),
        };
        let h = o * cell.hidden_activation.forward(output);
        let h = match &cell.weight_hr {
            Some(weight) => h.matmul(weight.val().transpose()),
            None => h,
        };
        let training = cell.weights.is_training();
        LstmCellState {
            hidden: zoneout(cell.zoneout.hidden, training, before.hidden, h),
            cell: zoneout(cell.zoneout.cell, training, before.cell, c),
        }
    }
}
