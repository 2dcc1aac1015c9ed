use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{DType, Device, Tensor, TensorData};
use nalgebra::DMatrix;
use seq_core::{ConfigError, Lengths, SequenceLayer, SequenceState, StateMapper, linear};

use crate::{Discretisation, Hippo};

/// Configuration of a [`LinearSsm`], made with [`init`](LinearSsmConfig::init).
///
/// ```
/// use seq_ssm::{Hippo, LinearSsmConfig};
///
/// # #[cfg(feature = "ndarray")]
/// let memory = LinearSsmConfig::new(1, 1, 16).with_hippo(Hippo::LegT).init(&seq_ssm::device());
/// ```
#[derive(Config, Debug)]
pub struct LinearSsmConfig {
    /// The width of one input step.
    pub d_input: usize,
    /// The width of one output step.
    pub d_output: usize,
    /// How many states there are.
    pub d_state: usize,
    /// What A and B begin as; every input writes to the states with the same B.
    #[config(default = "Hippo::LegS")]
    pub hippo: Hippo,
    /// How the system becomes one of steps.
    #[config(default = "Discretisation::Bilinear")]
    pub discretisation: Discretisation,
    /// The initial step size.
    #[config(default = 0.01)]
    pub dt: f64,
}

impl LinearSsmConfig {
    /// Makes sure that a layer can be made of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([
            ("d_input", self.d_input),
            ("d_output", self.d_output),
            ("d_state", self.d_state),
        ])?;
        let even = self.hippo != Hippo::Fourier || self.d_state.is_multiple_of(2);
        ConfigError::unless(even, "d_state", "even for Fourier", self.d_state)?;
        ConfigError::bounds([("dt", Some(self.dt))])
    }

    /// Makes the layer, C random and D zero.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self, device: &Device) -> LinearSsm {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        let (a, b) = self.hippo.tensors(self.d_state, device);
        let c = Initializer::Normal {
            mean: 0.0,
            std: 1.0 / (self.d_state as f64).sqrt(),
        };
        LinearSsm {
            log_dt: Param::from_data([self.dt.ln()], device),
            a: Param::from_tensor(a),
            b: Param::from_tensor(b.repeat_dim(1, self.d_input)),
            c: c.init([self.d_output, self.d_state], device),
            d: Initializer::Zeros.init([self.d_output, self.d_input], device),
            discretisation: self.discretisation,
            rate: 1.0,
        }
    }
}

/// A linear system with any matrix and any number of inputs and outputs, made by [`LinearSsmConfig`]:
///
/// ```text
/// s_t = Ad s_{t-1} + Bd x_t
/// y_t = C s_t + D x_t
/// ```
///
/// with Ad and Bd of A and B by [`Discretisation`], differentiable in all of it. It is the system that the
/// structured ones ([`S4`](crate::S4), [`S4d`](crate::S4d), [`S5`](crate::S5)) make fast: a step costs
/// `O(d_state^2)`, and a sequence runs step by step.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_ssm::{LinearSsmConfig, SequenceLayer};
///
/// let device = seq_ssm::device();
/// let ssm = LinearSsmConfig::new(2, 3, 8).init(&device);
/// let x = Tensor::<3>::random([1, 10, 2], Distribution::Default, &device);
/// let (y, state) = ssm.forward(x, None);
/// assert_eq!((y.dims(), state.hidden.dims()), ([1, 10, 3], [1, 8]));
/// # }
/// ```
#[derive(Module, Debug)]
pub struct LinearSsm {
    /// `[1]`: the logarithm of the step size.
    pub log_dt: Param<Tensor<1>>,
    /// `[d_state, d_state]`
    pub a: Param<Tensor<2>>,
    /// `[d_state, d_input]`
    pub b: Param<Tensor<2>>,
    /// `[d_output, d_state]`
    pub c: Param<Tensor<2>>,
    /// `[d_output, d_input]`
    pub d: Param<Tensor<2>>,
    /// How the system becomes one of steps.
    #[module(skip)]
    pub discretisation: Discretisation,
    /// What the step size is multiplied with, 1 while training: 2 runs a trained layer on inputs sampled
    /// at half the rate.
    #[module(skip)]
    pub rate: f64,
}

/// What a [`LinearSsm`] remembers. The example is there.
#[derive(Debug, Clone)]
pub struct LinearState {
    /// `[batch, d_state]`
    pub hidden: Tensor<2>,
}

impl SequenceState for LinearState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            hidden: mapper.tensor("hidden", self.hidden),
        }
    }
}

impl LinearSsm {
    /// How many states there are.
    pub fn d_state(&self) -> usize {
        self.a.dims()[0]
    }

    /// The same layer for inputs sampled at another rate: its step size is `rate` times what it was trained
    /// to be.
    pub fn with_rate(self, rate: f64) -> Self {
        Self { rate, ..self }
    }

    /// Ad `[d_state, d_state]` and Bd `[d_state, d_input]`.
    pub fn discretised(&self) -> (Tensor<2>, Tensor<2>) {
        let (n, inputs) = (self.d_state(), self.d_input());
        let dt = (self.log_dt.val().exp() * self.rate).unsqueeze::<2>();
        let (a, b) = (self.a.val() * dt.clone(), self.b.val() * dt);
        match self.discretisation {
            Discretisation::Zoh => {
                // exp of [[A, B], [0, 0]] dt has Ad and Bd in its first rows.
                let zeros = Tensor::zeros([inputs, n + inputs], (&a.device(), a.dtype()));
                let joint = Tensor::cat(vec![Tensor::cat(vec![a, b], 1), zeros], 0);
                let grown = exponential(joint).narrow(0, 0, n);
                (grown.clone().narrow(1, 0, n), grown.narrow(1, n, inputs))
            }
            Discretisation::Bilinear => {
                let half = a * 0.5;
                let one = Tensor::<2>::eye(n, &half.device()).cast(half.dtype());
                let inverse = inverse(one.clone() - half.clone());
                let grown = inverse.clone().matmul(one + half);
                (grown, inverse.matmul(b))
            }
        }
    }

