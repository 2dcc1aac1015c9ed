use burn::module::{Module, Param};
use burn::nn::{Dropout, LayerNorm};
use burn::tensor::{Device, Tensor};
use seq_core::recurrent::{Activation, PackedWeights, RecurrentCell, Stack};
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper};

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
/// Use it through [`SequenceLayer`]: `forward` for whole sequences, `step` for streams.
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
#[derive(Module, Debug)]
pub struct Lstm {
    /// In PyTorch's order: layer 0 forward, layer 0 backward, layer 1 forward, and so on.
    pub cells: Vec<LstmCell>,
    /// Between two layers, while training.
    pub dropout: Dropout,
    /// Whether every layer reads both ways.
    #[module(skip)]
    pub bidirectional: bool,
    /// Whether the one direction runs from the end of the sequence.
    #[module(skip)]
    pub reverse: bool,
}

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
    /// `[4 * d_hidden, d_input]`
    pub weight_ih: Param<Tensor<2>>,
    /// `[4 * d_hidden, d_output]`
    pub weight_hh: Param<Tensor<2>>,
    /// `[4 * d_hidden]`
    pub bias_ih: Option<Param<Tensor<1>>>,
    /// `[4 * d_hidden]`
    pub bias_hh: Option<Param<Tensor<1>>>,
    /// The projection `[d_projection, d_hidden]`.
    pub weight_hr: Option<Param<Tensor<2>>>,
    /// `[3 * d_hidden]`: what the input, forget and output gates see of the cell state.
    pub peephole: Option<Param<Tensor<1>>>,
    /// Layer normalisation.
    pub norm: Option<LstmNorm>,
    /// On the candidate cell state.
    pub gates_dropout: Dropout,
    /// On the hidden state that enters the recurrent product.
    pub hidden_dropout: Dropout,
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
    /// The weights as the CPU kernels read them.
    #[module(skip)]
    pub packed: PackedWeights,
}

/// The layer normalisations of an [`LstmCell`] (Ba et al. 2016, equations 20 to 22); part of it where
/// [`LstmConfig::layer_norm`](crate::LstmConfig::layer_norm) is set.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// let config = seq_lstm::LstmConfig::new(3, 4).with_layer_norm(true);
/// let cell = config.init_cell(&seq_lstm::device());
/// assert!(cell.norm.is_some());
/// # }
/// ```
#[derive(Module, Debug)]
pub struct LstmNorm {
    /// Of the input product, width `4 * d_hidden`, without a bias.
    pub input: LayerNorm,
    /// Of the recurrent product, width `4 * d_hidden`, without a bias.
    pub hidden: LayerNorm,
    /// Of the cell state on its way to the output, width `d_hidden`.
    pub cell: LayerNorm,
}

/// What an [`LstmCell`] remembers.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_lstm::LstmCellState;
///
/// let zeros = Tensor::<2>::zeros([1, 4], &seq_lstm::device());
/// let state = LstmCellState { hidden: zeros.clone(), cell: zeros };
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LstmCellState {
    /// `[batch, d_output]`
    pub hidden: Tensor<2>,
    /// `[batch, d_hidden]`
    pub cell: Tensor<2>,
}

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
#[derive(Debug, Clone)]
pub struct LstmState {
    /// In the order of [`Lstm::cells`].
    pub cells: Vec<LstmCellState>,
}

impl SequenceState for LstmCellState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            hidden: mapper.tensor("hidden", self.hidden),
            cell: mapper.tensor("cell", self.cell),
        }
    }
}

impl SequenceState for LstmState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            cells: self.cells.map(mapper),
        }
    }
}

impl LstmState {
    /// From PyTorch's `h_0` `[rows, batch, d_output]` and `c_0` `[rows, batch, d_hidden]`, with
    /// `num_layers * directions` rows.
    ///
    /// # Panics
    ///
    /// When the two differ in rows or batch.
    pub fn from_tensors(h: Tensor<3>, c: Tensor<3>) -> Self {
        let ([rows, batch, _], [c_rows, c_batch, _]) = (h.dims(), c.dims());
        assert_eq!(
            [rows, batch],
            [c_rows, c_batch],
            "hidden state {:?} and cell state {:?} differ in rows or batch",
            h.dims(),
            c.dims()
        );
        let row = |x: &Tensor<3>, row| x.clone().narrow(0, row, 1).squeeze_dim(0);
        let cells = (0..rows)
            .map(|r| LstmCellState {
                hidden: row(&h, r),
                cell: row(&c, r),
            })
            .collect();
        Self { cells }
    }

    /// PyTorch's `h_n` `[rows, batch, d_output]` and `c_n` `[rows, batch, d_hidden]`.
    pub fn into_tensors(self) -> (Tensor<3>, Tensor<3>) {
        let (h, c) = self.cells.into_iter().map(|s| (s.hidden, s.cell)).unzip();
        (Tensor::stack::<3>(h, 0), Tensor::stack::<3>(c, 0))
    }
}

