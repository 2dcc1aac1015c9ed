//! The short convolution of Mamba.

#[cfg(feature = "cpu-kernels")]
mod cpu;
#[cfg(feature = "cpu-kernels")]
mod gradient;
#[cfg(feature = "cpu-kernels")]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;
mod reference;

use burn::tensor::Tensor;

use crate::Lengths;

/// The depthwise causal convolution before the selective scan of Mamba (Gu and Dao 2023,
/// <https://arxiv.org/abs/2312.00752>, figure 3), as `causal_conv1d_fn` of the reference code, with
/// states, lengths and resets.
///
/// For every channel of width `d_conv`, where the inputs before the first step are those of the state:
///
/// ```text
/// y_t = silu(bias + sum_j weight_j x_{t - (d_conv - 1) + j})
/// ```
///
/// On CPU backends, in `f32` and `f64`, it runs by a fused kernel, forward and backward; elsewhere by
/// the [`reference`](Self::reference) body. One step of a stream is an input of time 1.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_core::convolution::CausalConv;
///
/// let device = seq_core::device();
/// // Batch 2, time 10, width 8, d_conv 4.
/// let x = Tensor::<3>::random([2, 10, 8], Distribution::Default, &device);
/// let conv = CausalConv {
///     bias: Some(Tensor::ones([8], &device)),
///     silu: true,
///     ..CausalConv::new(x, Tensor::ones([8, 4], &device))
/// };
/// let (y, state) = conv.run();
/// assert_eq!((y.dims(), state.dims()), ([2, 10, 8], [2, 8, 3]));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct CausalConv {
    /// The input, `[batch, time, width]`.
    pub x: Tensor<3>,
    /// The taps, `[width, d_conv]`; that of the newest step is the last.
    pub weight: Tensor<2>,
    /// Added to the sum, `[width]`.
    pub bias: Option<Tensor<1>>,
    /// Whether the output is the SiLU of the sum, as in Mamba. Off as in the reference code.
    pub silu: bool,
    /// The inputs before the first step, oldest first, `[batch, width, d_conv - 1]`; by default zeros.
    pub state: Option<Tensor<3>>,
    /// How long each sequence is. Beyond its end the output is zero, and the state is that of its own
    /// last steps.
    pub lengths: Option<Lengths>,
    /// Where a new sequence begins inside a row: a row of the batch for each row of `[batch][time]`. From
    /// such a step on the inputs before it count as zeros, in the outputs and in the last state.
    pub resets: Option<Vec<Vec<bool>>>,
}

impl CausalConv {
    /// A convolution without the optional parts, which begins at zero.
    pub fn new(x: Tensor<3>, weight: Tensor<2>) -> Self {
        Self {
            x,
            weight,
            bias: None,
            silu: false,
            state: None,
            lengths: None,
            resets: None,
        }
    }

    /// The outputs `[batch, time, width]`, and the last `d_conv - 1` inputs
    /// `[batch, width, d_conv - 1]`, oldest first, which are the state of what follows.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn run(self) -> (Tensor<3>, Tensor<3>) {
        self.check();
        #[cfg(feature = "cpu-kernels")]
        if ops::has_kernel(&self) {
            return ops::run(self);
        }
        reference::run(self)
    }

    /// The specification of [`run`](Self::run), in plain tensor operations; what the fused kernels are
    /// compared with.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn reference(self) -> (Tensor<3>, Tensor<3>) {
        self.check();
        reference::run(self)
    }

    fn check(&self) {
        let [batch, time, width] = self.x.dims();
        let [channels, d_conv] = self.weight.dims();
        Lengths::check_input(self.lengths.as_ref(), self.x.dims());
        let fits = |name: &str, found: &[usize], expected: &[usize]| {
            assert_eq!(
                found, expected,
                "{name} has shape {found:?}, the convolution of an input [{batch}, {time}, {width}] needs {expected:?}"
            );
        };
        assert!(
            d_conv > 0,
            "a convolution needs at least one tap, the weight has shape [{channels}, 0]"
        );
        fits("the weight", &[channels, d_conv], &[width, d_conv]);
        if let Some(bias) = &self.bias {
            fits("the bias", &bias.dims(), &[width]);
        }
        if let Some(state) = &self.state {
            fits("the state", &state.dims(), &[batch, width, d_conv - 1]);
        }
        if let Some(resets) = &self.resets {
            let lengths: Vec<usize> = resets.iter().map(Vec::len).collect();
            fits("resets", &lengths, &vec![time; batch]);
        }
    }
}