    /// `C Ad^k Bd` for the first `time` steps k, `[time, d_output, d_input]`.
    ///
    /// # Panics
    ///
    /// When `time` is zero.
    pub fn kernel(&self, time: usize) -> Tensor<3> {
        assert!(time > 0, "a kernel needs at least one value");
        let (a, mut written) = self.discretised();
        let mut values = Vec::with_capacity(time);
        for _ in 0..time {
            let value = self.c.val().matmul(written.clone());
            values.push(value.unsqueeze_dim::<3>(0));
            written = a.clone().matmul(written);
        }
        Tensor::cat(values, 0)
    }

    fn run(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<LinearState>,
    ) -> (Tensor<3>, LinearState) {
        let shape @ [batch, time, width] = x.dims();
        let d_input = self.d_input();
        assert_eq!(
            width, d_input,
            "the input has shape {shape:?}, the layer d_input {d_input}"
        );
        Lengths::check_input(lengths, shape);
        let state = state.unwrap_or_else(|| self.initial_state(batch, &x.device()));
        let (found, expected) = (state.hidden.dims(), [batch, self.d_state()]);
        assert_eq!(
            found, expected,
            "the state has shape {found:?}, the layer and a batch of {batch} need {expected:?}"
        );
        // What the padding holds, NaN perhaps, must not reach a gradient.
        let clear = |x: Tensor<3>| match lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        };
        let x = clear(x);
        let (a, b) = self.discretised();
        let a = a.transpose();
        let written = linear(x.clone(), b.transpose(), None);
        let real = lengths.map(|lengths| lengths.mask(time, &x.device()));
        let (mut hidden, mut states) = (state.hidden, Vec::with_capacity(time));
        for (t, written) in written.split(1, 1).into_iter().enumerate() {
            let next = linear(hidden.clone(), a.clone(), None) + written.squeeze_dim(1);
            hidden = match &real {
                Some(real) => {
                    let real = real.clone().narrow(1, t, 1).expand(next.dims());
                    hidden.mask_where(real, next)
                }
                None => next,
            };
            states.push(hidden.clone().unsqueeze_dim::<3>(1));
        }
        let y = linear(Tensor::cat(states, 1), self.c.val().transpose(), None);
        let y = y + linear(x, self.d.val().transpose(), None);
        (clear(y), LinearState { hidden })
    }
}

/// e to the power of a square matrix: a Taylor series of a part so small that it converges, squared again
/// and again.
fn exponential(x: Tensor<2>) -> Tensor<2> {
    const TERMS: usize = 18;
    let [n, _] = x.dims();
    let norm: f64 = x.clone().detach().abs().sum_dim(1).max().into_scalar();
    let squarings = (norm / 0.5).log2().ceil().max(0.0) as i32;
    let x = x * 0.5f64.powi(squarings);
    let one = Tensor::<2>::eye(n, &x.device()).cast(x.dtype());
    let mut sum = one.clone();
    for term in (1..=TERMS).rev() {
        sum = one.clone() + x.clone().matmul(sum) * (1.0 / term as f64);
    }
    for _ in 0..squarings {
        sum = sum.clone().matmul(sum);
    }
    sum
}

/// The inverse of a matrix: one step of Newton's from what it is already, which gives it its gradient.
fn inverse(x: Tensor<2>) -> Tensor<2> {
    let [n, _] = x.dims();
    let values: Vec<f64> = x.clone().detach().into_data().iter::<f64>().collect();
    let inverse = DMatrix::from_row_slice(n, n, &values).try_inverse();
    let inverse = inverse.unwrap_or_else(|| panic!("I - dt/2 A has no inverse, A {n} x {n}"));
    // nalgebra keeps columns.
    let values = TensorData::new(inverse.transpose().as_slice().to_vec(), [n, n]);
    let known = Tensor::<2>::from_data(values, (&x.device(), x.dtype()));
    known.clone() * 2.0 - known.clone().matmul(x).matmul(known)
}

impl SequenceLayer for LinearSsm {
    type State = LinearState;

    fn d_input(&self) -> usize {
        self.b.dims()[1]
    }

    fn d_output(&self) -> usize {
        self.c.dims()[0]
    }

    fn initial_state(&self, batch: usize, device: &Device) -> LinearState {
        let dtype: DType = self.a.val().dtype();
        LinearState {
            hidden: Tensor::zeros([batch, self.d_state()], (device, dtype)),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<LinearState>) -> (Tensor<3>, LinearState) {
        self.run(x, None, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<LinearState>,
    ) -> (Tensor<3>, LinearState) {
        self.run(x, Some(lengths), state)
    }

    fn step(&self, x: Tensor<2>, state: LinearState) -> (Tensor<2>, LinearState) {
        let (y, state) = self.run(x.unsqueeze_dim(1), None, Some(state));
        (y.squeeze_dim(1), state)
    }
}
