//! The state-space dual scan, the recurrence at the heart of Mamba-2.

#[cfg(any(feature = "ndarray", feature = "flex"))]
mod cpu;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod gradient;
#[cfg(any(feature = "ndarray", feature = "flex"))]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;
mod reference;

#[cfg(any(feature = "ndarray", feature = "flex"))]
use burn::tensor::DType;
use burn::tensor::Tensor;
use seq_core::Lengths;
use seq_core::recurrent::Activation;

use crate::softplus;

/// The scan of Mamba-2, state-space duality (Dao and Gu 2024, <https://arxiv.org/abs/2405.21060>, section
/// 6), with all that `mamba_chunk_scan_combined` of the reference code has, and initial states, lengths
/// and resets.
///
/// For every head, whose state is a matrix `[head_dim, d_state]` that decays as a whole:
///
/// ```text
/// h_t = exp(dt_t a) h_{t-1} + (dt_t x_t) B_t^T
/// y_t = (h_t C_t + D * x_t) * silu(z_t)
/// ```
///
/// One decay a head is what the selective scan gives up for this: a chunk of steps is a few products of
/// small matrices (listing 1 of the paper), in which no decay is ever divided by another.
///
/// On CPU backends, in `f32` and `f64`, it runs by a fused kernel that stores the states at the borders of
/// chunks alone, forward and backward; elsewhere by the [`reference`](Self::reference) body. Decays of any
/// size underflow to zero; what grows, where `dt a` is positive, may overflow.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_mamba::{Ssd, SsdDecay, StepSize};
///
/// let device = seq_mamba::device();
/// let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, &device);
/// // Batch 2, time 10, 3 heads of 4 channels, one group, d_state 5.
/// let steps = StepSize {
///     softplus: true,
///     ..StepSize::new(Tensor::ones([2, 10, 3], &device), -Tensor::ones([3], &device))
/// };
/// let scan = Ssd {
///     d: Some(Tensor::ones([3, 1], &device)),
///     ..Ssd::new(
///         random([2, 10, 3, 4]),
///         SsdDecay::Steps(steps),
///         random([2, 10, 1, 5]),
///         random([2, 10, 1, 5]),
///     )
/// };
/// let (y, state) = scan.run();
/// assert_eq!((y.dims(), state.dims()), ([2, 10, 3, 4], [2, 3, 4, 5]));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Ssd {
    /// The input, `[batch, time, heads, head_dim]`.
    pub x: Tensor<4>,
    /// How fast the states decay, and how much of the input they take in.
    pub decay: SsdDecay,
    /// What the input writes to the state, `[batch, time, n_groups, d_state]`; the heads of a group are
    /// neighbours and share it. `n_groups` must divide `heads`.
    pub b: Tensor<4>,
    /// What the output reads of the state, of the shape of `b`.
    pub c: Tensor<4>,
    /// The share of the input in the output, `[heads, head_dim]`, or `[heads, 1]` for one of a whole head.
    pub d: Option<Tensor<2>>,
    /// The gate of the output, `[batch, time, heads, head_dim]`.
    pub z: Option<Tensor<4>>,
    /// The state before the first step, `[batch, heads, head_dim, d_state]`; by default zeros.
    pub state: Option<Tensor<4>>,
    /// How long each sequence is. Beyond its end the output is zero, and the state stays what it was
    /// there.
    pub lengths: Option<Lengths>,
    /// Where a new sequence begins inside a row: a row of the batch for each row of `[batch][time]`. The
    /// state before such a step is zero, whatever it was.
    pub resets: Option<Vec<Vec<bool>>>,
    /// How many steps are done by one set of matrix products. It changes the result by rounding alone; the
    /// default of 64 is the fastest where `head_dim` and `d_state` are around 64 and 128.
    pub chunk_size: usize,
}

/// The decay of an [`Ssd`], where the example is.
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "a scan has one, and is moved once"
)]
pub enum SsdDecay {
    /// The logarithm of each step's decay, `[batch, time, heads]`, at most zero for a state that decays.
    /// The input is taken as it is, as by `ssd_minimal_discrete` of the reference code.
    Logarithm(Tensor<3>),
    /// By step sizes, which the input is multiplied by, too.
    Steps(StepSize),
}

/// The step sizes of an [`Ssd`], where the example is: with `dt` after its bias, softplus and limits, a
/// step decays the state by `exp(dt a)`.
#[derive(Debug, Clone)]
pub struct StepSize {
    /// `[batch, time, heads]`
    pub dt: Tensor<3>,
    /// `[heads]`, negative for a state that decays.
    pub a: Tensor<1>,
    /// Added to `dt`, `[heads]`.
    pub bias: Option<Tensor<1>>,
    /// Whether the step size is the softplus of `dt` and its bias. Off as in the reference; every Mamba-2
    /// has it on.
    pub softplus: bool,
    /// What step sizes are clipped to at last, `[smallest, largest]`.
    pub limit: Option<[f64; 2]>,
}

impl StepSize {
    /// Step sizes that are taken as they are.
    pub fn new(dt: Tensor<3>, a: Tensor<1>) -> Self {
        Self {
            dt,
            a,
            bias: None,
            softplus: false,
            limit: None,
        }
    }

    /// The step sizes and the logarithms of the decays.
    fn discretise(self) -> (Tensor<3>, Tensor<3>) {
        let dt = match self.bias {
            Some(bias) => self.dt + bias.unsqueeze(),
            None => self.dt,
        };
        let dt = match self.softplus {
            true => softplus(dt),
            false => dt,
        };
        let dt = match self.limit {
            Some([low, high]) => dt.clamp(low, high),
            None => dt,
        };
        (dt.clone(), dt * self.a.unsqueeze())
    }
}

