use burn::module::Module;
use burn::nn::{Dropout, DropoutConfig, Linear, LinearConfig};
use burn::tensor::{Device, Tensor};

use crate::{Lengths, SequenceLayer};

/// Tells which class a sequence belongs to: a layer of any architecture, the mean of its outputs over
/// the sequence, and a linear head.
///
/// ```
/// use burn::nn::loss::CrossEntropyLossConfig;
/// use burn::tensor::{Int, Tensor};
/// use seq_core::models::Classifier;
/// use seq_core::{Lengths, SequenceLayer};
///
/// /// Works with any layer: the loss of sequences padded at the end.
/// fn loss<L: SequenceLayer>(
///     model: &Classifier<L>,
///     x: Tensor<3>,
///     lengths: &Lengths,
///     labels: Tensor<1, Int>,
/// ) -> Tensor<1> {
///     let logits = model.forward(x, lengths);
///     CrossEntropyLossConfig::new().init(&logits.device()).forward(logits, labels)
/// }
/// ```
#[derive(Module, Debug)]
pub struct Classifier<L: Module> {
    /// Reads the sequence.
    pub layer: L,
    /// On the mean of the outputs, while training.
    pub dropout: Dropout,
    /// From `d_output` to the logits.
    pub head: Linear,
}

impl<L: SequenceLayer> Classifier<L> {
    /// A model of `num_classes` classes with a fresh head and no dropout.
    pub fn new(num_classes: usize, layer: L, device: &Device) -> Self {
        Self {
            head: LinearConfig::new(layer.d_output(), num_classes).init(device),
            dropout: DropoutConfig::new(0.0).init(),
            layer,
        }
    }

    /// Sets the probability that a value is dropped while training.
    ///
    /// # Panics
    ///
    /// When it is not in `[0, 1]`.
    pub fn with_dropout(self, prob: f64) -> Self {
        let dropout = DropoutConfig::new(prob).init();
        Self { dropout, ..self }
    }

    /// The number of classes.
    pub fn num_classes(&self) -> usize {
        self.head.weight.dims()[1]
    }

    /// Sequences `[batch, time, d_input]`, padded at the end, to logits `[batch, num_classes]`. What
    /// the padding holds has no influence; a sequence of length zero gets what the head makes of zeros.
    ///
    /// # Panics
    ///
    /// As [`SequenceLayer::forward_padded`].
    pub fn forward(&self, x: Tensor<3>, lengths: &Lengths) -> Tensor<2> {
        let (y, _) = self.layer.forward_padded(x, lengths, None);
        let steps = lengths
            .as_slice()
            .iter()
            .map(|&length| length.max(1) as f32);
        let steps: Vec<f32> = steps.collect();
        let steps = Tensor::<1>::from_data(steps.as_slice(), (&y.device(), y.dtype()));
        // The outputs beyond the end are zeros.
        let sum = y.sum_dim(1).squeeze_dim::<2>(1);
        self.head
            .forward(self.dropout.forward(sum / steps.unsqueeze_dim(1)))
    }
}
