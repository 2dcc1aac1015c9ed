//! A system over many steps, by powers of its matrix.
//!
//! The paper gets the kernel `C A^k B` from the generating function at the roots of unity, a Cauchy
//! product, which holds `d_model * d_state * time` numbers for the gradient and needs `A^time` beside. Here
//! a step `k = chunk j + i` is split, `(C A^(chunk j)) (A^i B)`: the same numbers of one product, in the
//! memory of the kernel, and both the last state and what a first state leaves are of the same parts.

use burn::tensor::{Bool, DType, Tensor, TensorData};
use seq_core::Lengths;

use super::system::System;
use crate::convolution::convolve;

/// Steps of a chunk, at most, a power of two: about as many as there are states, so that neither part of
/// a step costs more than the other.
const CHUNK: usize = 64;

/// The parts of a system for sequences of `time` steps.
pub(super) struct Powers {
    time: usize,
    chunk: usize,
    /// The matrix to the power of 1, 2, 4, .., transposed, up to `time`: `[d_model, d_state, d_state]`.
    powers: Vec<Tensor<3>>,
    /// `A^i B`, `[d_model, chunk, d_state]`.
    written: Tensor<3>,
    /// `C A^(i + 1)`, `[d_model, chunk, d_state]`.
    read: Tensor<3>,
    /// `C A^k B`, `[d_model, time]`.
    pub kernel: Tensor<2>,
}

impl Powers {
    /// Computed in the type of the system, given in `dtype`.
    pub fn new(system: &System, time: usize, dtype: DType) -> Self {
        let chunk = time.next_power_of_two().min(CHUNK);
        let mut powers = vec![system.matrices()];
        for _ in 0..time.ilog2() {
            let last = &powers[powers.len() - 1];
            powers.push(last.clone().matmul(last.clone()));
        }
        let row = |x: &Tensor<2>| x.clone().unsqueeze_dim::<3>(1);
        // Rows grow on the left of a matrix, columns, as rows, on the right of its transpose.
        let transposed: Vec<_> = powers.iter().map(|a| a.clone().swap_dims(1, 2)).collect();
        let written = doubled(row(&system.b), &transposed, chunk);
        let ahead = row(&system.c).matmul(powers[0].clone());
        let read = doubled(ahead, &powers, chunk);
        let first = chunk.ilog2() as usize;
        let starts = time.div_ceil(chunk);
        let starts = doubled(row(&system.c), &powers[first.min(powers.len())..], starts);
        let [d_model, chunks, _] = starts.dims();
        let kernel = starts.matmul(written.clone().swap_dims(1, 2));
        let kernel = kernel.reshape([d_model, chunks * chunk]).narrow(1, 0, time);
        let cast = |x: Tensor<3>| x.cast(dtype);
        Self {
            time,
            chunk,
            powers: transposed.into_iter().map(cast).collect(),
            written: cast(written),
            read: cast(read),
            kernel: kernel.cast(dtype),
        }
    }

    /// What inputs `[batch, time, d_model]` give of zero states, without a share of their own.
    pub fn convolve(&self, x: Tensor<3>) -> Tensor<3> {
        convolve(x, self.kernel.clone())
    }

    /// What `states` `[batch, d_model, d_state]` leave in the outputs, `[batch, time, d_model]`.
    pub fn respond(&self, states: Tensor<3>) -> Tensor<3> {
        let [batch, d_model, _] = states.dims();
        let (chunk, first) = (self.chunk, self.chunk.ilog2() as usize);
        let chunks = self.time.div_ceil(chunk);
        // The states before every chunk, `[d_model, chunks * batch, d_state]`.
        let mut states = states.swap_dims(0, 1);
        let mut count = 1;
        for power in self.powers.iter().skip(first) {
            if count >= chunks {
                break;
            }
            let more = count.min(chunks - count);
            let later = states.clone().narrow(1, 0, more * batch);
            states = Tensor::cat(vec![states, later.matmul(power.clone())], 1);
            count += more;
        }
        let y = states.matmul(self.read.clone().swap_dims(1, 2));
        let y = y.reshape([d_model, chunks, batch, chunk]);
        let y = y.permute([2, 1, 3, 0]);
        let y = y.reshape([batch, chunks * chunk, d_model]);
        y.narrow(1, 0, self.time)
    }

    /// The states `[batch, d_model, d_state]` after inputs `[batch, time, d_model]`, of zero states; what
    /// is beyond a sequence's end must be zeros.
    pub fn collect(&self, x: Tensor<3>, lengths: Option<&Lengths>) -> Tensor<3> {
        let [batch, time, d_model] = x.dims();
        let (chunk, first) = (self.chunk, self.chunk.ilog2() as usize);
        let mut chunks = time.div_ceil(chunk);
        // The last step first: its place says how often the matrix is applied to it.
        let x = match lengths {
            Some(lengths) => lengths.reverse(x),
            None => x.flip([1]),
        };
        let padding = Tensor::zeros(
            [batch, chunks * chunk - time, d_model],
            (&x.device(), x.dtype()),
        );
        let x = match chunks * chunk == time {
            true => x,
            false => Tensor::cat(vec![x, padding], 1),
        };
        let x = x.reshape([batch, chunks, chunk, d_model]);
        let x = x.permute([3, 1, 0, 2]);
        let x = x.reshape([d_model, chunks * batch, chunk]);
        let mut states = x.matmul(self.written.clone());
        while chunks > 1 {
            // The chunks before the largest power of two, and those from there on.
            let half = chunks.next_power_of_two() / 2;
            let power = &self.powers[first + half.ilog2() as usize];
            let rest = (chunks - half) * batch;
            let sum = states.clone().narrow(1, 0, rest)
                + states
                    .clone()
                    .narrow(1, half * batch, rest)
                    .matmul(power.clone());
            states = match chunks == 2 * half {
                true => sum,
                false => {
                    let kept = states.narrow(1, rest, half * batch - rest);
                    Tensor::cat(vec![sum, kept], 1)
                }
            };
            chunks = half;
        }
        states.swap_dims(0, 1)
    }

    /// The `states` `[batch, d_model, d_state]` at the end of each sequence if there were no inputs.
    pub fn advance(&self, states: Tensor<3>, lengths: Option<&Lengths>) -> Tensor<3> {
        let shape @ [batch, ..] = states.dims();
        let steps = match lengths {
            Some(lengths) => lengths.as_slice().to_vec(),
            None => vec![self.time; batch],
        };
        let mut states = states;
        for (bit, power) in self.powers.iter().enumerate() {
            let has: Vec<bool> = steps.iter().map(|steps| steps >> bit & 1 == 1).collect();
            if !has.contains(&true) {
                continue;
            }
            let next = states.clone().swap_dims(0, 1).matmul(power.clone());
            let next = next.swap_dims(0, 1);
            states = match has.contains(&false) {
                false => next,
                true => {
                    let has = TensorData::new(has, [batch, 1, 1]);
                    let has = Tensor::<3, Bool>::from_data(has, &states.device());
                    states.mask_where(has.expand(shape), next)
                }
            };
        }
        states
    }
}

/// At least `count` rows, `[d_model, count, d_state]`, each a step of the first of `powers` after the one
/// before it; every power is the square of the last.
fn doubled(row: Tensor<3>, powers: &[Tensor<3>], count: usize) -> Tensor<3> {
    let mut rows = row;
    for power in powers {
        let found = rows.dims()[1];
        if found >= count {
            break;
        }
        let more = found.min(count - found);
        let later = rows.clone().narrow(1, 0, more).matmul(power.clone());
        rows = Tensor::cat(vec![rows, later], 1);
    }
    rows
}
