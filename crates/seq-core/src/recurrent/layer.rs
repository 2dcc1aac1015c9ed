use burn::module::{Module, ModuleDisplay};
use burn::nn::{Dropout, DropoutConfig, Linear};
use burn::tensor::{Device, Tensor};

use super::{CellState, CellWeights, Fused, LayerOptions, Recurrence, RecurrentState, unroll};
use crate::{Lengths, SequenceLayer};

/// One layer in one direction: the building block of a [`Recurrent`] layer.
///
/// An architecture brings its weights, its state, one step in tensor operations, which is its
/// specification, and on the CPU the way to its fused kernel. The rest follows.
///
/// ```
/// use burn::module::Module;
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::{CellWeights, HiddenState, RecurrentCell, WeightsConfig};
///
/// /// A leaky integrator of its inputs, `h = (h + tanh(W x + U h + b)) / 2`, without a fused kernel.
/// #[derive(Module, Debug)]
/// struct Leaky {
///     weights: CellWeights,
/// }
///
/// impl RecurrentCell for Leaky {
///     type State = HiddenState;
///
///     fn weights(&self) -> &CellWeights {
///         &self.weights
///     }
///
///     fn stepper(&self, batch: usize) -> impl Fn(Tensor<2>, HiddenState) -> HiddenState {
///         let product = self.weights.recurrent(batch);
///         move |x, HiddenState { hidden }| HiddenState {
///             hidden: (hidden.clone() + (x + product.all(hidden)).tanh()) / 2.0,
///         }
///     }
/// }
///
/// # #[cfg(feature = "ndarray")] {
/// let device = seq_core::device();
/// let cell = Leaky { weights: WeightsConfig::new(&[1], 3, 4).init(&device) };
/// let state = cell.initial_state(2, &device);
/// let (y, _) = cell.sequence(Tensor::ones([2, 5, 3], &device), None, false, state);
/// assert_eq!(y.dims(), [2, 5, 4]);
/// # }
/// ```
pub trait RecurrentCell: Module + ModuleDisplay {
    /// What the cell remembers, for every sequence of the batch.
    type State: CellState;

    /// The weights of both products.
    fn weights(&self) -> &CellWeights;

    /// One step in tensor operations, for a sequence of `batch` rows: from the input product
    /// `[batch, gates * d_hidden]`, as [`CellWeights::project`] makes it, and the state before to the
    /// state after. What stays the same for all steps is made here, once.
    fn stepper(&self, batch: usize) -> impl Fn(Tensor<2>, Self::State) -> Self::State;

    /// The whole sequence by the fused kernel, or `layer` again where there is none for the cell's
    /// options; without one at all this body will do.
    fn fused(&self, layer: Recurrence, _lengths: Option<&Lengths>, _reverse: bool) -> Fused {
        Err(layer.into())
    }

    /// What makes outputs of the hidden states; without it they are the outputs.
    fn output_map(&self) -> Option<&Linear> {
        None
    }

    /// The width of one input step.
    fn d_input(&self) -> usize {
        self.weights().d_input()
    }

    /// The width of a gate.
    fn d_hidden(&self) -> usize {
        self.weights().d_hidden()
    }

    /// The width of one output step.
    fn d_output(&self) -> usize {
        match self.output_map() {
            Some(map) => map.weight.dims()[1],
            None => self.weights().d_output(),
        }
    }

    /// The state before a sequence begins, for `batch` sequences: zeros.
    fn initial_state(&self, batch: usize, device: &Device) -> Self::State {
        let weights = self.weights();
        let options = (device, weights.weight_ih.dtype());
        let memory = Self::State::MEMORY;
        let cell = memory.then(|| Tensor::zeros([batch, weights.d_hidden()], options));
        Self::State::from_parts(Tensor::zeros([batch, weights.d_output()], options), cell)
    }

