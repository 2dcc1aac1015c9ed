use burn::tensor::Tensor;
use seq_core::{Lengths, SequenceLayer, SequenceState};

/// A layer's steps, one after the other: what specifies its form for whole sequences. `x` is
/// `[batch, time, d_input]`, and a sequence's state stays what it was at its end.
pub(crate) fn unroll<L: SequenceLayer>(
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
