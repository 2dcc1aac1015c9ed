use burn::module::Module;
use burn::nn::{Dropout, Linear};
use burn::tensor::Tensor;
use seq_core::linear;

use super::Activation;

/// The feed-forward layer of a Transformer (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>, section
/// 3.3), made by [`FeedForwardConfig`](super::FeedForwardConfig), of every step by itself:
///
/// ```text
/// y = output(dropout(act(input(x))))
/// y = output(dropout(act(gate(x)) * input(x)))    with a gate (Shazeer 2020, https://arxiv.org/abs/2002.05202)
/// ```
///
/// In PyTorch's `TransformerEncoderLayer`, `input` and `output` are `linear1` and `linear2`; in Llama, `gate`,
/// `input` and `output` are `gate_proj`, `up_proj` and `down_proj`.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_transformer::FeedForwardConfig;
///
/// let device = seq_transformer::device();
/// let layer = FeedForwardConfig::new(16, 64).init(&device);
/// let y = layer.forward(Tensor::<3>::ones([2, 10, 16], &device));
/// assert_eq!(y.dims(), [2, 10, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct FeedForward {
    /// `[d_model, d_hidden]`
    pub input: Linear,
    /// `[d_model, d_hidden]`, what the activation is applied to if it is there.
    pub gate: Option<Linear>,
    /// `[d_hidden, d_model]`
    pub output: Linear,
    /// Of the hidden layer, in training.
    pub dropout: Dropout,
    /// The nonlinearity.
    #[module(skip)]
    pub activation: Activation,
}

impl FeedForward {
    /// The width of one step.
    pub fn d_model(&self) -> usize {
        self.input.weight.dims()[0]
    }

    /// `[.., d_model]` to the same shape.
    ///
    /// # Panics
    ///
    /// When `x` has another width, naming both.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let map = |layer: &Linear, x| {
            let bias = layer.bias.as_ref().map(|bias| bias.val());
            linear(x, layer.weight.val(), bias)
        };
        let hidden = match &self.gate {
            Some(gate) => {
                let gate = map(gate, x.clone());
                self.activation.forward_gated(gate, map(&self.input, x))
            }
            None => self.activation.forward(map(&self.input, x)),
        };
        map(&self.output, self.dropout.forward(hidden))
    }
}
