//! The long convolution as Burn dispatches it.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, TensorMetadata, backend_extension};
use burn::tensor::{DType, Element, Tensor};

use super::cpu::{self, Problem, Transformed};
use crate::autodiff::Maybe;
use crate::cpu::{CpuTensor, Slice};

/// Whether the kernels run on these tensors.
pub(super) fn has_kernel(x: &Tensor<3>, kernel: &Tensor<2>, ahead: Option<&Tensor<2>>) -> bool {
    let dtype = x.dtype();
    matches!(dtype, DType::F32 | DType::F64)
        && kernel.dtype() == dtype
        && ahead.is_none_or(|ahead| ahead.dtype() == dtype)
        && crate::is_cpu(&x.device())
}

/// Runs a convolution that has kernels.
pub(super) fn run(x: Tensor<3>, kernel: Tensor<2>, ahead: Option<Tensor<2>>) -> Tensor<3> {
    let ahead = ahead.map(Tensor::into_dispatch).into();
    let y = Dispatch::long_convolution(x.into_dispatch(), kernel.into_dispatch(), ahead);
    Tensor::from_dispatch(y)
}

/// The operation; backends without kernels are never asked, as the functions look first.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"), Autodiff)]
pub trait LongConvolutionOps: Backend {
    fn long_convolution(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        #[extension_type] ahead: Maybe<Self>,
    ) -> FloatTensor<Self>;
}

#[cfg(feature = "ndarray")]
impl LongConvolutionOps for burn::backend::NdArray {
    fn long_convolution(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        ahead: Maybe<Self>,
    ) -> FloatTensor<Self> {
        run_on::<Self>(&x, &kernel, &ahead)
    }
}

#[cfg(feature = "flex")]
impl LongConvolutionOps for burn::backend::Flex {
    fn long_convolution(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        ahead: Maybe<Self>,
    ) -> FloatTensor<Self> {
        run_on::<Self>(&x, &kernel, &ahead)
    }
}

fn run_on<B: Backend>(
    x: &FloatTensor<B>,
    kernel: &FloatTensor<B>,
    ahead: &Maybe<B>,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    match x.dtype() {
        DType::F64 => run_in::<B, f64>(x, kernel, ahead),
        _ => run_in::<B, f32>(x, kernel, ahead),
    }
}

fn run_in<B: Backend, R: Transformed + Element>(
    x: &FloatTensor<B>,
    kernel: &FloatTensor<B>,
    ahead: &Maybe<B>,
) -> FloatTensor<B>
where
    FloatTensor<B>: CpuTensor,
{
    let slices = Slices::<R>::of::<B>(x, kernel, ahead);
    let y = cpu::forward(&slices.problem(x.shape().dims()));
    FloatTensor::<B>::from_vec(y, &x.shape())
}

/// The elements of all inputs.
pub(super) struct Slices<'a, R: Transformed> {
    x: Slice<'a, R>,
    kernel: Slice<'a, R>,
    ahead: Option<Slice<'a, R>>,
}

impl<'a, R: Transformed + Element> Slices<'a, R> {
    pub fn of<B: Backend>(
        x: &'a FloatTensor<B>,
        kernel: &'a FloatTensor<B>,
        ahead: &'a Maybe<B>,
    ) -> Self
    where
        FloatTensor<B>: CpuTensor,
    {
        Self {
            x: x.elements(),
            kernel: kernel.elements(),
            ahead: ahead.elements(),
        }
    }

    pub fn problem(&self, [batch, time, width]: [usize; 3]) -> Problem<'_, R> {
        Problem {
            batch,
            time,
            width,
            x: &self.x,
            kernel: &self.kernel,
            ahead: self.ahead.as_deref(),
        }
    }
}
