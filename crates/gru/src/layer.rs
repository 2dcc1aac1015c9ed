use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
#[cfg(any(feature = "ndarray", feature = "flex"))]
use seq_core::Lengths;
use seq_core::recurrent::{
    Activation, CellWeights, HiddenState, Recurrent, RecurrentCell, RecurrentState,
};
#[cfg(any(feature = "ndarray", feature = "flex"))]
use seq_core::recurrent::{Fused, Recurrence};

use crate::config::UpdateGate;
use crate::ops;

/// Gated recurrent units in one or more layers (Cho et al. 2014, <https://arxiv.org/abs/1406.1078>),
/// equal to PyTorch's `nn.GRU` and made by [`GruConfig`](crate::GruConfig):
///
/// ```text
/// r = sigmoid(W_r x_t + b_r + U_r h_{t-1} + c_r)
/// z = sigmoid(W_z x_t + b_z + U_z h_{t-1} + c_z)
/// n = tanh(W_n x_t + b_n + r * (U_n h_{t-1} + c_n))
/// h_t = (1 - z) * n + z * h_{t-1}
/// ```
///
/// Use it through [`SequenceLayer`](crate::SequenceLayer): `forward` for whole sequences, `step` for
/// streams.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_gru::{GruConfig, SequenceLayer};
///
/// let device = seq_gru::device();
/// let gru = GruConfig::new(8, 16).with_num_layers(2).init(&device);
/// let x = Tensor::<3>::random([1, 5, 8], Distribution::Default, &device);
/// let (y, state) = gru.forward(x, None);
/// assert_eq!(y.dims(), [1, 5, 16]);
///
/// let next = Tensor::<2>::zeros([1, 8], &device);
/// let (y, _state) = gru.step(next, state);
/// assert_eq!(y.dims(), [1, 16]);
/// # }
/// ```
pub type Gru = Recurrent<GruCell>;

/// One layer of a GRU in one direction, equal to PyTorch's `nn.GRUCell`; for loops written by hand,
/// made by [`GruConfig::init_cell`](crate::GruConfig::init_cell).
///
/// The three blocks of rows are the gates, in PyTorch's order: reset, update, candidate.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_gru::{GruConfig, RecurrentCell};
///
/// let device = seq_gru::device();
/// let cell = GruConfig::new(3, 4).init_cell(&device);
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
pub struct GruCell {
    /// Of both products, in three gates.
    pub weights: CellWeights,
    /// The hidden state before a sequence begins `[d_hidden]`, where it is trained.
    pub initial_hidden: Option<Param<Tensor<1>>>,
    /// Whether the reset gate acts on the recurrent product, or on the hidden state before it.
    #[module(skip)]
    pub reset_after: bool,
    /// What an open update gate does.
    #[module(skip)]
    pub update_gate: UpdateGate,
    /// The probability to keep the old state.
    #[module(skip)]
    pub zoneout: f64,
    /// The bound of what enters the activations.
    #[module(skip)]
    pub clip: Option<f64>,
    /// The bound of the hidden state.
    #[module(skip)]
    pub hidden_clip: Option<f64>,
    /// Of the reset and update gates.
    #[module(skip)]
    pub gate_activation: Activation,
    /// Of the candidate hidden state.
    #[module(skip)]
    pub hidden_activation: Activation,
}

/// What a [`GruCell`] remembers: `hidden` `[batch, d_hidden]`.
pub type GruCellState = HiddenState;

/// What a [`Gru`] remembers: one state for each of its cells.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_gru::GruState;
///
/// // PyTorch's h_0 of two layers, for a batch of three.
/// let state = GruState::from_tensors(Tensor::zeros([2, 3, 4], &seq_gru::device()));
/// assert_eq!(state.cells.len(), 2);
/// # }
/// ```
pub type GruState = RecurrentState<HiddenState>;

impl RecurrentCell for GruCell {
    type State = GruCellState;

    fn weights(&self) -> &CellWeights {
        &self.weights
    }

    fn initial_state(&self, batch: usize, device: &Device) -> GruCellState {
        let width = self.weights.d_hidden();
        let hidden = match &self.initial_hidden {
            Some(hidden) => hidden.val().unsqueeze::<2>().expand([batch, width]),
            None => Tensor::zeros([batch, width], (device, self.weights.weight_ih.dtype())),
        };
        GruCellState { hidden }
    }

    fn stepper(&self, batch: usize) -> impl Fn(Tensor<2>, GruCellState) -> GruCellState {
        let product = self.weights.recurrent(batch);
        move |x, state| ops::step(self, &product, x, state)
    }

    #[cfg(any(feature = "ndarray", feature = "flex"))]
    fn fused(&self, layer: Recurrence, lengths: Option<&Lengths>, reverse: bool) -> Fused {
        crate::cpu::fused(self, layer, lengths, reverse)
    }
}
