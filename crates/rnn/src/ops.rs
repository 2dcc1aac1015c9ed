//! The operation of one layer in one direction: its reference body, which specifies it, and the way to
//! the fused kernel.

use burn::tensor::Tensor;
use seq_core::Lengths;
use seq_core::recurrent::{Activation, Fused, Recurrence, clip};

use crate::layer::{RnnCell, RnnCellState};

/// The options of a cell that reach into the pointwise mathematics.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(any(feature = "ndarray", feature = "flex")),
    allow(dead_code, reason = "a build without a CPU backend has no kernels")
)]
pub(crate) struct RnnKernel {
    pub activation: Activation,
    pub hidden_clip: Option<f64>,
}

/// As [`RnnKernel`], with elementwise recurrent weights.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(any(feature = "ndarray", feature = "flex")),
    allow(dead_code, reason = "a build without a CPU backend has no kernels")
)]
pub(crate) struct IndependentKernel(pub RnnKernel);

/// By the fused kernel, which leaves rare activations to the reference.
pub(crate) fn fused(
    cell: &RnnCell,
    layer: Recurrence,
    lengths: Option<&Lengths>,
    reverse: bool,
) -> Fused {
    let Some(activation) = known(cell) else {
        return Err(layer.into());
    };
    let kernel = RnnKernel {
        activation,
        hidden_clip: cell.hidden_clip,
    };
    if !cell.weights.is_elementwise() {
        return layer.run(kernel, lengths, reverse);
    }
    let [_, d_hidden] = layer.weight_hh.dims();
    let bias_ih = match (layer.bias_ih, layer.bias_hh) {
        (Some(input), Some(hidden)) => Some(input + hidden),
        (input, hidden) => input.or(hidden),
    };
    let options = (&layer.weight_hh.device(), layer.weight_hh.dtype());
    let layer = Recurrence {
        weight_hh: Tensor::zeros([0, d_hidden], options),
        weights: Some(layer.weight_hh.reshape([d_hidden])),
        bias_ih,
        bias_hh: None,
        ..layer
    };
    layer.run(IndependentKernel(kernel), lengths, reverse)
}

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
fn known(cell: &RnnCell) -> Option<Activation> {
    Activation::from_burn("activation", cell.activation.clone()).ok()
}
