use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use seq_core::scan::{Complex, ComplexDecay, ComplexScan};
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper, linear};

use crate::Discretisation;

/// S5 (Smith et al. 2022, <https://arxiv.org/abs/2208.04933>), made by [`S5Config`](crate::S5Config): one
/// diagonal system for all features, whose states are conjugate pairs of which one number each is kept:
///
/// ```text
/// s_t = Ad s_{t-1} + Bd x_t,   A = -exp(log_a_real) + i a_imag,   dt = exp(log_dt), one each state
/// y_t = 2 Re(C s_t) + d x_t
/// ```
///
/// discretised by zero-order hold, `Ad = exp(dt A)` and `Bd = (Ad - 1) / A B`, or by the bilinear rule.
/// Whole sequences run by a parallel scan. [`Bidirectional`](crate::Bidirectional) of two reads a
/// sequence both ways.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_ssm::{Bidirectional, S5Config, SequenceLayer};
///
/// let device = seq_ssm::device();
/// let config = S5Config::new(4).with_d_state(16).with_num_blocks(2);
/// let s5 = config.init(&device);
/// let x = Tensor::<3>::random([2, 100, 4], Distribution::Default, &device);
/// let (y, state) = s5.forward(x.clone(), None);
/// assert_eq!((y.dims(), state.hidden.dims()), ([2, 100, 4], [2, 16]));
///
/// let (y, _state) = s5.step(Tensor::zeros([2, 4], &device), state);
/// assert_eq!(y.dims(), [2, 4]);
///
/// let both = Bidirectional::new(s5, config.init(&device));
/// assert_eq!(both.forward(x, None).0.dims(), [2, 100, 8]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct S5 {
    /// `[d_state / 2]`: the logarithm of the step size.
    pub log_dt: Param<Tensor<1>>,
    /// `[d_state / 2]`: the logarithm of minus the real part of A, so that no state can grow by itself.
    pub log_a_real: Param<Tensor<1>>,
    /// `[d_state / 2]`: the imaginary part of A.
    pub a_imag: Param<Tensor<1>>,
    /// `[d_state / 2, d_model, 2]`, real and imaginary: what the input writes to the states.
    pub b: Param<Tensor<3>>,
    /// `[d_model, d_state / 2, 2]`, real and imaginary: what the output reads of the states.
    pub c: Param<Tensor<3>>,
    /// `[d_model]`: the share of the input in the output.
    pub d: Param<Tensor<1>>,
    /// How the system becomes one of steps.
    #[module(skip)]
    pub discretisation: Discretisation,
    /// What the step sizes are multiplied with, 1 while training: 2 runs a trained layer on inputs sampled
    /// at half the rate.
    #[module(skip)]
    pub rate: f64,
}

/// What an [`S5`] layer remembers. The example is there.
#[derive(Debug, Clone)]
pub struct S5State {
    /// The real parts of the conjugate pairs and then the imaginary ones, `[batch, d_state]`.
    pub hidden: Tensor<2>,
}

impl SequenceState for S5State {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            hidden: mapper.tensor("hidden", self.hidden),
        }
    }
}

impl S5 {
    /// How many real states there are.
    pub fn d_state(&self) -> usize {
        2 * self.a_imag.dims()[0]
    }

    /// The same layer for inputs sampled at another rate: its step sizes are `rate` times what they were
    /// trained to be.
    pub fn with_rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// As [`forward`](SequenceLayer::forward), for rows that hold several sequences one after the other:
    /// `resets[row][step]` says where one begins. Nothing of a sequence reaches the next.
    ///
    /// # Panics
    ///
    /// As `forward`, and when `resets` does not fit `x`.
    pub fn forward_packed(
        &self,
        x: Tensor<3>,
        resets: Vec<Vec<bool>>,
        state: Option<S5State>,
    ) -> (Tensor<3>, S5State) {
        self.run(x, None, Some(resets), state, ComplexScan::run)
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
        state: S5State,
    ) -> (Tensor<3>, S5State) {
        self.run(x, lengths, None, Some(state), ComplexScan::sequential)
    }

