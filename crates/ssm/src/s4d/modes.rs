//! Diagonal systems over many steps, by powers of their diagonals.
//!
//! A step `k = chunk i + j` is split, `Ad^k = Ad^(chunk i) Ad^j`, and each part is one exponential, so that no
//! power overflows and no error adds up; sums over states are products of matrices. Neither the kernel nor
//! its gradient needs a number for each state and step.

use burn::tensor::{DType, Device, Tensor, TensorData};
use seq_core::Lengths;
use seq_core::scan::Complex;

/// The powers of the diagonals of `d_model` systems, up to `time`.
pub(super) struct Modes {
    time: usize,
    /// The logarithm of Ad, `[d_model, pairs]`, in the most precise type.
    log: Complex<2>,
    /// `Ad^j`, `[d_model, 2 pairs, chunk]`: the real parts, then the negative imaginary ones.
    fine: Tensor<3>,
    /// `Ad^(chunk i)`, `[d_model, chunks, pairs]`.
    coarse: Complex<3>,
    dtype: DType,
}

impl Modes {
    /// Of systems whose Ad has the logarithm `log`; everything else is in `dtype`.
    pub fn new(log: Complex<2>, time: usize, dtype: DType) -> Self {
        let chunk = (time as f64).sqrt().ceil() as usize;
        let chunks = time.div_ceil(chunk);
        let device = log.re.device();
        let steps = |count: usize, stride: usize| {
            let steps: Vec<f64> = (0..count).map(|i| (i * stride) as f64).collect();
            numbers(steps, &log, &device)
        };
        let fine = powers(&log, steps(chunk, 1).unsqueeze_dims::<3>(&[0, 0]));
        let coarse = steps(chunks, chunk).unsqueeze_dims::<3>(&[0, 0]);
        let coarse = powers(&log, coarse).map(|plane| plane.swap_dims(1, 2).cast(dtype));
        Self {
            time,
            fine: Tensor::cat(vec![fine.re, -fine.im], 1).cast(dtype),
            coarse,
            log,
            dtype,
        }
    }

    /// `2 Re(sum c Ad^k)` over the states for all steps k, `[d_model, time]`, of `c` `[d_model, pairs]`.
    pub fn kernel(&self, c: Complex<2>) -> Tensor<2> {
        let c = c.map(|plane| plane.unsqueeze_dim::<3>(0));
        self.respond(c).squeeze_dim::<2>(0).swap_dims(0, 1)
    }

    /// The same for `c` `[batch, d_model, pairs]`, `[batch, time, d_model]`.
    pub fn respond(&self, c: Complex<3>) -> Tensor<3> {
        let [batch, d_model, pairs] = c.dims();
        let [_, chunks, _] = self.coarse.dims();
        let [_, _, chunk] = self.fine.dims();
        let c = c.map(|plane| plane.swap_dims(0, 1).unsqueeze_dim::<4>(2));
        let coarse = self.coarse.clone().map(|plane| plane.unsqueeze_dim(1));
        // `[d_model, batch, chunks, pairs]`
        let starts = c * coarse;
        let starts = Tensor::cat(vec![starts.re, starts.im], 3);
        let starts = starts.reshape([d_model, batch * chunks, 2 * pairs]);
        let y = starts.matmul(self.fine.clone()) * 2.0;
        let y = y.reshape([d_model, batch, chunks * chunk]);
        y.permute([1, 2, 0]).narrow(1, 0, self.time)
    }

    /// `sum Ad^(end - k) x_k` over the steps of each sequence of `x` `[batch, time, d_model]`,
    /// `[batch, d_model, pairs]`; what is beyond a sequence's end must be zeros.
    pub fn collect(&self, x: Tensor<3>, lengths: Option<&Lengths>) -> Complex<3> {
        let [batch, time, d_model] = x.dims();
        let [_, chunks, pairs] = self.coarse.dims();
        let [_, _, chunk] = self.fine.dims();
        // The last step first: its place says how often Ad is applied to it.
        let x = match lengths {
            Some(lengths) => lengths.reverse(x),
            None => x.flip([1]),
        };
        let rest = chunks * chunk - time;
        let x = match rest {
            0 => x,
            _ => {
                let zeros = Tensor::zeros([batch, rest, d_model], (&x.device(), x.dtype()));
                Tensor::cat(vec![x, zeros], 1)
            }
        };
        let x = x.permute([2, 0, 1]);
        let x = x.reshape([d_model, batch * chunks, chunk]);
        let sums = x.matmul(self.fine.clone().swap_dims(1, 2));
        let sums = sums.reshape([d_model, batch, chunks, 2 * pairs]);
        let sums = Complex::new(
            sums.clone().narrow(3, 0, pairs),
            -sums.narrow(3, pairs, pairs),
        );
        let coarse = self.coarse.clone().map(|plane| plane.unsqueeze_dim(1));
        (sums * coarse).map(|plane| plane.sum_dim(2).squeeze_dim::<3>(2).swap_dims(0, 1))
    }

    /// Ad to the power of each sequence's length, `[batch, d_model, pairs]`.
    pub fn across(&self, batch: usize, lengths: Option<&Lengths>) -> Complex<3> {
        let steps = match lengths {
            Some(lengths) => lengths.as_slice().iter().map(|&n| n as f64).collect(),
            None => vec![self.time as f64; batch],
        };
        let steps = numbers(steps, &self.log, &self.log.re.device());
        let grown = powers(&self.log, steps.unsqueeze_dims::<3>(&[0, 0]));
        grown.map(|plane| plane.permute([2, 0, 1]).cast(self.dtype))
    }
}

fn numbers(values: Vec<f64>, like: &Complex<2>, device: &Device) -> Tensor<1> {
    let count = values.len();
    Tensor::from_data(TensorData::new(values, [count]), (device, like.re.dtype()))
}

/// `[d_model, pairs, count]` of `steps` `[1, 1, count]`.
fn powers(log: &Complex<2>, steps: Tensor<3>) -> Complex<3> {
    let log = log.clone().map(|plane| plane.unsqueeze_dim::<3>(2));
    log.map(|plane| plane * steps.clone()).exp()
}
