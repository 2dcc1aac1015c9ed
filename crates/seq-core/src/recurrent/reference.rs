use burn::tensor::Tensor;

use crate::{Lengths, SequenceState};

/// Runs `step` along time: the reference body of every recurrent layer, in plain tensor operations.
///
/// `inputs` `[batch, time, width]` is what the steps read, as a rule the input projection of the
/// whole sequence; `step` takes `[batch, width]` and a state and gives an output `[batch, d_output]`
/// and the next state. Where a sequence has ended its state stays and its output is zero. With
/// `reverse` each sequence runs from its own last step to its first, and `y[t]` still belongs to
/// `inputs[t]`.
///
/// Returns the outputs `[batch, time, d_output]` and the state after the last step.
///
/// # Panics
///
/// When `time` is zero, or `lengths` does not fit `inputs`.
///
/// ```
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::unroll;
/// use seq_core::{SequenceState, StateMapper};
///
/// #[derive(Debug, Clone)]
/// struct Sum(Tensor<2>);
///
/// impl SequenceState for Sum {
///     fn map(self, mapper: &mut impl StateMapper) -> Self {
///         Self(mapper.tensor("sum", self.0))
///     }
/// }
///
/// # #[cfg(feature = "ndarray")] {
/// let x = Tensor::<3>::from_data([[[1.0], [2.0], [3.0]]], &seq_core::device());
/// let zero = Sum(Tensor::zeros([1, 1], &seq_core::device()));
/// let (y, _) = unroll(x, None, false, zero, |x, Sum(sum)| (x.clone() + sum.clone(), Sum(x + sum)));
/// assert_eq!(y.into_data().as_slice::<f32>().unwrap(), [1.0, 3.0, 6.0]);
/// # }
/// ```
pub fn unroll<S: SequenceState>(
    inputs: Tensor<3>,
    lengths: Option<&Lengths>,
    reverse: bool,
    mut state: S,
    mut step: impl FnMut(Tensor<2>, S) -> (Tensor<2>, S),
) -> (Tensor<3>, S) {
    let [_, time, _] = inputs.dims();
    Lengths::check_input(lengths, inputs.dims());
    let turn = |x: Tensor<3>| match (reverse, lengths) {
        (false, _) => x,
        (true, None) => x.flip([1]),
        (true, Some(lengths)) => lengths.reverse(x),
    };
    let inputs = turn(inputs);
    let shortest = lengths
        .and_then(|l| l.as_slice().iter().min().copied())
        .unwrap_or(time);
    let mask = lengths.map(|lengths| lengths.mask(time, &inputs.device()));

    let mut outputs = Vec::with_capacity(time);
    for (t, x) in unbind(inputs).into_iter().enumerate() {
        let before = (t >= shortest).then(|| state.clone());
        let (mut y, mut next) = step(x, state);
        if let (Some(before), Some(mask)) = (before, &mask) {
            let ended = mask.clone().narrow(1, t, 1).bool_not();
            y = y.clone().mask_fill(ended.clone().expand(y.dims()), 0.0);
            next = SequenceState::choose(ended, before, next);
        }
        state = next;
        outputs.push(y.unsqueeze_dim(1));
    }
    (turn(Tensor::cat(outputs, 1)), state)
}

/// The steps of `[batch, time, width]`, each `[batch, width]`.
///
/// Halved again and again: the gradient of a slice fills a whole tensor with zeros, so cutting every
/// step from the full sequence would make training quadratic in time.
fn unbind(x: Tensor<3>) -> Vec<Tensor<2>> {
    let time = x.dims()[1];
    if time == 1 {
        return vec![x.squeeze_dim(1)];
    }
    let half = time / 2;
    let mut steps = unbind(x.clone().narrow(1, 0, half));
    steps.extend(unbind(x.narrow(1, half, time - half)));
    steps
}
