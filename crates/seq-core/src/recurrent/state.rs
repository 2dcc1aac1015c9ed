use burn::tensor::Tensor;

use crate::{SequenceState, StateMapper};

/// The state of one [`RecurrentCell`](super::RecurrentCell): a hidden state and, in cells with a memory
/// beside it, a cell state.
///
/// ```
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::{CellState, HiddenState};
///
/// # #[cfg(feature = "ndarray")] {
/// let hidden = Tensor::<2>::zeros([1, 4], &seq_core::device());
/// let (hidden, cell) = HiddenState { hidden }.into_parts();
/// assert_eq!((hidden.dims(), cell.is_none()), ([1, 4], true));
/// # }
/// ```
pub trait CellState: SequenceState {
    /// Whether there is a cell state.
    const MEMORY: bool;

    /// The hidden state `[batch, d_output]`.
    fn hidden(&self) -> &Tensor<2>;

    /// The cell state `[batch, d_hidden]`, if there is one.
    fn memory(&self) -> Option<&Tensor<2>> {
        None
    }

    /// The hidden state `[batch, d_output]`, and the cell state `[batch, d_hidden]` if there is one.
    fn into_parts(self) -> (Tensor<2>, Option<Tensor<2>>);

    /// The reverse of [`into_parts`](Self::into_parts).
    ///
    /// # Panics
    ///
    /// When a cell state is missing or there is one too many.
    fn from_parts(hidden: Tensor<2>, cell: Option<Tensor<2>>) -> Self;
}

/// What a cell without a memory of its own remembers: its last output.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::HiddenState;
///
/// let state = HiddenState { hidden: Tensor::zeros([1, 4], &seq_core::device()) };
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct HiddenState {
    /// `[batch, d_hidden]`
    pub hidden: Tensor<2>,
}

/// What a cell with a memory beside its output remembers.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::MemoryState;
///
/// let zeros = Tensor::<2>::zeros([1, 4], &seq_core::device());
/// let state = MemoryState { hidden: zeros.clone(), cell: zeros };
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MemoryState {
    /// `[batch, d_output]`
    pub hidden: Tensor<2>,
    /// `[batch, d_hidden]`
    pub cell: Tensor<2>,
}

impl SequenceState for HiddenState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            hidden: mapper.tensor("hidden", self.hidden),
        }
    }
}

impl SequenceState for MemoryState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            hidden: mapper.tensor("hidden", self.hidden),
            cell: mapper.tensor("cell", self.cell),
        }
    }
}

impl CellState for HiddenState {
    const MEMORY: bool = false;

    fn hidden(&self) -> &Tensor<2> {
        &self.hidden
    }

    fn into_parts(self) -> (Tensor<2>, Option<Tensor<2>>) {
        (self.hidden, None)
    }

    fn from_parts(hidden: Tensor<2>, cell: Option<Tensor<2>>) -> Self {
        assert!(cell.is_none(), "a cell state for a cell that has none");
        Self { hidden }
    }
}

impl CellState for MemoryState {
    const MEMORY: bool = true;

    fn hidden(&self) -> &Tensor<2> {
        &self.hidden
    }

    fn memory(&self) -> Option<&Tensor<2>> {
        Some(&self.cell)
    }

    fn into_parts(self) -> (Tensor<2>, Option<Tensor<2>>) {
        (self.hidden, Some(self.cell))
    }

    fn from_parts(hidden: Tensor<2>, cell: Option<Tensor<2>>) -> Self {
        let cell = cell.expect("a cell state");
        Self { hidden, cell }
    }
}

/// What a [`Recurrent`](super::Recurrent) layer remembers: one state for each of its cells.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::{HiddenState, RecurrentState};
///
/// // PyTorch's h_0 of two layers, for a batch of three.
/// let h_0 = Tensor::<3>::zeros([2, 3, 4], &seq_core::device());
/// let state = RecurrentState::<HiddenState>::from_tensors(h_0);
/// assert_eq!(state.cells.len(), 2);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct RecurrentState<S> {
    /// In PyTorch's order: layer 0 forward, layer 0 backward, layer 1 forward, and so on.
    pub cells: Vec<S>,
}

impl<S: CellState> SequenceState for RecurrentState<S> {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            cells: self.cells.map(mapper),
        }
    }
}

impl RecurrentState<HiddenState> {
    /// From PyTorch's `h_0` `[rows, batch, d_hidden]`, with `num_layers * directions` rows.
    pub fn from_tensors(h: Tensor<3>) -> Self {
        let hidden = rows(h).into_iter();
        Self {
            cells: hidden.map(|hidden| HiddenState { hidden }).collect(),
        }
    }

    /// PyTorch's `h_n` `[rows, batch, d_hidden]`.
    pub fn into_tensors(self) -> Tensor<3> {
        Tensor::stack(self.cells.into_iter().map(|s| s.hidden).collect(), 0)
    }
}

impl RecurrentState<MemoryState> {
    /// From PyTorch's `h_0` `[rows, batch, d_output]` and `c_0` `[rows, batch, d_hidden]`, with
    /// `num_layers * directions` rows.
    ///
    /// # Panics
    ///
    /// When the two differ in rows or batch.
    pub fn from_tensors(h: Tensor<3>, c: Tensor<3>) -> Self {
        assert_eq!(
            h.dims()[..2],
            c.dims()[..2],
            "hidden state {:?} and cell state {:?} differ in rows or batch",
            h.dims(),
            c.dims()
        );
        let cells = rows(h).into_iter().zip(rows(c));
        Self {
            cells: cells
                .map(|(hidden, cell)| MemoryState { hidden, cell })
                .collect(),
        }
    }

    /// PyTorch's `h_n` `[rows, batch, d_output]` and `c_n` `[rows, batch, d_hidden]`.
    pub fn into_tensors(self) -> (Tensor<3>, Tensor<3>) {
        let (h, c) = self.cells.into_iter().map(|s| (s.hidden, s.cell)).unzip();
        (Tensor::stack::<3>(h, 0), Tensor::stack::<3>(c, 0))
    }
}

fn rows(x: Tensor<3>) -> Vec<Tensor<2>> {
    let row = |row| x.clone().narrow(0, row, 1).squeeze_dim(0);
    (0..x.dims()[0]).map(row).collect()
}
