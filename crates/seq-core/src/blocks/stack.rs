use burn::module::{Module, ModuleDisplay, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};

use super::Norm;
use crate::{Lengths, SequenceLayer, linear};

/// Layers of one kind, one after the other; before the first of them a linear map, and after the last
/// one a norm, where there are such.
///
/// ```
/// # use burn::module::ModuleDisplay;
/// # use burn::tensor::Tensor;
/// use seq_core::SequenceLayer;
/// use seq_core::blocks::Stack;
///
/// /// Works with any layer.
/// fn deep<L: SequenceLayer + ModuleDisplay>(layers: Vec<L>, x: Tensor<3>) -> Tensor<3> {
///     Stack::new(layers).forward(x, None).0
/// }
/// ```
#[derive(Module, Debug)]
pub struct Stack<L: Module> {
    /// From the width of the input to that of the first layer.
    pub input: Option<Linear>,
    /// In the order in which they run.
    pub layers: Vec<L>,
    /// Of the outputs of the last layer, as blocks that begin with a norm need it.
    pub norm: Option<Norm>,
}

impl<L: SequenceLayer + ModuleDisplay> Stack<L> {
    /// Joins layers, each as wide as the one before it gives.
    ///
    /// # Panics
    ///
    /// When there is no layer, or two do not fit one another.
    pub fn new(layers: Vec<L>) -> Self {
        assert!(!layers.is_empty(), "a stack needs at least one layer");
        for (index, pair) in layers.windows(2).enumerate() {
            let (found, expected) = (pair[1].d_input(), pair[0].d_output());
            assert_eq!(
                found,
                expected,
                "layer {} has d_input {found}, the one before it d_output {expected}",
                index + 1
            );
        }
        Self {
            input: None,
            layers,
            norm: None,
        }
    }

    /// Maps the inputs to the width of the first layer.
    ///
    /// # Panics
    ///
    /// When the map has another width.
    pub fn with_input(self, input: Linear) -> Self {
        let (found, expected) = (input.weight.dims()[1], self.layers[0].d_input());
        assert_eq!(
            found, expected,
            "the map gives a width of {found}, the first layer has d_input {expected}"
        );
        Self {
            input: Some(input),
            ..self
        }
    }

    /// Normalises the outputs.
    ///
    /// # Panics
    ///
    /// When the norm has another width.
    pub fn with_norm(self, norm: impl Into<Norm>) -> Self {
        let norm = norm.into();
        let (found, expected) = (norm.width(), self.d_output());
        assert_eq!(
            found, expected,
            "the norm has a width of {found}, the last layer d_output {expected}"
        );
        Self {
            norm: Some(norm),
            ..self
        }
    }

    fn run(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<Vec<L::State>>,
    ) -> (Tensor<3>, Vec<L::State>) {
        let clear = |x| match lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        };
        let mut before = self.take(state);
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let mut y = match &self.input {
            Some(input) => project(input, clear(x)),
            None => x,
        };
        let mut after = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let (next, state) = match lengths {
                Some(lengths) => layer.forward_padded(y, lengths, before.next()),
                None => layer.forward(y, before.next()),
            };
            y = next;
            after.push(state);
        }
        let y = match &self.norm {
            Some(norm) => clear(norm.forward(y)),
            None => y,
        };
        (y, after)
    }

    /// The states of the layers, if there are any.
    fn take(&self, state: Option<Vec<L::State>>) -> std::vec::IntoIter<L::State> {
        let Some(state) = state else {
            return Vec::new().into_iter();
        };
        let (found, expected) = (state.len(), self.layers.len());
        assert_eq!(
            found, expected,
            "the state is of {found} layers, the stack has {expected}"
        );
        state.into_iter()
    }
}

fn project<const D: usize>(map: &Linear, x: Tensor<D>) -> Tensor<D> {
    let bias = map.bias.as_ref().map(Param::val);
    linear(x, map.weight.val(), bias)
}

impl<L: SequenceLayer + ModuleDisplay> SequenceLayer for Stack<L> {
    type State = Vec<L::State>;

    fn d_input(&self) -> usize {
        match &self.input {
            Some(input) => input.weight.dims()[0],
            None => self.layers[0].d_input(),
        }
    }

    fn d_output(&self) -> usize {
        self.layers[self.layers.len() - 1].d_output()
    }

    fn initial_state(&self, batch: usize, device: &Device) -> Self::State {
        let initial = |layer: &L| layer.initial_state(batch, device);
        self.layers.iter().map(initial).collect()
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

    fn step(&self, x: Tensor<2>, state: Self::State) -> (Tensor<2>, Self::State) {
        let mut before = self.take(Some(state));
        let mut y = match &self.input {
            Some(input) => project(input, x),
            None => x,
        };
        let mut after = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            let state = before.next().expect("a state for each layer");
            let (next, state) = layer.step(y, state);
            y = next;
            after.push(state);
        }
        let y = match &self.norm {
            Some(norm) => norm.forward(y),
            None => y,
        };
        (y, after)
    }
}
