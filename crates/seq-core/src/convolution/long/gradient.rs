//! The gradient of [`LongConvolutionOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Element};

use super::cpu::{Gradients, Transformed, backward};
use super::ops::{LongConvolutionOps, Slices};
use crate::autodiff::{Gradient, Maybe, track};
use crate::cpu::CpuTensor;

impl<B: LongConvolutionOps, C: CheckpointStrategy> LongConvolutionOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn long_convolution(
        x: FloatTensor<Self>,
        kernel: FloatTensor<Self>,
        ahead: Maybe<Self>,
    ) -> FloatTensor<Self> {
        let parents = [Maybe::Some(x), Maybe::Some(kernel), ahead];
        let [y] = track::<B, C, _, 3, 1>(LongGradient, parents, |parents, _| {
            let (x, kernel, ahead) = gather(parents);
            ([B::long_convolution(x, kernel, ahead)], Some(()))
        });
        y
    }
}

fn gather<B: Backend>(parents: [Maybe<B>; 3]) -> (FloatTensor<B>, FloatTensor<B>, Maybe<B>) {
    let [Maybe::Some(x), Maybe::Some(kernel), ahead] = parents else {
        unreachable!("the parents are those that were given")
    };
    (x, kernel, ahead)
}

#[derive(Debug, Clone)]
struct LongGradient;

impl<B: Backend> Gradient<B, 3, 1> for LongGradient
where
    FloatTensor<B>: CpuTensor,
{
    type Kept = ();

    fn backward(
        &self,
        inputs: [Maybe<B>; 3],
        (): (),
        [y]: [Option<FloatTensor<B>>; 1],
        wanted: [bool; 3],
    ) -> [Option<FloatTensor<B>>; 3] {
        let Some(y) = y else {
            return [None, None, None];
        };
        match y.dtype() {
            DType::F64 => backward_in::<B, f64>(inputs, &y, wanted),
            _ => backward_in::<B, f32>(inputs, &y, wanted),
        }
    }
}

fn backward_in<B: Backend, R: Transformed + Element>(
    inputs: [Maybe<B>; 3],
    y: &FloatTensor<B>,
    [x_wanted, kernel_wanted, ahead_wanted]: [bool; 3],
) -> [Option<FloatTensor<B>>; 3]
where
    FloatTensor<B>: CpuTensor,
{
    let (x, kernel, ahead) = gather(inputs);
    let slices = Slices::<R>::of::<B>(&x, &kernel, &ahead);
    let problem = slices.problem(x.shape().dims());
    let wanted = [x_wanted, kernel_wanted || ahead_wanted];
    let Gradients { x: dx, kernels } = backward(&problem, &y.elements::<R>(), wanted);
    let tensor =
        |values: Vec<R>, like: &FloatTensor<B>| FloatTensor::<B>::from_vec(values, &like.shape());
    let (dkernel, dahead) = match kernels {
        Some([kernel, ahead]) => (Some(kernel), Some(ahead)),
        None => (None, None),
    };
    let ahead = match (&ahead, dahead) {
        (Maybe::Some(like), Some(values)) => Some(tensor(values, like)),
        _ => None,
    };
    [
        dx.map(|values| tensor(values, &x)),
        dkernel.map(|values| tensor(values, &kernel)),
        ahead,
    ]
}