/// A scan whose decays are made, without its gate: what kernel and reference body differ in.
struct Scan {
    x: Tensor<4>,
    /// Logarithms, `[batch, time, heads]`.
    log_decay: Tensor<3>,
    /// What multiplies `x`, `[batch, time, heads]`.
    dt: Option<Tensor<3>>,
    b: Tensor<4>,
    c: Tensor<4>,
    /// `[heads, head_dim]`
    d: Option<Tensor<2>>,
    state: Option<Tensor<4>>,
    lengths: Option<Lengths>,
    resets: Option<Vec<Vec<bool>>>,
    chunk_size: usize,
}

impl Ssd {
    /// A scan without the optional parts, which begins at zero.
    pub fn new(x: Tensor<4>, decay: SsdDecay, b: Tensor<4>, c: Tensor<4>) -> Self {
        Self {
            x,
            decay,
            b,
            c,
            d: None,
            z: None,
            state: None,
            lengths: None,
            resets: None,
            chunk_size: 64,
        }
    }

    /// The outputs `[batch, time, heads, head_dim]`, and the state after the last step
    /// `[batch, heads, head_dim, d_state]`.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both, or `chunk_size` is zero.
    pub fn run(self) -> (Tensor<4>, Tensor<4>) {
        self.run_by(|scan| {
            #[cfg(any(feature = "ndarray", feature = "flex"))]
            if scan.has_kernel() {
                return ops::run(scan);
            }
            reference::run(scan)
        })
    }

    /// The specification of [`run`](Self::run), in plain tensor operations; what the fused kernels are
    /// compared with.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn reference(self) -> (Tensor<4>, Tensor<4>) {
        self.run_by(reference::run)
    }

    fn run_by(self, body: impl FnOnce(Scan) -> (Tensor<4>, Tensor<4>)) -> (Tensor<4>, Tensor<4>) {
        self.check();
        let shape @ [_, _, heads, head_dim] = self.x.dims();
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let lengths = self.lengths.clone();
        let clear = |x: Tensor<3>| match &lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        };
        let (dt, log_decay) = match self.decay {
            SsdDecay::Logarithm(decay) => (None, decay),
            SsdDecay::Steps(steps) => {
                let dt = clear(steps.dt);
                let (dt, log_decay) = StepSize { dt, ..steps }.discretise();
                (Some(dt), log_decay)
            }
        };
        let (y, state) = body(Scan {
            x: self.x,
            log_decay,
            dt,
            b: self.b,
            c: self.c,
            d: self.d.map(|d| d.expand([heads, head_dim])),
            state: self.state,
            lengths: self.lengths,
            resets: self.resets,
            chunk_size: self.chunk_size,
        });
        let y = match self.z {
            Some(z) => y * silu(clear(z.flatten(2, 3))).reshape(shape),
            None => y,
        };
        (y, state)
    }

    fn check(&self) {
        let shape @ [batch, time, heads, head_dim] = self.x.dims();
        let [_, _, groups, d_state] = self.b.dims();
        Lengths::check_input(self.lengths.as_ref(), [batch, time, heads * head_dim]);
        let fits = |name: &str, found: &[usize], expected: &[usize]| {
            assert_eq!(
                found, expected,
                "{name} has shape {found:?}, the scan of an input {shape:?} needs {expected:?}"
            );
        };
        match &self.decay {
            SsdDecay::Logarithm(decay) => fits("the decay", &decay.dims(), &[batch, time, heads]),
            SsdDecay::Steps(steps) => {
                fits("dt", &steps.dt.dims(), &[batch, time, heads]);
                fits("a", &steps.a.dims(), &[heads]);
                if let Some(bias) = &steps.bias {
                    fits("the bias of dt", &bias.dims(), &[heads]);
                }
            }
        }
        fits("b", &self.b.dims(), &[batch, time, groups, d_state]);
        fits("c", &self.c.dims(), &[batch, time, groups, d_state]);
        assert!(
            groups > 0 && heads % groups == 0,
            "b has {groups} groups, which do not divide the {heads} heads"
        );
        if let Some(d) = &self.d {
            let [_, width] = d.dims();
            let width = if width == 1 { 1 } else { head_dim };
            fits("d", &d.dims(), &[heads, width]);
        }
        if let Some(z) = &self.z {
            fits("z", &z.dims(), &shape);
        }
        if let Some(state) = &self.state {
            fits(
                "the state",
                &state.dims(),
                &[batch, heads, head_dim, d_state],
            );
        }
        if let Some(resets) = &self.resets {
            let lengths: Vec<usize> = resets.iter().map(Vec::len).collect();
            fits("resets", &lengths, &vec![time; batch]);
        }
        assert!(self.chunk_size > 0, "a chunk needs at least one step");
    }
}

impl Scan {
    #[cfg(any(feature = "ndarray", feature = "flex"))]
    fn has_kernel(&self) -> bool {
        let dtype = self.x.dtype();
        let decays = [Some(&self.log_decay), self.dt.as_ref()];
        let others = [Some(&self.b), Some(&self.c), self.state.as_ref()];
        seq_core::is_cpu(&self.x.device())
            && matches!(dtype, DType::F32 | DType::F64)
            && decays.into_iter().flatten().all(|x| x.dtype() == dtype)
            && others.into_iter().flatten().all(|x| x.dtype() == dtype)
            && self.d.as_ref().is_none_or(|d| d.dtype() == dtype)
    }
}

/// x / (1 + e^-x); Burn's own goes by way of `f32`.
pub(crate) fn silu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * Activation::Sigmoid.forward(x)
}