    /// Runs a whole sequence from `state`: `[batch, time, d_input]` to `[batch, time, d_output]`,
    /// and the state after the last step. With `reverse`, from each sequence's last step to its
    /// first.
    ///
    /// # Panics
    ///
    /// When `x` or the state does not have the cell's widths, there is no step, or `lengths` does
    /// not fit.
    fn sequence(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        reverse: bool,
        state: Self::State,
    ) -> (Tensor<3>, Self::State) {
        let [batch, _, width] = x.dims();
        Lengths::check_input(lengths, x.dims());
        check(self, &x.dims(), [batch, width], &state);
        match by_kernel(self, x, lengths, reverse, state) {
            Ok((y, state)) => (map_outputs(self, y, lengths), state),
            Err(undone) => {
                let (x, state) = *undone;
                self.reference(x, lengths, reverse, state)
            }
        }
    }

    /// The specification of [`sequence`](Self::sequence), in plain tensor operations; what the fused
    /// kernels are compared with.
    fn reference(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        reverse: bool,
        state: Self::State,
    ) -> (Tensor<3>, Self::State) {
        let [batch, time, width] = x.dims();
        // What the padding holds, NaN perhaps, must not reach the gradient of the weights.
        let x = lengths.map_or(x.clone(), |lengths| lengths.clear(x));
        let inputs = self.weights().project(x.reshape([batch * time, width]));
        let [_, gates] = inputs.dims();
        let inputs = inputs.reshape([batch, time, gates]);
        let step = self.stepper(batch);
        let (y, state) = unroll(inputs, lengths, reverse, state, |x, state| {
            let state = step(x, state);
            (state.hidden().clone(), state)
        });
        (map_outputs(self, y, lengths), state)
    }

    /// Runs one step: `[batch, d_input]` to `[batch, d_output]`, and the next state.
    ///
    /// # Panics
    ///
    /// When `x` or the state does not have the cell's widths.
    fn step(&self, x: Tensor<2>, state: Self::State) -> (Tensor<2>, Self::State) {
        check(self, &x.dims(), x.dims(), &state);
        let state = match by_kernel(self, x.unsqueeze_dim(1), None, false, state) {
            Ok((_, state)) => state,
            Err(undone) => {
                let (x, state) = *undone;
                let inputs = self.weights().project(x.squeeze_dim(1));
                let [batch, _] = inputs.dims();
                self.stepper(batch)(inputs, state)
            }
        };
        let hidden = state.hidden().clone();
        match self.output_map() {
            Some(map) => (map.forward(hidden), state),
            None => (hidden, state),
        }
    }
}

/// A sequence and a state: inputs and the first one, or outputs and the last one.
type Ends<S> = (Tensor<3>, S);

/// By the fused kernel, or the arguments again.
fn by_kernel<C: RecurrentCell>(
    cell: &C,
    x: Tensor<3>,
    lengths: Option<&Lengths>,
    reverse: bool,
    state: C::State,
) -> Result<Ends<C::State>, Box<Ends<C::State>>> {
    let weights = cell.weights();
    if !weights.are_plain() {
        return Err(Box::new((x, state)));
    }
    let layer = weights.recurrence(x, state);
    match cell.fused(layer, lengths, reverse) {
        Ok((y, hidden, memory)) => Ok((y, C::State::from_parts(hidden, memory))),
        Err(layer) => {
            let state = C::State::from_parts(layer.hidden, layer.cell);
            Err(Box::new((layer.x, state)))
        }
    }
}

fn map_outputs<C: RecurrentCell>(
    cell: &C,
    hidden: Tensor<3>,
    lengths: Option<&Lengths>,
) -> Tensor<3> {
    let Some(map) = cell.output_map() else {
        return hidden;
    };
    let y = map.forward(hidden);
    // A bias has no place in the padding.
    lengths.map_or(y.clone(), |lengths| lengths.clear(y))
}

fn check<C: RecurrentCell>(cell: &C, x: &[usize], [batch, width]: [usize; 2], state: &C::State) {
    let weights = cell.weights();
    assert_eq!(
        width,
        weights.d_input(),
        "the input {x:?} does not have the width {} of the layer",
        weights.d_input()
    );
    let states = [
        ("hidden", Some(state.hidden()), weights.d_output()),
        ("cell", state.memory(), weights.d_hidden()),
    ];
    for (name, tensor, width) in states {
        let Some(tensor) = tensor else { continue };
        assert_eq!(
            tensor.dims(),
            [batch, width],
            "the {name} state {:?} does not fit the input {x:?}: expected {:?}",
            tensor.dims(),
            [batch, width]
        );
    }
}