impl LstmCell {
    /// The width of one input step.
    pub fn d_input(&self) -> usize {
        self.weight_ih.dims()[1]
    }

    /// The width of the cell state.
    pub fn d_hidden(&self) -> usize {
        self.weight_ih.dims()[0] / 4
    }

    /// The width of the hidden state, which is the output: `d_projection` or `d_hidden`.
    pub fn d_output(&self) -> usize {
        self.weight_hh.dims()[1]
    }

    /// Zeros, for `batch` sequences.
    pub fn initial_state(&self, batch: usize, device: &Device) -> LstmCellState {
        let options = (device, self.weight_ih.dtype());
        LstmCellState {
            hidden: Tensor::zeros([batch, self.d_output()], options),
            cell: Tensor::zeros([batch, self.d_hidden()], options),
        }
    }

    /// The specification of [`sequence`](RecurrentCell::sequence), in plain tensor operations; what
    /// the fused kernels are compared with.
    pub fn reference(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        reverse: bool,
        state: LstmCellState,
    ) -> (Tensor<3>, LstmCellState) {
        ops::reference(self, x, lengths, reverse, state)
    }

    fn check(&self, input: &[usize], width: usize, state: &LstmCellState) {
        assert_eq!(
            width,
            self.d_input(),
            "the input {input:?} does not have the width {} of the LSTM",
            self.d_input()
        );
        let (hidden, cell) = (state.hidden.dims(), state.cell.dims());
        let expected = ([input[0], self.d_output()], [input[0], self.d_hidden()]);
        assert_eq!(
            (hidden, cell),
            expected,
            "the state's hidden {hidden:?} and cell {cell:?} do not fit the input {input:?}: expected {expected:?}"
        );
    }
}

impl RecurrentCell for LstmCell {
    type State = LstmCellState;

    fn sequence(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        reverse: bool,
        state: LstmCellState,
    ) -> (Tensor<3>, LstmCellState) {
        let [_, _, width] = x.dims();
        Lengths::check_input(lengths, x.dims());
        self.check(&x.dims(), width, &state);
        ops::lstm(self, x, lengths, reverse, state)
    }

    fn step(&self, x: Tensor<2>, state: LstmCellState) -> (Tensor<2>, LstmCellState) {
        let [_, width] = x.dims();
        self.check(&x.dims(), width, &state);
        ops::lstm_step(self, x, state)
    }
}

impl Lstm {
    fn stack(&self) -> Stack<'_, LstmCell> {
        Stack {
            cells: &self.cells,
            bidirectional: self.bidirectional,
            reverse: self.reverse,
            dropout: &self.dropout,
        }
    }

    fn run(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<LstmState>,
    ) -> (Tensor<3>, LstmState) {
        let state = state.unwrap_or_else(|| self.initial_state(x.dims()[0], &x.device()));
        let (y, cells) = self.stack().forward(x, lengths, state.cells);
        (y, LstmState { cells })
    }

    /// As [`forward`](SequenceLayer::forward), time first: `[time, batch, d_input]` to
    /// `[time, batch, d_output]`, the layout of PyTorch's `batch_first=False`.
    pub fn forward_time_major(
        &self,
        x: Tensor<3>,
        state: Option<LstmState>,
    ) -> (Tensor<3>, LstmState) {
        let (y, state) = self.run(x.swap_dims(0, 1), None, state);
        (y.swap_dims(0, 1), state)
    }

    /// As [`forward_padded`](SequenceLayer::forward_padded), time first: what PyTorch makes of a
    /// sequence packed with `batch_first=False`.
    pub fn forward_padded_time_major(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<LstmState>,
    ) -> (Tensor<3>, LstmState) {
        let (y, state) = self.run(x.swap_dims(0, 1), Some(lengths), state);
        (y.swap_dims(0, 1), state)
    }
}

impl SequenceLayer for Lstm {
    type State = LstmState;

    fn d_input(&self) -> usize {
        self.cells[0].d_input()
    }

    fn d_output(&self) -> usize {
        self.cells[0].d_output() * if self.bidirectional { 2 } else { 1 }
    }

    fn initial_state(&self, batch: usize, device: &Device) -> LstmState {
        let state = |cell: &LstmCell| cell.initial_state(batch, device);
        LstmState {
            cells: self.cells.iter().map(state).collect(),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<LstmState>) -> (Tensor<3>, LstmState) {
        self.run(x, None, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<LstmState>,
    ) -> (Tensor<3>, LstmState) {
        self.run(x, Some(lengths), state)
    }

    /// Runs one step of a stream: `[batch, d_input]` to `[batch, d_output]`, and the next state.
    ///
    /// # Panics
    ///
    /// When the LSTM is bidirectional or reversed, which needs the end of the sequence first, or
    /// the widths do not fit.
    fn step(&self, x: Tensor<2>, state: LstmState) -> (Tensor<2>, LstmState) {
        let (y, cells) = self.stack().step(x, state.cells);
        (y, LstmState { cells })
    }
}
