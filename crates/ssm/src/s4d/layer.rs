use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{DType, Device, Tensor};
use seq_core::convolution::two_sided_convolution;
use seq_core::recurrent::Activation;
use seq_core::scan::Complex;
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper, linear};

use super::modes::Modes;
use crate::Discretisation;
use crate::block::gelu;
use crate::convolution::convolve;
use crate::unroll::unroll;

/// S4D (Gu et al. 2022, <https://arxiv.org/abs/2206.11893>), made by [`S4dConfig`](crate::S4dConfig): for
/// every feature a linear system whose matrix is diagonal, discretised by the zero-order hold or the
/// bilinear rule, see [`Discretisation`]:
///
/// ```text
/// A = -exp(log_a_real) + i a_imag,   dt = exp(log_dt)
/// s_t = Ad s_{t-1} + Bd x_t,   B = 1
/// y_t = 2 Re(C s_t) + d x_t
/// ```
///
/// The states are conjugate pairs, of which one number each is kept. As the real part of A is negative
/// whatever the parameters are, no state grows by itself.
///
/// Whole sequences run as a convolution in `O(time log time)`, with the states handed on exactly, steps in
/// `O(d_state)`. On CPUs the powers of Ad are made in `f64`, whatever the layer is of, as the angle of a
/// late one is large. Above 64 steps, the convolution is by the Fourier transform, so that an output is
/// independent of later inputs up to rounding alone.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_ssm::{S4dConfig, SequenceLayer};
///
/// let device = seq_ssm::device();
/// let s4d = S4dConfig::new(4).with_d_state(16).init(&device);
/// let x = Tensor::<3>::random([2, 100, 4], Distribution::Default, &device);
/// let (y, state) = s4d.forward(x, None);
/// assert_eq!((y.dims(), state.hidden.dims()), ([2, 100, 4], [2, 4, 16]));
///
/// let (y, _state) = s4d.step(Tensor::zeros([2, 4], &device), state);
/// assert_eq!(y.dims(), [2, 4]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct S4d {
    /// `[d_model]`: the logarithm of the step size.
    pub log_dt: Param<Tensor<1>>,
    /// `[d_model, d_state / 2]`: the logarithm of minus the real parts of the diagonal.
    pub log_a_real: Param<Tensor<2>>,
    /// `[d_model, d_state / 2]`: the imaginary parts of the diagonal.
    pub a_imag: Param<Tensor<2>>,
    /// `[d_model, d_state / 2, 2]`, real and imaginary: what the output reads of the state.
    pub c: Param<Tensor<3>>,
    /// The same of the kernel that reads what comes after a step, from the next one on.
    pub c_backward: Option<Param<Tensor<3>>>,
    /// `[d_model]`: the share of the input in the output.
    pub d: Param<Tensor<1>>,
    /// From `d_model` to twice that, the second half of which gates the first.
    pub mixing: Option<Linear>,
    /// How the system becomes one of steps.
    #[module(skip)]
    pub discretisation: Discretisation,
    /// What the step sizes are multiplied with, 1 while training: 2 runs a trained layer on inputs sampled
    /// at half the rate.
    #[module(skip)]
    pub rate: f64,
}

/// What an [`S4d`] layer remembers. The example is there.
#[derive(Debug, Clone)]
pub struct S4dState {
    /// The real parts of the conjugate pairs and then the imaginary ones, `[batch, d_model, d_state]`.
    pub hidden: Tensor<3>,
}

impl SequenceState for S4dState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            hidden: mapper.tensor("hidden", self.hidden),
        }
    }
}

impl S4dState {
    fn complex(self) -> Complex<3> {
        let [_, _, d_state] = self.hidden.dims();
        let part = |first| self.hidden.clone().narrow(2, first, d_state / 2);
        Complex::new(part(0), part(d_state / 2))
    }

    fn of(states: Complex<3>) -> Self {
        Self {
            hidden: Tensor::cat(vec![states.re, states.im], 2),
        }
    }
}

/// A layer's system of steps.
struct System {
    /// The logarithm of Ad, `[d_model, pairs]`.
    log: Complex<2>,
    /// Ad - 1, `[d_model, pairs]`: of a slow state, Ad itself rounded to `f32` says little of how fast.
    change: Complex<2>,
    /// Bd, `[d_model, pairs]`.
    b: Complex<2>,
}

