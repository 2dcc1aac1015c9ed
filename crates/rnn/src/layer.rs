use burn::module::Module;
use burn::nn::Linear;
use burn::nn::activation::Activation;
use burn::tensor::Tensor;
#[cfg(any(feature = "ndarray", feature = "flex"))]
use seq_core::Lengths;
use seq_core::recurrent::{CellWeights, HiddenState, Recurrent, RecurrentCell, RecurrentState};
#[cfg(any(feature = "ndarray", feature = "flex"))]
use seq_core::recurrent::{Fused, Recurrence};

use crate::ops;

/// A vanilla recurrent network of one or more layers (Elman 1990), equal to PyTorch's `nn.RNN` and made
/// by [`RnnConfig`](crate::RnnConfig):
///
/// ```text
/// h_t = tanh(W_hh h_{t-1} + W_xh x_t + b)
/// y_t = W_hy h_t + b_y, or h_t
/// ```
///
/// Use it through [`SequenceLayer`](crate::SequenceLayer): `forward` for whole sequences, `step` for
/// streams.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_rnn::{RnnConfig, SequenceLayer};
///
/// let device = seq_rnn::device();
/// let rnn = RnnConfig::new(8, 16).with_num_layers(2).init(&device);
/// let x = Tensor::<3>::random([1, 5, 8], Distribution::Default, &device);
/// let (y, state) = rnn.forward(x, None);
/// assert_eq!(y.dims(), [1, 5, 16]);
///
/// let next = Tensor::<2>::zeros([1, 8], &device);
/// let (y, _state) = rnn.step(next, state);
/// assert_eq!(y.dims(), [1, 16]);
/// # }
/// ```
pub type Rnn = Recurrent<RnnCell>;

/// One layer of an RNN in one direction, equal to PyTorch's `nn.RNNCell`; for loops written by hand,
/// made by [`RnnConfig::init_cell`](crate::RnnConfig::init_cell).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_rnn::{RecurrentCell, RnnConfig};
///
/// let device = seq_rnn::device();
/// let cell = RnnConfig::new(3, 4).with_d_output(Some(2)).init_cell(&device);
/// let mut state = cell.initial_state(5, &device);
/// for _ in 0..7 {
///     let x = Tensor::<2>::ones([5, 3], &device);
///     let (y, next) = cell.step(x, state);
///     assert_eq!(y.dims(), [5, 2]);
///     state = next;
/// }
/// assert_eq!(state.hidden.dims(), [5, 4]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct RnnCell {
    /// Of both products; `weight_hh` is `[1, d_hidden]` for independent units.
    pub weights: CellWeights,
    /// The output map, from `d_hidden` to `d_output`.
    pub output: Option<Linear>,
    /// Of the sum of both products.
    pub activation: Activation,
    /// The bound of the hidden state.
    #[module(skip)]
    pub hidden_clip: Option<f64>,
}

/// What an [`RnnCell`] remembers: `hidden` `[batch, d_hidden]`.
pub type RnnCellState = HiddenState;

/// What an [`Rnn`] remembers: one state for each of its cells.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_rnn::RnnState;
///
/// // PyTorch's h_0 of two layers, for a batch of three.
/// let state = RnnState::from_tensors(Tensor::zeros([2, 3, 4], &seq_rnn::device()));
/// assert_eq!(state.cells.len(), 2);
/// # }
/// ```
pub type RnnState = RecurrentState<HiddenState>;

impl RecurrentCell for RnnCell {
    type State = RnnCellState;

    fn weights(&self) -> &CellWeights {
        &self.weights
    }

    fn output_map(&self) -> Option<&Linear> {
        self.output.as_ref()
    }

    fn stepper(&self, batch: usize) -> impl Fn(Tensor<2>, RnnCellState) -> RnnCellState {
        ops::stepper(self, batch)
    }

    #[cfg(any(feature = "ndarray", feature = "flex"))]
    fn fused(&self, layer: Recurrence, lengths: Option<&Lengths>, reverse: bool) -> Fused {
        crate::cpu::fused(self, layer, lengths, reverse)
    }
}