    fn run(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        resets: Option<Vec<Vec<bool>>>,
        state: Option<S5State>,
        scan: impl Fn(ComplexScan) -> (Complex<3>, Complex<2>),
    ) -> (Tensor<3>, S5State) {
        let shape @ [batch, _, width] = x.dims();
        let (d_model, pairs) = (self.d_input(), self.a_imag.dims()[0]);
        assert_eq!(
            width, d_model,
            "the input has shape {shape:?}, the layer d_model {d_model}"
        );
        Lengths::check_input(lengths, shape);
        if let Some(state) = &state {
            let found = state.hidden.dims();
            assert_eq!(
                found,
                [batch, 2 * pairs],
                "the state has shape {found:?}, the layer and the batch need [{batch}, {}]",
                2 * pairs
            );
        }
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let x = match lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        };
        let (decay, b) = self.discretised();
        // Of both planes in one product each, `[d_model, d_state]` and `[d_state, d_model]`.
        let b = Tensor::cat(vec![b.re, b.im], 0).swap_dims(0, 1);
        let c = planes(self.c.val());
        let c = Tensor::cat(vec![c.re * 2.0, c.im * -2.0], 1).swap_dims(0, 1);
        let written = linear(x.clone(), b, None);
        let part = |first| written.clone().narrow(2, first, pairs);
        let (states, last) = scan(ComplexScan {
            state: state.map(|state| {
                let part = |first| state.hidden.clone().narrow(1, first, pairs);
                Complex::new(part(0), part(pairs))
            }),
            lengths: lengths.cloned(),
            resets,
            ..ComplexScan::new(
                ComplexDecay::Constant(decay),
                Complex::new(part(0), part(pairs)),
            )
        });
        let y = linear(Tensor::cat(vec![states.re, states.im], 2), c, None);
        let hidden = Tensor::cat(vec![last.re, last.im], 1);
        (y + x * self.d.val().unsqueeze(), S5State { hidden })
    }

    /// What a step leaves of a state `[d_state / 2]`, and what an input writes, `[d_state / 2, d_model]`.
    fn discretised(&self) -> (Complex<1>, Complex<2>) {
        let dt = self.log_dt.val().exp() * self.rate;
        let a = Complex::new(-self.log_a_real.val().exp(), self.a_imag.val());
        let (change, scale) = self.discretisation.diagonal(a, dt);
        let decay = Complex::new(change.re + 1.0, change.im);
        let scale = scale.map(|plane| plane.unsqueeze_dim::<2>(1));
        (decay, scale * planes(self.b.val()))
    }
}

/// The real and the imaginary parts of numbers stored side by side.
fn planes(x: Tensor<3>) -> Complex<2> {
    let plane = |index| x.clone().narrow(2, index, 1).squeeze_dim(2);
    Complex::new(plane(0), plane(1))
}

impl SequenceLayer for S5 {
    type State = S5State;

    fn d_input(&self) -> usize {
        self.d.dims()[0]
    }

    fn d_output(&self) -> usize {
        self.d.dims()[0]
    }

    fn initial_state(&self, batch: usize, device: &Device) -> S5State {
        S5State {
            hidden: Tensor::zeros([batch, self.d_state()], (device, self.d.val().dtype())),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<S5State>) -> (Tensor<3>, S5State) {
        self.run(x, None, None, state, ComplexScan::run)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<S5State>,
    ) -> (Tensor<3>, S5State) {
        self.run(x, Some(lengths), None, state, ComplexScan::run)
    }

    fn step(&self, x: Tensor<2>, state: S5State) -> (Tensor<2>, S5State) {
        let (y, state) = self.forward(x.unsqueeze_dim(1), Some(state));
        (y.squeeze_dim(1), state)
    }
}