impl S4d {
    /// How many real states a feature has.
    pub fn d_state(&self) -> usize {
        2 * self.a_imag.dims()[1]
    }

    /// The same layer for inputs sampled at another rate: its step sizes are `rate` times what they were
    /// trained to be.
    pub fn with_rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// The diagonal of A, `[d_model, d_state / 2]`: the half with a conjugate each.
    pub fn a(&self) -> Complex<2> {
        Complex::new(-self.log_a_real.val().exp(), self.a_imag.val())
    }

    /// The first `time` values of the kernel that the layer convolves its input with, `[d_model, time]`,
    /// without d.
    ///
    /// # Panics
    ///
    /// When `time` is zero.
    pub fn kernel(&self, time: usize) -> Tensor<2> {
        assert!(time > 0, "a kernel needs at least one value");
        let (system, modes) = self.prepare(time);
        modes.kernel(self.read(&self.c, &system))
    }

    /// The same of the kernel that reads what comes after a step, if there is one: its first value belongs
    /// to the next step.
    ///
    /// # Panics
    ///
    /// When `time` is zero.
    pub fn kernel_backward(&self, time: usize) -> Option<Tensor<2>> {
        assert!(time > 0, "a kernel needs at least one value");
        let (system, modes) = self.prepare(time);
        let c = self.c_backward.as_ref()?;
        Some(modes.kernel(self.read(c, &system)))
    }

    /// The specification of [`forward_padded`](SequenceLayer::forward_padded) for a layer that reads forward:
    /// one step after the other.
    ///
    /// # Panics
    ///
    /// As `forward_padded`.
    pub fn reference(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: S4dState,
    ) -> (Tensor<3>, S4dState) {
        self.check(x.dims(), lengths, Some(&state));
        unroll(self, x, lengths, state)
    }

    /// The most precise type that the device is known to compute in.
    fn precise(&self) -> DType {
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        if seq_core::is_cpu(&self.d.device()) {
            return DType::F64;
        }
        self.d.val().dtype()
    }

    fn system(&self, dtype: DType) -> System {
        let dt = self.log_dt.val().cast(dtype).exp() * self.rate;
        let dt = dt.unsqueeze_dim::<2>(1);
        let a = self.a().map(|plane| plane.cast(dtype));
        let (change, b) = self.discretisation.diagonal(a.clone(), dt.clone());
        let log = match self.discretisation {
            Discretisation::Zoh => a.map(|plane| plane * dt.clone()),
            Discretisation::Bilinear => {
                let grown = Complex::new(change.re.clone() + 1.0, change.im.clone());
                // Where nothing of a state is left, the logarithm would be infinite.
                let square = grown.clone().abs2().clamp_min(1e-36);
                Complex::new(logarithm(square) * 0.5, angle(grown))
            }
        };
        System { log, change, b }
    }

    fn prepare(&self, time: usize) -> (System, Modes) {
        let system = self.system(self.precise());
        let modes = Modes::new(system.log.clone(), time, self.d.val().dtype());
        (system, modes)
    }

    /// C times Bd: what a kernel is the powers of.
    fn read(&self, c: &Param<Tensor<3>>, system: &System) -> Complex<2> {
        let dtype = self.d.val().dtype();
        planes(c.val()) * system.b.clone().map(|plane| plane.cast(dtype))
    }

