use burn::module::{Module, Param};
use burn::nn::{Dropout, LayerNorm};
use burn::tensor::Tensor;
#[cfg(any(feature = "ndarray", feature = "flex"))]
use seq_core::Lengths;
use seq_core::recurrent::{
    Activation, CellWeights, MemoryState, Recurrent, RecurrentCell, RecurrentState,
};
#[cfg(any(feature = "ndarray", feature = "flex"))]
use seq_core::recurrent::{Fused, Recurrence};

use crate::config::Zoneout;
use crate::ops;

/// A long short-term memory of one or more layers (Hochreiter and Schmidhuber 1997, with the forget
/// gate of Gers et al. 2000), equal to PyTorch's `nn.LSTM` and made by [`LstmConfig`](crate::LstmConfig):
///
/// ```text
/// i, f, g, o = split(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)
/// c_t = sigmoid(f) * c_{t-1} + sigmoid(i) * tanh(g)
/// h_t = sigmoid(o) * tanh(c_t)
/// ```
///
/// Use it through [`SequenceLayer`](crate::SequenceLayer): `forward` for whole sequences, `step` for streams.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_lstm::{LstmConfig, SequenceLayer};
///
/// let device = seq_lstm::device();
/// let lstm = LstmConfig::new(8, 16).with_num_layers(2).init(&device);
/// let x = Tensor::<3>::random([1, 5, 8], Distribution::Default, &device);
/// let (y, state) = lstm.forward(x, None);
/// assert_eq!(y.dims(), [1, 5, 16]);
///
/// let next = Tensor::<2>::zeros([1, 8], &device);
/// let (y, _state) = lstm.step(next, state);
/// assert_eq!(y.dims(), [1, 16]);
/// # }
/// ```
pub type Lstm = Recurrent<LstmCell>;

/// One layer of an LSTM in one direction, equal to PyTorch's `nn.LSTMCell`; for loops written by
/// hand, made by [`LstmConfig::init_cell`](crate::LstmConfig::init_cell).
///
/// The four blocks of rows are the gates, in PyTorch's order: input, forget, candidate, output.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_lstm::{LstmConfig, RecurrentCell};
///
/// let device = seq_lstm::device();
/// let cell = LstmConfig::new(3, 4).init_cell(&device);
/// let mut state = cell.initial_state(2, &device);
/// for _ in 0..5 {
///     let x = Tensor::<2>::ones([2, 3], &device);
///     let (_hidden, next) = cell.step(x, state);
///     state = next;
/// }
/// assert_eq!(state.hidden.dims(), [2, 4]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct LstmCell {
    /// Of both products, in four gates.
    pub weights: CellWeights,
    /// The projection `[d_projection, d_hidden]`.
    pub weight_hr: Option<Param<Tensor<2>>>,
    /// `[3 * d_hidden]`: what the input, forget and output gates see of the cell state.
    pub peephole: Option<Param<Tensor<1>>>,
    /// Layer normalisation of the cell state on its way to the output, beside that of the products
    /// (Ba et al. 2016, equations 20 to 22).
    pub cell_norm: Option<LayerNorm>,
    /// On the candidate cell state.
    pub gates_dropout: Dropout,
    /// On the cell state.
    pub cell_dropout: Dropout,
    /// The probabilities to keep the old state.
    #[module(skip)]
    pub zoneout: Zoneout,
    /// The bound of what enters the gates.
    #[module(skip)]
    pub clip: Option<f64>,
    /// The bound of the cell state.
    #[module(skip)]
    pub cell_clip: Option<f64>,
    /// Of the input, forget and output gates.
    #[module(skip)]
    pub gate_activation: Activation,
    /// Of the candidate cell state.
    #[module(skip)]
    pub cell_activation: Activation,
    /// Of the cell state on its way to the output.
    #[module(skip)]
    pub hidden_activation: Activation,
}

/// What an [`LstmCell`] remembers: `hidden` `[batch, d_output]` and `cell` `[batch, d_hidden]`.
pub type LstmCellState = MemoryState;

/// What an [`Lstm`] remembers: one state for each of its cells.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_lstm::LstmState;
///
/// // PyTorch's h_0 and c_0 of two layers, for a batch of three.
/// let h_0 = Tensor::<3>::zeros([2, 3, 4], &seq_lstm::device());
/// let state = LstmState::from_tensors(h_0.clone(), h_0);
/// assert_eq!(state.cells.len(), 2);
/// # }
/// ```
pub type LstmState = RecurrentState<MemoryState>;

impl RecurrentCell for LstmCell {
    type State = LstmCellState;

    fn weights(&self) -> &CellWeights {
        &self.weights
    }

    fn stepper(&self, batch: usize) -> impl Fn(Tensor<2>, LstmCellState) -> LstmCellState {
        let step = ops::Step::new(self, batch);
        move |x, state| step.run(x, state)
    }

    #[cfg(any(feature = "ndarray", feature = "flex"))]
    fn fused(&self, layer: Recurrence, lengths: Option<&Lengths>, reverse: bool) -> Fused {
        crate::cpu::fused(self, layer, lengths, reverse)
    }
}
