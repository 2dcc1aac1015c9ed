//! The root mean square norm with a gate, which is around the scan of Mamba-2.

#[cfg(any(feature = "ndarray", feature = "flex"))]
mod cpu;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod gradient;
#[cfg(any(feature = "ndarray", feature = "flex"))]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;

#[cfg(any(feature = "ndarray", feature = "flex"))]
use burn::tensor::DType;
use burn::tensor::Tensor;

use crate::ssd::silu;

/// `norm(y * silu(z)) * weight`, or with the gate last `norm(y) * weight * silu(z)`, as `RMSNorm` with a
/// gate of the reference code; groups of neighbouring channels are normalised apart.
#[derive(Debug, Clone)]
pub(crate) struct GatedNorm {
    /// `[batch, time, width]`
    pub y: Tensor<3>,
    /// `[batch, time, width]`
    pub z: Tensor<3>,
    /// `[width]`
    pub weight: Tensor<1>,
    pub options: Options,
}

/// What a norm is besides its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// They divide the width.
    pub groups: usize,
    pub gate_last: bool,
    pub eps: f64,
}

impl GatedNorm {
    /// `[batch, time, width]`, by a fused kernel on CPU backends.
    pub fn run(self) -> Tensor<3> {
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        if self.has_kernel() {
            return ops::run(self);
        }
        self.reference()
    }

    /// The specification of [`run`](Self::run), in plain tensor operations.
    pub fn reference(self) -> Tensor<3> {
        let Self {
            y,
            z,
            weight,
            options,
        } = self;
        let [batch, time, width] = y.dims();
        let norm = |y: Tensor<3>| {
            let groups = options.groups;
            let y = y.reshape([batch, time, groups, width / groups]);
            let squares = y.clone().powi_scalar(2).mean_dim(3);
            let y = y / (squares + options.eps).sqrt();
            y.reshape([batch, time, width]) * weight.unsqueeze()
        };
        match options.gate_last {
            true => norm(y) * silu(z),
            false => norm(y * silu(z)),
        }
    }

    #[cfg(any(feature = "ndarray", feature = "flex"))]
    fn has_kernel(&self) -> bool {
        let dtype = self.y.dtype();
        seq_core::is_cpu(&self.y.device())
            && matches!(dtype, DType::F32 | DType::F64)
            && self.z.dtype() == dtype
            && self.weight.dtype() == dtype
    }
}
