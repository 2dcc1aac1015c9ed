//! The linear recurrence `h_t = a_t h_{t-1} + x_t`, element by element: what state-space models and
//! linear recurrent networks have at their heart.
//!
//! It is one operation in three forms that agree:
//!
//! - *sequential*, a loop over time: the specification, and how a model generates;
//! - *associative*: the pairs `(a, x)` form a monoid under `(a, x) . (b, y) = (a b, b x + y)`, so that all
//!   states come of `log2(time)` passes over whole tensors. The scan of Hillis and Steele (1986) and
//!   Blelloch (1990, "Prefix sums and their applications"), brought to linear recurrences by Martin and
//!   Cundy (2018, <https://arxiv.org/abs/1709.04057>) and to state-space models by Smith et al. (2023,
//!   S5, <https://arxiv.org/abs/2208.04933>). The form for GPUs;
//! - *chunked*: chunks of steps, each associative, which hand the state on. It needs the memory of one
//!   chunk, and `log2(chunk)` passes.
//!
//! [`LinearScan`] is that of real numbers and [`ComplexScan`] that of [`Complex`] ones.

mod complex;
#[cfg(feature = "cpu-kernels")]
mod cpu;
mod forms;
#[cfg(feature = "cpu-kernels")]
mod gradient;
#[cfg(feature = "cpu-kernels")]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;

use burn::tensor::Tensor;

use crate::Lengths;
pub use complex::{Complex, ComplexDecay, ComplexScan};
use forms::Scan;

/// Steps of a chunk where there are no kernels.
const CHUNK: usize = 512;

/// The linear recurrence `h_t = a_t h_{t-1} + x_t` of real numbers, element by element.
///
/// On CPU backends, in `f32` and `f64`, [`run`](Self::run) is a fused kernel, forward and backward;
/// elsewhere it is the [`chunked`](Self::chunked) form.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::scan::{Decay, LinearScan};
///
/// let device = seq_core::device();
/// // Batch 1, time 3, width 1.
/// let x = Tensor::from_data([[[1.0], [2.0], [3.0]]], &device);
/// let half = Decay::Constant(Tensor::from_data([0.5], &device));
/// let (states, last) = LinearScan::new(half, x).run();
/// assert_eq!(states.into_data().as_slice::<f32>().unwrap(), [1.0, 2.5, 4.25]);
/// assert_eq!(last.into_data().as_slice::<f32>().unwrap(), [4.25]);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct LinearScan {
    /// What a step leaves of the state before it, the `a` of the recurrence.
    pub decay: Decay,
    /// What a step adds, `[batch, time, width]`.
    pub x: Tensor<3>,
    /// The state before the first step, `[batch, width]`; by default zeros.
    pub state: Option<Tensor<2>>,
    /// How long each sequence is. Beyond its end the outputs are zero, and the state stays what it was
    /// there.
    pub lengths: Option<Lengths>,
    /// Where a new sequence begins inside a row: a row of the batch for each row of `[batch][time]`. The
    /// state after such a step is its `x`, whatever the state before it and the decay were.
    pub resets: Option<Vec<Vec<bool>>>,
}

/// The decay of a [`LinearScan`], where the example is.
#[derive(Debug, Clone)]
pub enum Decay {
    /// The same at all steps, `[width]`.
    Constant(Tensor<1>),
    /// One for each step, `[batch, time, width]`.
    Varying(Tensor<3>),
}

impl LinearScan {
    /// A scan of whole sequences that begins at zero.
    pub fn new(decay: Decay, x: Tensor<3>) -> Self {
        Self {
            decay,
            x,
            state: None,
            lengths: None,
            resets: None,
        }
    }

    /// The states after all steps `[batch, time, width]`, and after the last one `[batch, width]`.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn run(self) -> (Tensor<3>, Tensor<2>) {
        self.check();
        #[cfg(feature = "cpu-kernels")]
        if self.has_kernel() {
            return ops::linear(self);
        }
        self.chunked(CHUNK)
    }

    /// The form that specifies the others, in plain tensor operations: step by step. What it returns and
    /// when it panics is as in [`run`](Self::run).
    pub fn sequential(self) -> (Tensor<3>, Tensor<2>) {
        self.chunked(1)
    }

    /// The form whose chunks of `chunk` steps hand the state on, in plain tensor operations; returns what
    /// [`run`](Self::run) does.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run), and when `chunk` is zero.
    pub fn chunked(self, chunk: usize) -> (Tensor<3>, Tensor<2>) {
        self.check();
        let scan = Scan {
            decay: match self.decay {
                Decay::Constant(decay) => decay.unsqueeze(),
                Decay::Varying(decay) => decay,
            },
            x: self.x,
            state: self.state.map(|state| state.unsqueeze_dim(1)),
            lengths: self.lengths,
            resets: self.resets,
        };
        let (states, last) = scan.run(chunk);
        (states, last.squeeze_dim(1))
    }

    /// The form of `log2(time)` passes over the whole sequence, in plain tensor operations; what it
    /// returns and when it panics is as in [`run`](Self::run).
    ///
    /// It multiplies decays before states: where these are far above one in magnitude the product may
    /// exceed the range of the type although no state does.
    pub fn associative(self) -> (Tensor<3>, Tensor<2>) {
        let [_, time, _] = self.x.dims();
        self.chunked(time.max(1))
    }

    #[cfg(feature = "cpu-kernels")]
    fn has_kernel(&self) -> bool {
        let decay = match &self.decay {
            Decay::Constant(decay) => decay.dtype(),
            Decay::Varying(decay) => decay.dtype(),
        };
        let state = self.state.as_ref().map(Tensor::dtype);
        ops::has_kernel(&self.x, [decay].into_iter().chain(state))
    }

    fn check(&self) {
        let decay = match &self.decay {
            Decay::Constant(decay) => decay.dims().to_vec(),
            Decay::Varying(decay) => decay.dims().to_vec(),
        };
        let state = self.state.as_ref().map(Tensor::dims);
        let sequences = (self.lengths.as_ref(), self.resets.as_deref());
        check(self.x.dims(), &decay, state, sequences);
    }
}

/// Makes sure that the parts of a scan fit its input.
fn check(
    x: [usize; 3],
    decay: &[usize],
    state: Option<[usize; 2]>,
    (lengths, resets): (Option<&Lengths>, Option<&[Vec<bool>]>),
) {
    let [batch, time, width] = x;
    Lengths::check_input(lengths, x);
    let fits = |name: &str, found: &[usize], expected: &[usize]| {
        assert_eq!(
            found, expected,
            "{name} has shape {found:?}, the scan of an input {x:?} needs {expected:?}"
        );
    };
    match decay.len() {
        1 => fits("the decay", decay, &[width]),
        _ => fits("the decay", decay, &x),
    }
    if let Some(state) = state {
        fits("the state", &state, &[batch, width]);
    }
    if let Some(resets) = resets {
        let lengths: Vec<usize> = resets.iter().map(Vec::len).collect();
        fits("resets", &lengths, &vec![time; batch]);
    }
}
