use burn::module::Module;
use burn::tensor::{Device, Tensor};

use crate::{Lengths, SequenceState};

/// A layer that maps a sequence to a sequence and carries what it remembers explicitly.
///
/// Every architecture of the workspace implements this trait, in its parallel form
/// ([`forward`](Self::forward), for training and for prompts) and in its recurrent form
/// ([`step`](Self::step), for streams). The two are equal: `forward` gives what `step` repeated
/// gives, and what `forward` over any split of the sequence gives when the state is handed on.
/// The layer is causal: `y[t]` depends on `x[..=t]` and the initial state alone.
///
/// ```
/// use burn::tensor::Tensor;
/// use seq_core::SequenceLayer;
///
/// /// Works with any architecture: the parallel form for the prompt, then one step.
/// fn continue_from<L: SequenceLayer>(layer: &L, prompt: Tensor<3>, next: Tensor<2>) -> Tensor<2> {
///     let (_, state) = layer.forward(prompt, None);
///     layer.step(next, state).0
/// }
/// ```
pub trait SequenceLayer: Module {
    /// What the layer remembers between two calls.
    type State: SequenceState;

    /// The width of one input step.
    fn d_input(&self) -> usize;

    /// The width of one output step.
    fn d_output(&self) -> usize;

    /// The state before a sequence begins, for `batch` sequences.
    fn initial_state(&self, batch: usize, device: &Device) -> Self::State;

    /// Runs a whole sequence: `[batch, time, d_input]` to `[batch, time, d_output]`, and the state
    /// after the last step. Without a `state` the sequence begins at
    /// [`initial_state`](Self::initial_state).
    ///
    /// # Panics
    ///
    /// When the width of `x` is not `d_input`, or the batch of `state` is not that of `x`.
    fn forward(&self, x: Tensor<3>, state: Option<Self::State>) -> (Tensor<3>, Self::State);

    /// Runs sequences of different lengths, padded at the end to the same time.
    ///
    /// Each sequence gives what it gives alone; the output beyond its end is zero, what `x` holds
    /// there has no influence and gets no gradient, and its state is the one at its own end.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), and when `lengths` does not fit the batch and time of `x`.
    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<Self::State>,
    ) -> (Tensor<3>, Self::State);

    /// Runs one step of a stream: `[batch, d_input]` to `[batch, d_output]`, and the next state.
    ///
    /// # Panics
    ///
    /// When the width of `x` is not `d_input`, or the batch of `state` is not that of `x`.
    fn step(&self, x: Tensor<2>, state: Self::State) -> (Tensor<2>, Self::State);
}

/// Two layers over one sequence, one reading it from the start and one from the end.
///
/// Its output at each step is `[forward, backward]` side by side, `d_output` of both added up.
/// It needs the whole sequence, so it has no `step`.
///
/// ```
/// # use burn::tensor::{Device, Tensor};
/// # use seq_core::{Bidirectional, SequenceLayer};
/// fn read_both_ways<L: SequenceLayer>(there: L, back: L, x: Tensor<3>) -> Tensor<3> {
///     Bidirectional::new(there, back).forward(x, None).0
/// }
/// ```
#[derive(Module, Debug)]
pub struct Bidirectional<L: Module> {
    /// Reads from the first step to the last.
    pub forward: L,
    /// Reads from the last step to the first.
    pub backward: L,
}

impl<L: SequenceLayer> Bidirectional<L> {
    /// Joins two layers of the same `d_input`.
    ///
    /// # Panics
    ///
    /// When the layers expect inputs of different widths.
    pub fn new(forward: L, backward: L) -> Self {
        let (there, back) = (forward.d_input(), backward.d_input());
        assert_eq!(
            there, back,
            "both directions read the same input: d_input {there} and {back}"
        );
        Self { forward, backward }
    }

    /// Runs a whole sequence: `[batch, time, d_input]` to
    /// `[batch, time, forward.d_output + backward.d_output]`.
    ///
    /// The second state of the pair belongs to the backward layer: it starts it at the end of the
    /// sequence, and comes back as it is at the first step.
    pub fn forward(
        &self,
        x: Tensor<3>,
        state: Option<(L::State, L::State)>,
    ) -> (Tensor<3>, (L::State, L::State)) {
        let (there, back) = state.unzip();
        let (y, there) = self.forward.forward(x.clone(), there);
        let (reversed, back) = self.backward.forward(x.flip([1]), back);
        (Tensor::cat(vec![y, reversed.flip([1])], 2), (there, back))
    }

    /// As [`forward`](Self::forward), for sequences of different lengths padded at the end; the
    /// backward layer begins at each sequence's own last step.
    pub fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<(L::State, L::State)>,
    ) -> (Tensor<3>, (L::State, L::State)) {
        let (there, back) = state.unzip();
        let (y, there) = self.forward.forward_padded(x.clone(), lengths, there);
        let (reversed, back) = self
            .backward
            .forward_padded(lengths.reverse(x), lengths, back);
        (
            Tensor::cat(vec![y, lengths.reverse(reversed)], 2),
            (there, back),
        )
    }
}
