use burn::tensor::Tensor;

use crate::{Lengths, SequenceLayer, SequenceState};

/// A layer's steps, one after the other: what specifies its form for whole sequences. `x` is
/// `[batch, time, d_input]`; answers the outputs `[batch, time, d_output]`, zeros in the padding, and the
/// state that each sequence had at its end.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::module::{Module, Param};
/// use burn::tensor::{Device, Tensor};
/// use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper, unroll};
///
/// /// The weighted sum of all inputs.
/// #[derive(Debug, Clone)]
/// struct Sum(Tensor<2>);
///
/// impl SequenceState for Sum {
///     fn map(self, mapper: &mut impl StateMapper) -> Self {
///         Self(mapper.tensor("sum", self.0))
///     }
/// }
///
/// #[derive(Module, Debug)]
/// struct Total {
///     weight: Param<Tensor<1>>,
/// }
///
/// impl SequenceLayer for Total {
///     type State = Sum;
///     # fn d_input(&self) -> usize { 1 }
///     # fn d_output(&self) -> usize { 1 }
///     # fn initial_state(&self, batch: usize, device: &Device) -> Sum { Sum(Tensor::zeros([batch, 1], device)) }
///     fn step(&self, x: Tensor<2>, state: Sum) -> (Tensor<2>, Sum) {
///         let sum = state.0 + x * self.weight.val().unsqueeze();
///         (sum.clone(), Sum(sum))
///     }
///     # fn forward(&self, x: Tensor<3>, state: Option<Sum>) -> (Tensor<3>, Sum) {
///     #     let state = state.unwrap_or_else(|| self.initial_state(x.dims()[0], &x.device()));
///     #     unroll(self, x, None, state)
///     # }
///     # fn forward_padded(&self, x: Tensor<3>, lengths: &Lengths, state: Option<Sum>) -> (Tensor<3>, Sum) {
///     #     let state = state.unwrap_or_else(|| self.initial_state(x.dims()[0], &x.device()));
///     #     unroll(self, x, Some(lengths), state)
///     # }
/// }
///
/// let device = seq_core::device();
/// let x = Tensor::<3>::from_data([[[1.0], [2.0], [4.0]]], &device);
/// let layer = Total { weight: Param::from_tensor(Tensor::ones([1], &device)) };
/// let state = layer.initial_state(1, &device);
/// let (y, last) = unroll(&layer, x, Some(&Lengths::new([2])), state);
/// assert_eq!(y.into_data().as_slice::<f32>().unwrap(), [1.0, 3.0, 0.0]);
/// assert_eq!(last.0.into_data().as_slice::<f32>().unwrap(), [3.0]);
/// # }
/// ```
///
/// # Panics
///
/// When the lengths do not fit `x`, and where the layer's step does.
pub fn unroll<L: SequenceLayer>(
    layer: &L,
    x: Tensor<3>,
    lengths: Option<&Lengths>,
    state: L::State,
) -> (Tensor<3>, L::State) {
    let [_, time, _] = x.dims();
    let clear = |x: Tensor<3>| match lengths {
        Some(lengths) => lengths.clear(x),
        None => x,
    };
    let x = clear(x);
    let real = lengths.map(|lengths| lengths.mask(time, &x.device()));
    let (mut state, mut outputs) = (state, Vec::with_capacity(time));
    for (t, x) in x.split(1, 1).into_iter().enumerate() {
        let (y, next) = layer.step(x.squeeze_dim(1), state.clone());
        state = match &real {
            Some(real) => L::State::choose(real.clone().narrow(1, t, 1), next, state),
            None => next,
        };
        outputs.push(y.unsqueeze_dim(1));
    }
    (clear(Tensor::cat(outputs, 1)), state)
}