    fn run(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<S4dState>,
    ) -> (Tensor<3>, S4dState) {
        let [batch, time, _] = x.dims();
        self.check(x.dims(), lengths, state.as_ref());
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let clear = |x: Tensor<3>| match lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        };
        let x = clear(x);
        let dtype = x.dtype();
        let (system, modes) = self.prepare(time);
        let cast = |numbers: Complex<2>| numbers.map(|plane| plane.cast(dtype).unsqueeze::<3>());
        let kernel = modes.kernel(self.read(&self.c, &system));
        let convolved = match &self.c_backward {
            Some(c) => {
                let ahead = modes.kernel(self.read(c, &system));
                two_sided_convolution(x.clone(), kernel, ahead)
            }
            None => convolve(x.clone(), kernel),
        };
        let mut y = convolved + x.clone() * self.d.val().unsqueeze();
        let mut states = modes.collect(x, lengths) * cast(system.b.clone());
        if let Some(state) = state {
            let state = state.complex();
            let first = cast(system.log.clone().exp()) * state.clone();
            let c = planes(self.c.val()).map(|plane| plane.unsqueeze::<3>());
            y = y + modes.respond(first * c);
            states = states + modes.across(batch, lengths) * state;
        }
        (clear(self.mix(y)), S4dState::of(states))
    }

    fn mix<const D: usize>(&self, y: Tensor<D>) -> Tensor<D> {
        let Some(map) = &self.mixing else { return y };
        let bias = map.bias.as_ref().map(Param::val);
        let y = linear(gelu(y), map.weight.val(), bias);
        let width = self.d_input();
        let gate = y.clone().narrow(D - 1, width, width);
        y.narrow(D - 1, 0, width) * Activation::Sigmoid.forward(gate)
    }

    fn check(&self, x: [usize; 3], lengths: Option<&Lengths>, state: Option<&S4dState>) {
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

    fn check_state(&self, state: &S4dState, batch: usize) {
        let found = state.hidden.dims();
        let expected = [batch, self.d_input(), self.d_state()];
        assert_eq!(
            found, expected,
            "the state has shape {found:?}, the layer and a batch of {batch} need {expected:?}"
        );
    }
}

/// The logarithm, by a step of Newton's from what the device makes of it, which on GPUs is rough.
fn logarithm(x: Tensor<2>) -> Tensor<2> {
    let rough = x.clone().detach().log();
    x * (-rough.clone()).exp() - 1.0 + rough
}

/// The angles of numbers, in the same way.
fn angle(z: Complex<2>) -> Tensor<2> {
    let rough = z.im.clone().detach().atan2(z.re.clone().detach());
    let (sin, cos) = (rough.clone().sin(), rough.clone().cos());
    let across = z.im.clone() * cos.clone() - z.re.clone() * sin.clone();
    let along = z.re * cos + z.im * sin;
    // Zero has no angle.
    across / along.clamp_min(1e-18) + rough
}

/// The real and the imaginary parts of numbers stored side by side.
fn planes(x: Tensor<3>) -> Complex<2> {
    let plane = |index| x.clone().narrow(2, index, 1).squeeze_dim(2);
    Complex::new(plane(0), plane(1))
}

impl SequenceLayer for S4d {
    type State = S4dState;

    fn d_input(&self) -> usize {
        self.d.dims()[0]
    }

    fn d_output(&self) -> usize {
        self.d.dims()[0]
    }

    fn initial_state(&self, batch: usize, device: &Device) -> S4dState {
        let shape = [batch, self.d_input(), self.d_state()];
        S4dState {
            hidden: Tensor::zeros(shape, (device, self.d.val().dtype())),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<S4dState>) -> (Tensor<3>, S4dState) {
        self.run(x, None, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<S4dState>,
    ) -> (Tensor<3>, S4dState) {
        self.run(x, Some(lengths), state)
    }

    /// # Panics
    ///
    /// As the trait says, and for a bidirectional layer, which needs the whole sequence.
    fn step(&self, x: Tensor<2>, state: S4dState) -> (Tensor<2>, S4dState) {
        let shape @ [batch, width] = x.dims();
        let d_model = self.d_input();
        assert_eq!(
            width, d_model,
            "the input has shape {shape:?}, the layer d_model {d_model}"
        );
        assert!(
            self.c_backward.is_none(),
            "a bidirectional layer needs the whole sequence and has no step"
        );
        self.check_state(&state, batch);
        let (system, dtype) = (self.system(self.precise()), x.dtype());
        let cast = |numbers: Complex<2>| numbers.map(|plane| plane.cast(dtype).unsqueeze::<3>());
        let written = cast(system.b).map(|plane| plane * x.clone().unsqueeze_dim(2));
        let state = state.complex();
        let states = state.clone() + cast(system.change) * state + written;
        let read = states.clone() * cast(planes(self.c.val()));
        let y = read.re.sum_dim(2).squeeze_dim::<2>(2) * 2.0 + x * self.d.val().unsqueeze();
        (self.mix(y), S4dState::of(states))
    }
}
