//! The selective scan, the recurrence at the heart of Mamba.

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
use burn::tensor::{Bool, Tensor, TensorData};
use seq_core::Lengths;

pub(crate) use reference::softplus;

/// The selective scan (Gu and Dao 2023, <https://arxiv.org/abs/2312.00752>, algorithm 2), with all that
/// `selective_scan_fn` of the reference code has, and initial states, lengths and resets.
///
/// For every channel of width `d_state`, with `delta_t` after its bias and softplus:
///
/// ```text
/// h_t = exp(delta_t A) * h_{t-1} + delta_t B_t u_t
/// y_t = (C_t h_t + D u_t) * silu(z_t)
/// ```
///
/// On CPU backends, in `f32` and `f64`, it runs by a fused kernel that never stores the states of all
/// steps, forward and backward; elsewhere by the [`reference`](Self::reference) body.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_mamba::{Projection, SelectiveScan};
///
/// let device = seq_mamba::device();
/// let random = |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Default, &device);
/// // Batch 2, time 10, d_inner 8, d_state 4.
/// let scan = SelectiveScan {
///     d: Some(Tensor::ones([8], &device)),
///     delta_softplus: true,
///     ..SelectiveScan::new(
///         random([2, 10, 8]),
///         random([2, 10, 8]),
///         -Tensor::ones([8, 4], &device),
///         Projection::Varying(random([2, 10, 4]).unsqueeze_dim(2)),
///         Projection::Varying(random([2, 10, 4]).unsqueeze_dim(2)),
///     )
/// };
/// let (y, state) = scan.run();
/// assert_eq!((y.dims(), state.dims()), ([2, 10, 8], [2, 8, 4]));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SelectiveScan {
    /// The input, `[batch, time, d_inner]`.
    pub u: Tensor<3>,
    /// The step size, `[batch, time, d_inner]`.
    pub delta: Tensor<3>,
    /// `[d_inner, d_state]`, negative for a state that decays.
    pub a: Tensor<2>,
    /// What the input writes to the state.
    pub b: Projection,
    /// What the output reads of the state.
    pub c: Projection,
    /// The share of the input in the output, `[d_inner]`.
    pub d: Option<Tensor<1>>,
    /// The gate of the output, `[batch, time, d_inner]`.
    pub z: Option<Tensor<3>>,
    /// Added to `delta`, `[d_inner]`.
    pub delta_bias: Option<Tensor<1>>,
    /// Whether the step size is the softplus of `delta` and its bias. Off as in the reference; every
    /// Mamba has it on.
    pub delta_softplus: bool,
    /// The state before the first step, `[batch, d_inner, d_state]`; by default zeros.
    pub state: Option<Tensor<3>>,
    /// How long each sequence is. Beyond its end the output is zero, and the state stays what it was
    /// there.
    pub lengths: Option<Lengths>,
    /// Where a new sequence begins inside a row: a row of the batch for each row of `[batch][time]`. The
    /// state before such a step is zero, whatever it was.
    pub resets: Option<Vec<Vec<bool>>>,
}

/// The matrices B and C of a selective scan.
///
/// The example is at [`SelectiveScan`].
#[derive(Debug, Clone)]
pub enum Projection {
    /// The same at all steps, `[d_inner, d_state]`.
    Constant(Tensor<2>),
    /// One for each step, `[batch, time, n_groups, d_state]`; the channels of a group are neighbours
    /// and share it. `n_groups` must divide `d_inner`.
    Varying(Tensor<4>),
}

impl SelectiveScan {
    /// A scan without the optional parts, which begins at zero.
    pub fn new(u: Tensor<3>, delta: Tensor<3>, a: Tensor<2>, b: Projection, c: Projection) -> Self {
        Self {
            u,
            delta,
            a,
            b,
            c,
            d: None,
            z: None,
            delta_bias: None,
            delta_softplus: false,
            state: None,
            lengths: None,
            resets: None,
        }
    }

