use burn::module::Module;
use burn::nn::Dropout;
use burn::tensor::Tensor;

use crate::{Lengths, SequenceState};

/// One layer in one direction: the building block of a recurrent [`Stack`].
///
/// ```
/// use burn::module::{Module, Param};
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::{RecurrentCell, unroll};
/// use seq_core::{Lengths, SequenceState, StateMapper};
///
/// #[derive(Debug, Clone)]
/// struct Hidden(Tensor<2>);
///
/// impl SequenceState for Hidden {
///     fn map(self, mapper: &mut impl StateMapper) -> Self {
///         Self(mapper.tensor("hidden", self.0))
///     }
/// }
///
/// /// A leaky integrator, `h = decay * h + x`.
/// #[derive(Module, Debug)]
/// struct Leaky {
///     /// `[d_input]`
///     decay: Param<Tensor<1>>,
/// }
///
/// impl RecurrentCell for Leaky {
///     type State = Hidden;
///
///     fn sequence(
///         &self,
///         x: Tensor<3>,
///         lengths: Option<&Lengths>,
///         reverse: bool,
///         state: Hidden,
///     ) -> (Tensor<3>, Hidden) {
///         unroll(x, lengths, reverse, state, |x, state| self.step(x, state))
///     }
///
///     fn step(&self, x: Tensor<2>, Hidden(h): Hidden) -> (Tensor<2>, Hidden) {
///         let h = h * self.decay.val().unsqueeze() + x;
///         (h.clone(), Hidden(h))
///     }
/// }
///
/// # #[cfg(feature = "ndarray")] {
/// let device = seq_core::device();
/// let cell = Leaky { decay: Param::from_data([0.5], &device) };
/// let zero = Hidden(Tensor::zeros([1, 1], &device));
/// let (y, _) = cell.sequence(Tensor::ones([1, 3, 1], &device), None, false, zero);
/// assert_eq!(y.into_data().as_slice::<f32>().unwrap(), [1.0, 1.5, 1.75]);
/// # }
/// ```
pub trait RecurrentCell: Module {
    /// What the cell remembers, for every sequence of the batch.
    type State: SequenceState;

    /// Runs a whole sequence from `state`: `[batch, time, d_input]` to `[batch, time, d_output]`,
    /// and the state after the last step. With `reverse`, from each sequence's last step to its
    /// first.
    fn sequence(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        reverse: bool,
        state: Self::State,
    ) -> (Tensor<3>, Self::State);

    /// Runs one step: `[batch, d_input]` to `[batch, d_output]`, and the next state.
    fn step(&self, x: Tensor<2>, state: Self::State) -> (Tensor<2>, Self::State);
}

