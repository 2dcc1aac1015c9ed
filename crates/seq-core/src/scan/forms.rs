//! The forms of the scan in plain tensor operations, for real and for complex numbers.

use burn::tensor::{Bool, Int, Tensor, TensorData};

use crate::Lengths;

/// Numbers `[batch, time, width]`: a tensor, or the two planes of complex ones.
pub(super) trait Numbers: Clone {
    fn plane(&self) -> &Tensor<3>;
    fn map(self, f: impl Fn(Tensor<3>) -> Tensor<3>) -> Self;
    fn cat(parts: Vec<Self>) -> Self;
    fn plus(self, other: Self) -> Self;
    fn times(self, other: Self) -> Self;
    /// The real number `value` where `mask` is true.
    fn fill(self, mask: Tensor<3, Bool>, value: f64) -> Self;

    fn dims(&self) -> [usize; 3] {
        self.plane().dims()
    }

    /// `count` steps from `first` on.
    fn steps(&self, first: usize, count: usize) -> Self {
        self.clone().map(|x| x.narrow(1, first, count))
    }
}

impl Numbers for Tensor<3> {
    fn plane(&self) -> &Tensor<3> {
        self
    }

    fn map(self, f: impl Fn(Tensor<3>) -> Tensor<3>) -> Self {
        f(self)
    }

    fn cat(parts: Vec<Self>) -> Self {
        Tensor::cat(parts, 1)
    }

    fn plus(self, other: Self) -> Self {
        self + other
    }

    fn times(self, other: Self) -> Self {
        self * other
    }

    fn fill(self, mask: Tensor<3, Bool>, value: f64) -> Self {
        self.mask_fill(mask, value)
    }
}

/// A scan of real or of complex numbers.
pub(super) struct Scan<V> {
    /// `[batch, time, width]`, or `[1, 1, width]` if it is constant.
    pub decay: V,
    /// `[batch, time, width]`
    pub x: V,
    /// `[batch, 1, width]`
    pub state: Option<V>,
    pub lengths: Option<Lengths>,
    pub resets: Option<Vec<Vec<bool>>>,
}

impl<V: Numbers> Scan<V> {
    /// The states `[batch, time, width]` and the last one `[batch, 1, width]`, by chunks of `chunk` steps
    /// that hand the state on; inside a chunk associatively. A chunk of one step is the recurrence
    /// itself.
    pub fn run(self, chunk: usize) -> (V, V) {
        assert!(chunk > 0, "a chunk needs at least one step");
        let dims @ [batch, time, width] = self.x.dims();
        let device = self.x.plane().device();
        let wide = |mask: Tensor<2, Bool>| mask.unsqueeze_dim::<3>(2).expand(dims);
        let (mut decay, mut x) = (self.decay, self.x);
        if self.lengths.is_some() || self.resets.is_some() {
            decay = decay.map(|decay| decay.expand(dims));
        }
        let padding = self.lengths.as_ref().map(|lengths| {
            let real = lengths.mask(time, &device);
            wide(real.bool_not())
        });
        if let Some(padding) = &padding {
            // The state stays; and what the padding holds, NaN perhaps, is out of the way.
            decay = decay.fill(padding.clone(), 1.0);
            x = x.fill(padding.clone(), 0.0);
        }
        let since = self
            .resets
            .map(|resets| since_reset(&resets, self.lengths.as_ref(), &x));
        if let Some(since) = &since {
            decay = decay.fill(wide(since.clone().equal_elem(0)), 0.0);
        }
        let mut state = self.state.unwrap_or_else(|| {
            let zeros = |x: Tensor<3>| Tensor::zeros([batch, 1, width], (&device, x.dtype()));
            x.clone().map(zeros)
        });

        let count = time.div_ceil(chunk);
        let decays = match decay.dims() == dims {
            true => pieces(decay, chunk),
            false => vec![decay; count],
        };
        let mut outputs = Vec::with_capacity(count);
        for (index, (decay, x)) in decays.into_iter().zip(pieces(x, chunk)).enumerate() {
            let [_, len, _] = x.dims();
            let since = since
                .as_ref()
                .map(|since| since.clone().narrow(1, index * chunk, len));
            let y = piece(decay, x, state, since);
            state = y.steps(len - 1, 1);
            outputs.push(y);
        }
        let y = joined(outputs);
        let y = match padding {
            Some(padding) => y.fill(padding, 0.0),
            None => y,
        };
        (y, state)
    }
}

