//! The operation of one layer in one direction: its reference body, which specifies it.

use burn::tensor::Tensor;
use seq_core::recurrent::{Activation, clip};

use crate::layer::{RnnCell, RnnCellState};

/// One step in tensor operations, from the input product `[batch, d_hidden]`.
pub(crate) fn stepper(
    cell: &RnnCell,
    batch: usize,
) -> impl Fn(Tensor<2>, RnnCellState) -> RnnCellState {
    let product = cell.weights.recurrent(batch);
    let known = known(cell);
    move |inputs, RnnCellState { hidden }| {
        let sum = inputs + product.all(hidden);
        let hidden = match known {
            Some(activation) => activation.forward(sum),
            None => cell.activation.forward(sum),
        };
        RnnCellState {
            hidden: clip(hidden, cell.hidden_clip),
        }
    }
}

/// The activation, if it is one of those that the kernels have.
pub(crate) fn known(cell: &RnnCell) -> Option<Activation> {
    Activation::from_burn("activation", cell.activation.clone()).ok()
}
