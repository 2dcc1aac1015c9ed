//! The gradient of [`LinearOps`], as one node of Burn's graph.

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, TensorMetadata};
use burn::tensor::{DType, Element};

use super::ops::{LinearOps, Side};
use crate::autodiff::{Gradient, Maybe, track};
use crate::cpu::{CpuTensor, Matrix, Real, product_of};

impl<B: LinearOps, C: CheckpointStrategy> LinearOps for Autodiff<B, C>
where
    FloatTensor<B>: CpuTensor,
{
    fn linear_map(
        x: FloatTensor<Self>,
        weight: FloatTensor<Self>,
        bias: Maybe<Self>,
        side: Side,
    ) -> FloatTensor<Self> {
        let transposed = side.transposed;
        let parents = [Maybe::Some(x), Maybe::Some(weight), bias];
        let run = |parents, keep| {
            let (x, weight, bias) = gather(parents);
            let packed = match (side.packed, keep) {
                (Some(packed), true) => {
                    // The weights are about to change.
                    packed.clear();
                    None
                }
                (packed, _) => packed,
            };
            let side = Side { packed, ..side };
            ([B::linear_map(x, weight, bias, side)], Some(()))
        };
        let [y] = track::<B, C, _, 3, 1>(LinearGradient { transposed }, parents, run);
        y
    }
}

fn gather<B: Backend>(parents: [Maybe<B>; 3]) -> (FloatTensor<B>, FloatTensor<B>, Maybe<B>) {
    let [Maybe::Some(x), Maybe::Some(weight), bias] = parents else {
        unreachable!("the parents are those that were given")
    };
    (x, weight, bias)
}

#[derive(Debug, Clone)]
struct LinearGradient {
    transposed: bool,
}

impl<B: Backend> Gradient<B, 3, 1> for LinearGradient
where
    FloatTensor<B>: CpuTensor,
{
    type Kept = ();

    fn needed(&self) -> [bool; 3] {
        [true, true, false]
    }

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
        let (x, weight, _) = gather(inputs);
        match x.dtype() {
            DType::F64 => backward_in::<B, f64>(&x, &weight, &y, self.transposed, wanted),
            _ => backward_in::<B, f32>(&x, &weight, &y, self.transposed, wanted),
        }
    }
}

/// The gradients of x, the weight and the bias, given that of y.
fn backward_in<B: Backend, R: Real + Element>(
    x: &FloatTensor<B>,
    weight: &FloatTensor<B>,
    y: &FloatTensor<B>,
    transposed: bool,
    wanted: [bool; 3],
) -> [Option<FloatTensor<B>>; 3]
where
    FloatTensor<B>: CpuTensor,
{
    let [height, width] = weight.shape().dims();
    let [d_input, d_output] = match transposed {
        true => [width, height],
        false => [height, width],
    };
    let gradient = y.elements::<R>();
    let rows = gradient.len() / d_output.max(1);
    let dy = Matrix::rows(&gradient, d_output);
    let dx = || {
        let elements = weight.elements();
        let matrix = Matrix::rows(&elements, width);
        let matrix = match transposed {
            true => matrix,
            false => matrix.transposed(),
        };
        let dx = product_of([rows, d_output, d_input], dy, matrix, None);
        FloatTensor::<B>::from_vec(dx, &x.shape())
    };
    let dweight = || {
        let elements = x.elements();
        let x = Matrix::rows(&elements, d_input);
        let (left, right) = match transposed {
            true => (dy.transposed(), x),
            false => (x.transposed(), dy),
        };
        let dweight = product_of([height, rows, width], left, right, None);
        FloatTensor::<B>::from_vec(dweight, &weight.shape())
    };
    let dbias = || {
        // Every gradient once: as fast as the memory gives them.
        let ones = vec![R::ONE; rows];
        let dbias = product_of([1, rows, d_output], Matrix::rows(&ones, rows), dy, None);
        FloatTensor::<B>::from_vec(dbias, &[d_output])
    };
    let [x_wanted, weight_wanted, bias_wanted] = wanted;
    [
        x_wanted.then(dx),
        weight_wanted.then(dweight),
        bias_wanted.then(dbias),
    ]
}
