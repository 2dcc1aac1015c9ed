use burn::module::{Module, ModuleDisplay};
use burn::tensor::{Device, Tensor};

use super::Norm;
use crate::{Lengths, SequenceLayer};

/// A layer inside a residual connection, its inputs normalised: `y = x + layer(norm(x))`.
///
/// Its state is that of the layer.
///
/// ```
/// # use burn::module::ModuleDisplay;
/// # use burn::tensor::Tensor;
/// use burn::nn::RmsNormConfig;
/// use seq_core::SequenceLayer;
/// use seq_core::blocks::{Residual, Stack};
///
/// /// Works with any layer that is as wide as its input.
/// fn deep<L: SequenceLayer + ModuleDisplay>(layers: Vec<L>, x: Tensor<3>) -> Tensor<3> {
///     let norm = || RmsNormConfig::new(x.dims()[2]).init(&x.device());
///     let layers = layers.into_iter();
///     let blocks = layers.map(|layer| Residual::new(norm(), layer)).collect();
///     Stack::new(blocks).with_norm(norm()).forward(x, None).0
/// }
/// ```
#[derive(Module, Debug)]
pub struct Residual<L: Module> {
    /// Of the inputs of the layer.
    pub norm: Norm,
    /// From a width to the same one.
    pub layer: L,
}

impl<L: SequenceLayer + ModuleDisplay> Residual<L> {
    /// Puts a norm before a layer, and the connection around both.
    ///
    /// # Panics
    ///
    /// When the norm, the layer's input and its output are not of one width.
    pub fn new(norm: impl Into<Norm>, layer: L) -> Self {
        let norm = norm.into();
        let widths = [norm.width(), layer.d_input(), layer.d_output()];
        assert!(
            widths.iter().all(|&width| width == widths[0]),
            "a residual connection needs one width: norm, d_input and d_output are {widths:?}"
        );
        Self { norm, layer }
    }
}

impl<L: SequenceLayer + ModuleDisplay> SequenceLayer for Residual<L> {
    type State = L::State;

    fn d_input(&self) -> usize {
        self.layer.d_input()
    }

    fn d_output(&self) -> usize {
        self.layer.d_output()
    }

    fn initial_state(&self, batch: usize, device: &Device) -> L::State {
        self.layer.initial_state(batch, device)
    }

    fn forward(&self, x: Tensor<3>, state: Option<L::State>) -> (Tensor<3>, L::State) {
        let (y, state) = self.layer.forward(self.norm.forward(x.clone()), state);
        (x + y, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<L::State>,
    ) -> (Tensor<3>, L::State) {
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let x = lengths.clear(x);
        let normed = self.norm.forward(x.clone());
        let (y, state) = self.layer.forward_padded(normed, lengths, state);
        (x + y, state)
    }

    fn step(&self, x: Tensor<2>, state: L::State) -> (Tensor<2>, L::State) {
        let (y, state) = self.layer.step(self.norm.forward(x.clone()), state);
        (x + y, state)
    }
}
