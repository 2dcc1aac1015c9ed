//! The operation of one layer in one direction: its reference body, which specifies it.

use burn::tensor::Tensor;
use seq_core::recurrent::{RecurrentCell, RecurrentProduct, clip, zoneout};

use crate::config::UpdateGate;
use crate::layer::{GruCell, GruCellState};

/// One step, from the input product `[batch, 3 * d_hidden]`.
pub(crate) fn step(
    cell: &GruCell,
    product: &RecurrentProduct,
    inputs: Tensor<2>,
    before: GruCellState,
) -> GruCellState {
    let hidden = cell.d_hidden();
    let before = before.hidden;
    // The gates r and z, then what the candidate takes of the input.
    let gates = inputs.clone().narrow(1, 0, 2 * hidden);
    let candidate = inputs.narrow(1, 2 * hidden, hidden);
    let open = |sum| cell.gate_activation.forward(clip(sum, cell.clip));
    let reset = |gates: &Tensor<2>| gates.clone().narrow(1, 0, hidden);
    let (gates, recurrent) = match cell.reset_after {
        true => {
            let product = product.all(before.clone());
            let gates = open(gates + product.clone().narrow(1, 0, 2 * hidden));
            let recurrent = reset(&gates) * product.narrow(1, 2 * hidden, hidden);
            (gates, recurrent)
        }
        false => {
            let gates = open(gates + product.group(0, before.clone()));
            let recurrent = product.group(1, reset(&gates) * before.clone());
            (gates, recurrent)
        }
    };
    let z = gates.narrow(1, hidden, hidden);
    let n = cell
        .hidden_activation
        .forward(clip(candidate + recurrent, cell.clip));
    let after = match cell.update_gate {
        UpdateGate::Keep => n.clone() + z * (before.clone() - n),
        UpdateGate::Write => before.clone() + z * (n - before.clone()),
    };
    let after = clip(after, cell.hidden_clip);
    GruCellState {
        hidden: zoneout(cell.zoneout, cell.weights.is_training(), before, after),
    }
}