/// A recurrent layer: cells over one another, in one direction or in both.
///
/// Use it through [`SequenceLayer`]: `forward` for whole sequences, `step` for streams.
///
/// ```
/// # use burn::module::Module;
/// # use seq_core::recurrent::{CellWeights, HiddenState, RecurrentCell, WeightsConfig};
/// # #[derive(Module, Debug)]
/// # struct Leaky {
/// #     weights: CellWeights,
/// # }
/// # impl RecurrentCell for Leaky {
/// #     type State = HiddenState;
/// #     fn weights(&self) -> &CellWeights {
/// #         &self.weights
/// #     }
/// #     fn stepper(&self, batch: usize) -> impl Fn(Tensor<2>, HiddenState) -> HiddenState {
/// #         let product = self.weights.recurrent(batch);
/// #         move |x, HiddenState { hidden }| HiddenState {
/// #             hidden: (hidden.clone() + (x + product.all(hidden)).tanh()) / 2.0,
/// #         }
/// #     }
/// # }
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::Recurrent;
/// use seq_core::{Lengths, SequenceLayer};
///
/// # #[cfg(feature = "ndarray")] {
/// // `Leaky` is the cell of the example of `RecurrentCell`.
/// let device = seq_core::device();
/// let cell = |d_input| Leaky { weights: WeightsConfig::new(&[1], d_input, 4).init(&device) };
/// let layer = Recurrent::from([cell(3), cell(3)]);
/// let x = Tensor::ones([2, 5, 3], &device);
/// let (y, _state) = layer.forward_padded(x, &Lengths::new([5, 2]), None);
/// assert_eq!(y.dims(), [2, 5, 8]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Recurrent<C: Module> {
    /// In PyTorch's order: layer 0 forward, layer 0 backward, layer 1 forward, and so on.
    pub cells: Vec<C>,
    /// Between two layers, while training.
    pub dropout: Dropout,
    /// Whether every layer reads both ways; the next one then sees both outputs side by side.
    #[module(skip)]
    pub bidirectional: bool,
    /// Whether the one direction runs from the end of the sequence.
    #[module(skip)]
    pub reverse: bool,
}

/// One layer in one direction.
impl<C: RecurrentCell> From<C> for Recurrent<C> {
    fn from(cell: C) -> Self {
        Self {
            cells: vec![cell],
            dropout: DropoutConfig::new(0.0).init(),
            bidirectional: false,
            reverse: false,
        }
    }
}

/// One layer that reads both ways, the first cell from the start and the second from the end.
impl<C: RecurrentCell> From<[C; 2]> for Recurrent<C> {
    fn from(cells: [C; 2]) -> Self {
        Self {
            cells: cells.into(),
            dropout: DropoutConfig::new(0.0).init(),
            bidirectional: true,
            reverse: false,
        }
    }
}

impl<C: RecurrentCell> Recurrent<C> {
    /// Puts cells together, in PyTorch's order.
    pub(super) fn new(cells: Vec<C>, options: &LayerOptions) -> Self {
        Self {
            cells,
            dropout: DropoutConfig::new(options.dropout).init(),
            bidirectional: options.bidirectional,
            reverse: options.reverse,
        }
    }

    /// The options it was made with.
    pub(super) fn options(&self) -> LayerOptions {
        let first = &self.cells[0];
        LayerOptions {
            d_input: first.d_input(),
            d_between: first.d_output(),
            num_layers: self.cells.len() / self.directions(),
            bidirectional: self.bidirectional,
            reverse: self.reverse,
            dropout: self.dropout.prob,
        }
    }

    fn directions(&self) -> usize {
        if self.bidirectional { 2 } else { 1 }
    }

    /// As [`forward`](SequenceLayer::forward), time first: `[time, batch, d_input]` to
    /// `[time, batch, d_output]`, the layout of PyTorch's `batch_first=False`.
    pub fn forward_time_major(
        &self,
        x: Tensor<3>,
        state: Option<RecurrentState<C::State>>,
    ) -> (Tensor<3>, RecurrentState<C::State>) {
        let (y, state) = self.run(x.swap_dims(0, 1), None, state);
        (y.swap_dims(0, 1), state)
    }

