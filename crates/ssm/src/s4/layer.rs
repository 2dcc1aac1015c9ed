use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor};
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper};

use super::powers::Powers;
use super::system::System;
use crate::unroll::unroll;

/// S4 (Gu et al. 2021, <https://arxiv.org/abs/2111.00396>), made by [`S4Config`](crate::S4Config): for
/// every feature a linear system whose matrix is diagonal plus of rank 1, discretised by the bilinear
/// rule:
///
/// ```text
/// A = diag(lambda) - p p*,   lambda = -exp(log_a_real) + i a_imag,   h = exp(log_dt) / 2
/// s_t = (I - h A)^-1 ((I + h A) s_{t-1} + 2 h B x_t)
/// y_t = 2 Re(C s_t) + d x_t
/// ```
///
/// The states are conjugate pairs, of which one number each is kept; p* sums over both. As the real part
/// of A is negative whatever the parameters are (Goel et al. 2022, <https://arxiv.org/abs/2202.09729>), no
/// state grows by itself.
///
/// Whole sequences run as a convolution in `O(time log time)`, with the states handed on exactly, steps
/// in `O(d_state)`. On CPUs the kernel is made in `f64`, whatever the layer is of: the powers of a matrix near
/// the identity, in `f32`, would lose what a short step changes. Above 64 steps, the convolution is by the
/// Fourier transform, so that an output is independent of later inputs up to rounding alone.
///
/// It mixes no features; [`S4Block`](crate::S4Block) does.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_ssm::{S4Config, SequenceLayer};
///
/// let device = seq_ssm::device();
/// let s4 = S4Config::new(4).with_d_state(16).init(&device);
/// let x = Tensor::<3>::random([2, 100, 4], Distribution::Default, &device);
/// let (y, state) = s4.forward(x, None);
/// assert_eq!((y.dims(), state.hidden.dims()), ([2, 100, 4], [2, 4, 16]));
///
/// let (y, _state) = s4.step(Tensor::zeros([2, 4], &device), state);
/// assert_eq!(y.dims(), [2, 4]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct S4 {
    /// `[d_model]`: the logarithm of the step size.
    pub log_dt: Param<Tensor<1>>,
    /// `[d_model, d_state / 2]`: the logarithm of minus the real parts of the diagonal.
    pub log_a_real: Param<Tensor<2>>,
    /// `[d_model, d_state / 2]`: the imaginary parts of the diagonal.
    pub a_imag: Param<Tensor<2>>,
    /// `[d_model, d_state / 2, 2]`, real and imaginary: the part of rank 1.
    pub p: Param<Tensor<3>>,
    /// `[d_model, d_state / 2, 2]`, real and imaginary: what the input writes to the state.
    pub b: Param<Tensor<3>>,
    /// `[d_model, d_state / 2, 2]`, real and imaginary: what the output reads of the state.
    pub c: Param<Tensor<3>>,
    /// `[d_model]`: the share of the input in the output.
    pub d: Param<Tensor<1>>,
    /// What the step sizes are multiplied with, 1 while training: 2 runs a trained layer on inputs sampled
    /// at half the rate.
    #[module(skip)]
    pub rate: f64,
}

/// What an [`S4`] layer remembers. The example is there.
#[derive(Debug, Clone)]
pub struct S4State {
    /// The real parts of the conjugate pairs and then the imaginary ones, `[batch, d_model, d_state]`.
    pub hidden: Tensor<3>,
}

impl SequenceState for S4State {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            hidden: mapper.tensor("hidden", self.hidden),
        }
    }
}

impl S4 {
    /// How many real states a feature has.
    pub fn d_state(&self) -> usize {
        2 * self.a_imag.dims()[1]
    }

    /// The same layer for inputs sampled at another rate: its step sizes are `rate` times what they were
    /// trained to be.
    pub fn with_rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// The step sizes `[d_model]`.
    pub(super) fn dt(&self) -> Tensor<1> {
        self.log_dt.val().exp() * self.rate
    }