/// The states of a few steps, by log2(steps) passes: after each, a state holds what twice as many steps
/// wrote.
fn piece<V: Numbers>(mut decay: V, x: V, state: V, since: Option<Tensor<2, Int>>) -> V {
    let [_, time, _] = x.dims();
    let constant = decay.dims()[1] < time;
    // What comes from `shift` steps before, from `first` on, unless there was a reset in between.
    let before = |x: V, first: usize, shift: usize| match &since {
        Some(since) => {
            let dims @ [_, count, _] = x.dims();
            let since = since.clone().narrow(1, first, count);
            x.fill(
                since
                    .lower_elem(shift as i64)
                    .unsqueeze_dim::<3>(2)
                    .expand(dims),
                0.0,
            )
        }
        None => x,
    };
    let first = x
        .steps(0, 1)
        .plus(decay.steps(0, 1).times(before(state, 0, 1)));
    let mut h = match time {
        1 => first,
        _ => V::cat(vec![first, x.steps(1, time - 1)]),
    };
    let mut shift = 1;
    while shift < time {
        let rest = time - shift;
        let decays = match constant {
            true => decay.clone(),
            false => decay.steps(shift, rest),
        };
        let carried = decays.clone().times(before(h.steps(0, rest), shift, shift));
        h = V::cat(vec![h.steps(0, shift), h.steps(shift, rest).plus(carried)]);
        if 2 * shift < time {
            decay = match constant {
                true => decay.clone().times(decay),
                false => {
                    let product = decays.times(before(decay.steps(0, rest), shift, shift));
                    V::cat(vec![decay.steps(0, shift), product])
                }
            };
        }
        shift *= 2;
    }
    h
}

/// Pieces of `chunk` steps, and one of what is left.
///
/// Halved again and again: the gradient of a slice fills a whole tensor with zeros, so cutting every
/// piece from the full sequence would make training quadratic in time.
fn pieces<V: Numbers>(x: V, chunk: usize) -> Vec<V> {
    let [_, time, _] = x.dims();
    let count = time.div_ceil(chunk);
    if count == 1 {
        return vec![x];
    }
    let half = count / 2 * chunk;
    let mut all = pieces(x.steps(0, half), chunk);
    all.extend(pieces(x.steps(half, time - half), chunk));
    all
}

fn joined<V: Numbers>(mut pieces: Vec<V>) -> V {
    match pieces.len() {
        1 => pieces.remove(0),
        _ => V::cat(pieces),
    }
}

/// How many steps ago the latest reset was, `[batch, time]`; more than there are steps if none was. Those in
/// the padding are none.
fn since_reset<V: Numbers>(
    resets: &[Vec<bool>],
    lengths: Option<&Lengths>,
    like: &V,
) -> Tensor<2, Int> {
    let [batch, time, _] = like.dims();
    let row = |(row, resets): (usize, &Vec<bool>)| {
        let length = lengths.map_or(time, |lengths| lengths.as_slice()[row]);
        let mut since = time as i64;
        let step = |(step, &reset): (usize, &bool)| {
            since = if reset && step < length { 0 } else { since + 1 };
            since
        };
        resets.iter().enumerate().map(step).collect::<Vec<i64>>()
    };
    let since: Vec<i64> = resets.iter().enumerate().flat_map(row).collect();
    Tensor::from_data(
        TensorData::new(since, [batch, time]),
        &like.plane().device(),
    )
}