/// Cells over one another: several layers, in one direction or in both.
///
/// `cells` is in PyTorch's order: layer 0 forward, layer 0 backward, layer 1 forward, and so on; so
/// are the states.
///
/// ```
/// use burn::module::Param;
/// use burn::nn::DropoutConfig;
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::Stack;
/// # use burn::module::Module;
/// # use seq_core::recurrent::{RecurrentCell, unroll};
/// # use seq_core::{Lengths, SequenceState, StateMapper};
/// #
/// # #[derive(Debug, Clone)]
/// # struct Hidden(Tensor<2>);
/// #
/// # impl SequenceState for Hidden {
/// #     fn map(self, mapper: &mut impl StateMapper) -> Self {
/// #         Self(mapper.tensor("hidden", self.0))
/// #     }
/// # }
/// #
/// # #[derive(Module, Debug)]
/// # struct Leaky {
/// #     decay: Param<Tensor<1>>,
/// # }
/// #
/// # impl RecurrentCell for Leaky {
/// #     type State = Hidden;
/// #
/// #     fn sequence(
/// #         &self,
/// #         x: Tensor<3>,
/// #         lengths: Option<&Lengths>,
/// #         reverse: bool,
/// #         state: Hidden,
/// #     ) -> (Tensor<3>, Hidden) {
/// #         unroll(x, lengths, reverse, state, |x, state| self.step(x, state))
/// #     }
/// #
/// #     fn step(&self, x: Tensor<2>, Hidden(h): Hidden) -> (Tensor<2>, Hidden) {
/// #         let h = h * self.decay.val().unsqueeze() + x;
/// #         (h.clone(), Hidden(h))
/// #     }
/// # }
///
/// # #[cfg(feature = "ndarray")] {
/// // `Leaky` is the cell of the example of `RecurrentCell`.
/// let device = seq_core::device();
/// let cell = || Leaky { decay: Param::from_data([0.5], &device) };
/// let zero = || Hidden(Tensor::zeros([1, 1], &device));
/// let cells = [cell(), cell()];
/// let dropout = DropoutConfig::new(0.1).init();
/// let stack = Stack { cells: &cells, bidirectional: false, reverse: false, dropout: &dropout };
/// let x = Tensor::ones([1, 3, 1], &device);
/// let (y, _states) = stack.forward(x, None, vec![zero(), zero()]);
/// assert_eq!(y.into_data().as_slice::<f32>().unwrap(), [1.0, 2.0, 2.75]);
/// # }
/// ```
#[derive(Debug)]
pub struct Stack<'a, C> {
    /// One cell a layer and direction.
    pub cells: &'a [C],
    /// Whether every layer reads both ways; the next one then sees both outputs side by side.
    pub bidirectional: bool,
    /// Whether the one direction runs from the end of the sequence.
    pub reverse: bool,
    /// Between two layers, while training.
    pub dropout: &'a Dropout,
}

impl<C: RecurrentCell> Stack<'_, C> {
    /// Runs a whole sequence through all layers.
    ///
    /// # Panics
    ///
    /// When there is not one state for every cell.
    pub fn forward(
        &self,
        mut x: Tensor<3>,
        lengths: Option<&Lengths>,
        states: Vec<C::State>,
    ) -> (Tensor<3>, Vec<C::State>) {
        self.check(&states);
        let directions = if self.bidirectional { 2 } else { 1 };
        let mut states = states.into_iter();
        let mut last = Vec::with_capacity(self.cells.len());
        for (index, layer) in self.cells.chunks(directions).enumerate() {
            if index > 0 {
                x = self.dropout.forward(x);
            }
            let mut outputs = Vec::with_capacity(directions);
            for (direction, (cell, state)) in layer.iter().zip(states.by_ref()).enumerate() {
                let reverse = self.reverse != (direction == 1);
                let (y, state) = cell.sequence(x.clone(), lengths, reverse, state);
                outputs.push(y);
                last.push(state);
            }
            x = match outputs.len() {
                1 => outputs.remove(0),
                _ => Tensor::cat(outputs, 2),
            };
        }
        (x, last)
    }

    /// Runs one step through all layers.
    ///
    /// # Panics
    ///
    /// When the stack reads from the end of the sequence, or there is not one state for every cell.
    pub fn step(&self, mut x: Tensor<2>, states: Vec<C::State>) -> (Tensor<2>, Vec<C::State>) {
        assert!(
            !self.bidirectional && !self.reverse,
            "a layer that reads from the end of the sequence has no step"
        );
        self.check(&states);
        let mut last = Vec::with_capacity(self.cells.len());
        for (index, (cell, state)) in self.cells.iter().zip(states).enumerate() {
            if index > 0 {
                x = self.dropout.forward(x);
            }
            let (y, state) = cell.step(x, state);
            x = y;
            last.push(state);
        }
        (x, last)
    }

    fn check(&self, states: &[C::State]) {
        assert_eq!(
            states.len(),
            self.cells.len(),
            "a state of {} layers and directions was given to a stack of {}",
            states.len(),
            self.cells.len()
        );
    }
}