    /// The first `time` values of the kernel that the layer convolves its input with, `[d_model, time]`,
    /// without d.
    ///
    /// # Panics
    ///
    /// When `time` is zero.
    pub fn kernel(&self, time: usize) -> Tensor<2> {
        assert!(time > 0, "a kernel needs at least one value");
        self.powers(time).kernel
    }

    /// The specification of [`forward_padded`](SequenceLayer::forward_padded): one step after the other.
    ///
    /// # Panics
    ///
    /// As `forward_padded`.
    pub fn reference(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: S4State,
    ) -> (Tensor<3>, S4State) {
        self.check(x.dims(), lengths, Some(&state));
        unroll(self, x, lengths, state)
    }

    fn powers(&self, time: usize) -> Powers {
        let system = System::new(self, self.precise());
        Powers::new(&system, time, self.d.val().dtype())
    }

    /// The most precise type that the device is known to compute in.
    fn precise(&self) -> DType {
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        if seq_core::is_cpu(&self.d.device()) {
            return DType::F64;
        }
        self.d.val().dtype()
    }

    fn run(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<S4State>,
    ) -> (Tensor<3>, S4State) {
        let [_, time, _] = x.dims();
        self.check(x.dims(), lengths, state.as_ref());
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let clear = |x: Tensor<3>| match lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        };
        let x = clear(x);
        let powers = self.powers(time);
        let mut y = powers.convolve(x.clone()) + x.clone() * self.d.val().unsqueeze();
        let mut hidden = powers.collect(x, lengths);
        if let Some(state) = state {
            y = y + powers.respond(state.hidden.clone());
            hidden = hidden + powers.advance(state.hidden, lengths);
        }
        (clear(y), S4State { hidden })
    }

    fn check(&self, x: [usize; 3], lengths: Option<&Lengths>, state: Option<&S4State>) {
        let ([batch, _, width], d_model) = (x, self.d_input());
        assert_eq!(
            width, d_model,
            "the input has shape {x:?}, the layer d_model {d_model}"
        );
        Lengths::check_input(lengths, x);
        if let Some(state) = state {
            self.check_state(state, batch);
        }
    }

    fn check_state(&self, state: &S4State, batch: usize) {
        let found = state.hidden.dims();
        let expected = [batch, self.d_input(), self.d_state()];
        assert_eq!(
            found, expected,
            "the state has shape {found:?}, the layer and a batch of {batch} need {expected:?}"
        );
    }
}

impl SequenceLayer for S4 {
    type State = S4State;

    fn d_input(&self) -> usize {
        self.d.dims()[0]
    }

    fn d_output(&self) -> usize {
        self.d.dims()[0]
    }

    fn initial_state(&self, batch: usize, device: &Device) -> S4State {
        let shape = [batch, self.d_input(), self.d_state()];
        S4State {
            hidden: Tensor::zeros(shape, (device, self.d.val().dtype())),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<S4State>) -> (Tensor<3>, S4State) {
        self.run(x, None, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<S4State>,
    ) -> (Tensor<3>, S4State) {
        self.run(x, Some(lengths), state)
    }

    fn step(&self, x: Tensor<2>, state: S4State) -> (Tensor<2>, S4State) {
        let shape @ [batch, width] = x.dims();
        let d_model = self.d_input();
        assert_eq!(
            width, d_model,
            "the input has shape {shape:?}, the layer d_model {d_model}"
        );
        self.check_state(&state, batch);
        let system = System::new(self, x.dtype());
        let written = x.clone().unsqueeze_dim::<3>(2) * system.b.clone().unsqueeze();
        let hidden = system.advance(state.hidden) + written;
        let y = (hidden.clone() * system.c.unsqueeze()).sum_dim(2);
        let y = y.squeeze_dim::<2>(2) + x * self.d.val().unsqueeze();
        (y, S4State { hidden })
    }
}
