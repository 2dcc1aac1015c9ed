use burn::module::Module;
use burn::nn::{Dropout, Linear};
use burn::tensor::Tensor;
use seq_core::{PackedWeights, linear_packed};

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
    /// The weights of `input`, `gate` and `output` as the CPU kernels read them.
    #[module(skip)]
    pub packed: [PackedWeights; 3],
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
        let [to_input, to_gate, to_output] = &self.packed;
        let map = |layer: &Linear, x, packed| {
            let bias = layer.bias.as_ref().map(|bias| bias.val());
            linear_packed(x, layer.weight.val(), bias, packed)
        };
        let hidden = match &self.gate {
            Some(gate) => {
                let gate = map(gate, x.clone(), to_gate);
                let up = map(&self.input, x, to_input);
                self.activation.forward_gated(gate, up)
            }
            None => self.activation.forward(map(&self.input, x, to_input)),
        };
        map(&self.output, self.dropout.forward(hidden), to_output)
    }
}