    /// The outputs `[batch, time, d_inner]`, and the state after the last step
    /// `[batch, d_inner, d_state]`.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn run(self) -> (Tensor<3>, Tensor<3>) {
        self.check();
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        if self.has_kernel() {
            return ops::run(self);
        }
        reference::run(self)
    }

    /// The specification of [`run`](Self::run), in plain tensor operations; what the fused kernels are
    /// compared with.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn reference(self) -> (Tensor<3>, Tensor<3>) {
        self.check();
        reference::run(self)
    }

    #[cfg(any(feature = "ndarray", feature = "flex"))]
    fn has_kernel(&self) -> bool {
        let dtype = self.u.dtype();
        let vectors = [&self.d, &self.delta_bias].into_iter().flatten();
        let others = [Some(&self.delta), self.z.as_ref(), self.state.as_ref()];
        seq_core::is_cpu(&self.u.device())
            && matches!(dtype, DType::F32 | DType::F64)
            && others.into_iter().flatten().all(|x| x.dtype() == dtype)
            && vectors.into_iter().all(|x| x.dtype() == dtype)
            && self.a.dtype() == dtype
            && [&self.b, &self.c].into_iter().all(|x| x.dtype() == dtype)
    }

    fn check(&self) {
        let [batch, time, d_inner] = self.u.dims();
        let [_, d_state] = self.a.dims();
        Lengths::check_input(self.lengths.as_ref(), self.u.dims());
        let fits = |name: &str, found: &[usize], expected: &[usize]| {
            assert_eq!(
                found, expected,
                "{name} has shape {found:?}, the scan of an input [{batch}, {time}, {d_inner}] needs {expected:?}"
            );
        };
        fits("delta", &self.delta.dims(), &[batch, time, d_inner]);
        fits("a", &self.a.dims(), &[d_inner, d_state]);
        for (name, projection) in [("b", &self.b), ("c", &self.c)] {
            match projection {
                Projection::Constant(x) => fits(name, &x.dims(), &[d_inner, d_state]),
                Projection::Varying(x) => {
                    let [_, _, groups, _] = x.dims();
                    fits(name, &x.dims(), &[batch, time, groups, d_state]);
                    assert!(
                        groups > 0 && d_inner % groups == 0,
                        "{name} has {groups} groups, which do not divide the {d_inner} channels"
                    );
                }
            }
        }
        for (name, vector) in [("d", &self.d), ("delta_bias", &self.delta_bias)] {
            if let Some(vector) = vector {
                fits(name, &vector.dims(), &[d_inner]);
            }
        }
        if let Some(z) = &self.z {
            fits("z", &z.dims(), &[batch, time, d_inner]);
        }
        if let Some(state) = &self.state {
            fits("the state", &state.dims(), &[batch, d_inner, d_state]);
        }
        if let Some(resets) = &self.resets {
            let lengths: Vec<usize> = resets.iter().map(Vec::len).collect();
            fits("resets", &lengths, &vec![time; batch]);
        }
    }
}

impl Projection {
    #[cfg(any(feature = "ndarray", feature = "flex"))]
    fn dtype(&self) -> DType {
        match self {
            Self::Constant(x) => x.dtype(),
            Self::Varying(x) => x.dtype(),
        }
    }

    /// `[batch, time, d_inner, d_state]`
    fn spread(self, [batch, time, d_inner]: [usize; 3]) -> Tensor<4> {
        match self {
            Self::Constant(x) => {
                let [_, d_state] = x.dims();
                x.unsqueeze::<4>().expand([batch, time, d_inner, d_state])
            }
            Self::Varying(x) => {
                let [_, _, groups, d_state] = x.dims();
                x.unsqueeze_dim::<5>(3)
                    .expand([batch, time, groups, d_inner / groups, d_state])
                    .reshape([batch, time, d_inner, d_state])
            }
        }
    }
}

/// `[batch, time]` on the device of `like`.
fn reset_mask(resets: &[Vec<bool>], like: &Tensor<3>) -> Tensor<2, Bool> {
    let [batch, time, _] = like.dims();
    let flat: Vec<bool> = resets.iter().flatten().copied().collect();
    Tensor::from_data(TensorData::new(flat, [batch, time]), &like.device())
}
