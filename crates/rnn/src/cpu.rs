//! The fused kernel: the pointwise mathematics of the cell in SIMD registers.

use burn::tensor::Tensor;
use seq_core::Lengths;
use seq_core::cpu::{Real, Simd};
use seq_core::recurrent::{
    Activation, Backward, Cell, Forward, Fused, Recurrence, State, Taken, clip_gradient, clip_lanes,
};

use crate::layer::RnnCell;
use crate::ops::known;

/// The options of a cell that reach into the pointwise mathematics.
#[derive(Debug, Clone)]
struct RnnKernel {
    activation: Activation,
    hidden_clip: Option<f64>,
}

/// As [`RnnKernel`], with elementwise recurrent weights.
#[derive(Debug, Clone)]
struct IndependentKernel(RnnKernel);

/// By the fused kernel, which leaves rare activations to the reference.
pub(crate) fn fused(
    cell: &RnnCell,
    layer: Recurrence,
    lengths: Option<&Lengths>,
    reverse: bool,
) -> Fused {
    let Some(activation) = known(cell) else {
        return Err(layer.into());
    };
    let kernel = RnnKernel {
        activation,
        hidden_clip: cell.hidden_clip,
    };
    if !cell.weights.is_elementwise() {
        return layer.run(kernel, lengths, reverse);
    }
    let [_, d_hidden] = layer.weight_hh.dims();
    let bias_ih = match (layer.bias_ih, layer.bias_hh) {
        (Some(input), Some(hidden)) => Some(input + hidden),
        (input, hidden) => input.or(hidden),
    };
    let options = (&layer.weight_hh.device(), layer.weight_hh.dtype());
    let layer = Recurrence {
        weight_hh: Tensor::zeros([0, d_hidden], options),
        weights: Some(layer.weight_hh.reshape([d_hidden])),
        bias_ih,
        bias_hh: None,
        ..layer
    };
    layer.run(IndependentKernel(kernel), lengths, reverse)
}

impl RnnKernel {
    /// The state after, and what the activation gave.
    #[inline(always)]
    fn activate<R: Real, S: Simd>(
        &self,
        s: S,
        sum: R::V<S>,
        before: State<R::V<S>>,
    ) -> Forward<R::V<S>, 1> {
        let y = self.activation.lanes::<R, S>(s, sum);
        let hidden = clip_lanes::<R, S>(s, y, self.hidden_clip);
        Forward {
            state: State { hidden, ..before },
            kept: [y],
        }
    }

    /// The gradient of the sum.
    #[inline(always)]
    fn slope<R: Real, S: Simd>(
        &self,
        s: S,
        Taken { kept: [y], .. }: Taken<R::V<S>, 1>,
        gradient: State<R::V<S>>,
    ) -> R::V<S> {
        let gradient = clip_gradient::<R, S>(s, gradient.hidden, y, self.hidden_clip);
        R::vmul(s, gradient, self.activation.slope::<R, S>(s, y))
    }
}

/// The one slot takes the sum of both products.
impl Cell<1, 1, 1, 0> for RnnKernel {
    const MEMORY: bool = false;
    const INPUT: [usize; 1] = [0];
    const RECURRENT: [usize; 1] = [0];

    #[inline(always)]
    fn forward<R: Real, S: Simd>(
        &self,
        s: S,
        [sum]: [R::V<S>; 1],
        _: [R::V<S>; 0],
        before: State<R::V<S>>,
    ) -> Forward<R::V<S>, 1> {
        self.activate::<R, S>(s, sum, before)
    }

    #[inline(always)]
    fn backward<R: Real, S: Simd>(
        &self,
        s: S,
        taken: Taken<R::V<S>, 1>,
        _: [R::V<S>; 0],
        gradient: State<R::V<S>>,
    ) -> Backward<R::V<S>, 1, 0> {
        let zero = R::splat(s, R::ZERO);
        Backward {
            sums: [self.slope::<R, S>(s, taken, gradient)],
            weights: [],
            before: State {
                hidden: zero,
                cell: zero,
            },
        }
    }
}

/// The one slot takes the input product, and the hidden state's share is made here.
impl Cell<1, 1, 0, 1> for IndependentKernel {
    const MEMORY: bool = false;
    const INPUT: [usize; 1] = [0];
    const RECURRENT: [usize; 0] = [];

    #[inline(always)]
    fn forward<R: Real, S: Simd>(
        &self,
        s: S,
        [sum]: [R::V<S>; 1],
        [weight]: [R::V<S>; 1],
        before: State<R::V<S>>,
    ) -> Forward<R::V<S>, 1> {
        let sum = R::mul_add(s, weight, before.hidden, sum);
        self.0.activate::<R, S>(s, sum, before)
    }

    #[inline(always)]
    fn backward<R: Real, S: Simd>(
        &self,
        s: S,
        taken: Taken<R::V<S>, 1>,
        [weight]: [R::V<S>; 1],
        gradient: State<R::V<S>>,
    ) -> Backward<R::V<S>, 1, 1> {
        let sum = self.0.slope::<R, S>(s, taken, gradient);
        Backward {
            sums: [sum],
            weights: [R::vmul(s, sum, taken.before.hidden)],
            before: State {
                hidden: R::vmul(s, sum, weight),
                ..gradient
            },
        }
    }
}