    /// As [`forward_padded`](SequenceLayer::forward_padded), time first: what PyTorch makes of a
    /// sequence packed with `batch_first=False`.
    pub fn forward_padded_time_major(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<RecurrentState<C::State>>,
    ) -> (Tensor<3>, RecurrentState<C::State>) {
        let (y, state) = self.run(x.swap_dims(0, 1), Some(lengths), state);
        (y.swap_dims(0, 1), state)
    }

    /// The specification of [`forward`](SequenceLayer::forward) and
    /// [`forward_padded`](SequenceLayer::forward_padded): every cell by its
    /// [`reference`](RecurrentCell::reference) body.
    ///
    /// # Panics
    ///
    /// As those.
    pub fn reference(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: RecurrentState<C::State>,
    ) -> (Tensor<3>, RecurrentState<C::State>) {
        self.walk(x, state, |cell, x, reverse, state| {
            cell.reference(x, lengths, reverse, state)
        })
    }

    fn run(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<RecurrentState<C::State>>,
    ) -> (Tensor<3>, RecurrentState<C::State>) {
        let state = state.unwrap_or_else(|| self.initial_state(x.dims()[0], &x.device()));
        self.walk(x, state, |cell, x, reverse, state| {
            cell.sequence(x, lengths, reverse, state)
        })
    }

    /// Runs a whole sequence through all layers, every cell by `sequence`.
    fn walk(
        &self,
        mut x: Tensor<3>,
        state: RecurrentState<C::State>,
        sequence: impl Fn(&C, Tensor<3>, bool, C::State) -> (Tensor<3>, C::State),
    ) -> (Tensor<3>, RecurrentState<C::State>) {
        self.check(&state);
        let mut states = state.cells.into_iter();
        let mut cells = Vec::with_capacity(self.cells.len());
        for (index, layer) in self.cells.chunks(self.directions()).enumerate() {
            if index > 0 {
                x = self.dropout.forward(x);
            }
            let mut outputs = Vec::with_capacity(self.directions());
            for (direction, (cell, state)) in layer.iter().zip(states.by_ref()).enumerate() {
                let reverse = self.reverse != (direction == 1);
                let (y, state) = sequence(cell, x.clone(), reverse, state);
                outputs.push(y);
                cells.push(state);
            }
            x = match outputs.len() {
                1 => outputs.remove(0),
                _ => Tensor::cat(outputs, 2),
            };
        }
        (x, RecurrentState { cells })
    }

    fn check(&self, state: &RecurrentState<C::State>) {
        assert_eq!(
            state.cells.len(),
            self.cells.len(),
            "a state of {} layers and directions was given to a layer of {}",
            state.cells.len(),
            self.cells.len()
        );
    }
}

impl<C: RecurrentCell> SequenceLayer for Recurrent<C> {
    type State = RecurrentState<C::State>;

    fn d_input(&self) -> usize {
        self.cells[0].d_input()
    }

    fn d_output(&self) -> usize {
        self.cells[self.cells.len() - 1].d_output() * self.directions()
    }

    fn initial_state(&self, batch: usize, device: &Device) -> Self::State {
        let state = |cell: &C| cell.initial_state(batch, device);
        RecurrentState {
            cells: self.cells.iter().map(state).collect(),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<Self::State>) -> (Tensor<3>, Self::State) {
        self.run(x, None, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<Self::State>,
    ) -> (Tensor<3>, Self::State) {
        self.run(x, Some(lengths), state)
    }

    /// Runs one step of a stream: `[batch, d_input]` to `[batch, d_output]`, and the next state.
    ///
    /// # Panics
    ///
    /// When the layer is bidirectional or reversed, which needs the end of the sequence first, or
    /// the widths do not fit.
    fn step(&self, mut x: Tensor<2>, state: Self::State) -> (Tensor<2>, Self::State) {
        assert!(
            !self.bidirectional && !self.reverse,
            "a layer that reads from the end of the sequence has no step"
        );
        self.check(&state);
        let mut cells = Vec::with_capacity(self.cells.len());
        for (index, (cell, state)) in self.cells.iter().zip(state.cells).enumerate() {
            if index > 0 {
                x = self.dropout.forward(x);
            }
            let (y, state) = cell.step(x, state);
            x = y;
            cells.push(state);
        }
        (x, RecurrentState { cells })
    }
}
