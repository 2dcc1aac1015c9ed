use std::f64::consts::{PI, TAU};

use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use seq_core::recurrent::Activation;
use seq_core::scan::{Decay, LinearScan};
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper, linear, unroll};

use crate::gated_norm::{self, GatedNorm};
use crate::mixer::{Sequences, check_width, project};
use crate::ssd::silu;
use crate::{Ssd, SsdDecay, softplus};

/// Mamba-3 (the reference code's `Mamba3` of <https://github.com/state-spaces/mamba>, without its several
/// inputs and outputs a head, MIMO), made by [`Mamba3Config`](crate::Mamba3Config). Of every head, whose
/// state is a matrix `[head_dim, d_state]`:
///
/// ```text
/// z, v, B, C, dt, a, trap, angle = parts of in_proj(x)
/// dt = softplus(dt + dt_bias),   a = -max(f(a), a_floor),   trap = sigmoid(trap)
/// theta_t = theta_{t-1} + dt_t pi tanh(angle_t)
/// k_t = turn(rms_norm(B_t) + b_bias, theta_t),   q_t = turn(rms_norm(C_t) + c_bias, theta_t)
/// h_t = exp(dt_t a_t) (h_{t-1} + (1 - trap_t) dt_t v_{t-1} k_{t-1}^T) + trap_t dt_t v_t k_t^T
/// y_t = out_proj((h_t q_t + d v_t) * silu(z_t))
/// ```
///
/// with `f(a) = 1 + a` above zero and `1 / (1 - a)` below. Where Mamba-2 weighs an input at the end of its
/// step alone, this takes the trapezoidal rule with weights of its own, in the place of a convolution; and
/// turning what is written and read makes the states complex numbers, so that one can count modulo. Pairs of
/// neighbouring states turn, at angles that differ by head.
///
/// A whole sequence is an [`Ssd`]: with `w_t = (1 - trap_{t+1}) dt_{t+1}`, the states
/// `h_t + w_t v_t k_t^T` take in `(trap_t dt_t + w_t) v_t k_t^T` at once, and `w_t (k_t q_t) v_t` is what an
/// output has of them too much. At the end `w` is zero, as the next step is not known there: its share comes
/// with it, of the k and v that the state keeps.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_mamba::{Mamba3Config, SequenceLayer};
///
/// let device = seq_mamba::device();
/// let mamba = Mamba3Config::new(16).with_head_dim(8).with_d_state(4).init(&device);
/// let x = Tensor::<3>::random([2, 10, 16], Distribution::Default, &device);
/// let (y, state) = mamba.forward(x, None);
/// assert_eq!(y.dims(), [2, 10, 16]);
///
/// let (y, _state) = mamba.step(Tensor::zeros([2, 16], &device), state);
/// assert_eq!(y.dims(), [2, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Mamba3 {
    /// `[d_model, 2 * d_inner + 2 * n_groups * d_state + 3 * heads + angles]`: the parts in the order above.
    pub in_proj: Linear,
    /// `[heads]`
    pub dt_bias: Param<Tensor<1>>,
    /// `[heads, d_state]`
    pub b_bias: Param<Tensor<2>>,
    /// `[heads, d_state]`
    pub c_bias: Param<Tensor<2>>,
    /// `[d_state]`
    pub b_norm_weight: Param<Tensor<1>>,
    /// `[d_state]`
    pub c_norm_weight: Param<Tensor<1>>,
    /// `[heads]`: the share of the scan's input in its output.
    pub d: Param<Tensor<1>>,
    /// `[d_inner]`, of the norm of each head's output, if there is one.
    pub norm_weight: Option<Param<Tensor<1>>>,
    /// `[d_inner, d_model]`
    pub out_proj: Linear,
    /// How many groups of heads share a B and a C.
    #[module(skip)]
    pub n_groups: usize,
    /// How many pairs of states turn, from the first on.
    #[module(skip)]
    pub angles: usize,
    /// No rate of decay is below this.
    #[module(skip)]
    pub a_floor: f64,
    /// The epsilon of the norms.
    #[module(skip)]
    pub norm_eps: f64,
    /// How many steps are done at once.
    #[module(skip)]
    pub chunk_size: usize,
}

/// What a [`Mamba3`] layer remembers.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use seq_mamba::{Mamba3Config, SequenceLayer};
///
/// let mamba = Mamba3Config::new(16).with_head_dim(8).with_d_state(4).init(&seq_mamba::device());
/// let state = mamba.initial_state(2, &seq_mamba::device());
/// assert_eq!((state.angle.dims(), state.ssm.dims()), ([2, 4, 1], [2, 4, 8, 4]));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Mamba3State {
    /// How far the pairs have turned, from zero to 2 pi, `[batch, heads, angles]`.
    pub angle: Tensor<3>,
    /// The state of the scan, `[batch, heads, head_dim, d_state]`.
    pub ssm: Tensor<4>,
    /// What the last step wrote, turned, `[batch, heads, d_state]`.
    pub k: Tensor<3>,
    /// The input that it wrote, `[batch, heads, head_dim]`.
    pub v: Tensor<3>,
}

impl SequenceState for Mamba3State {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            angle: mapper.tensor("angle", self.angle),
            ssm: mapper.tensor("ssm", self.ssm),
            k: mapper.tensor("k", self.k),
            v: mapper.tensor("v", self.v),
        }
    }
}

/// What the scan of a sequence is made of.
struct Parts {
    /// `[batch, time, d_inner]`
    z: Tensor<3>,
    /// `[batch, time, heads, head_dim]`
    v: Tensor<4>,
    /// Both turned, `[batch, time, heads, d_state]`.
    k: Tensor<4>,
    q: Tensor<4>,
    /// The logarithms of the decays, `[batch, time, heads]`.
    log_decay: Tensor<3>,
    /// The weights of a step's own input and of the one before it, `[batch, time, heads]`.
    own: Tensor<3>,
    before: Tensor<3>,
    /// How far the pairs have turned after the last step, `[batch, heads, angles]`.
    angle: Tensor<3>,
}

impl Mamba3 {
    /// How many channels the scan has.
    pub fn d_inner(&self) -> usize {
        self.out_proj.weight.dims()[0]
    }

    /// How many heads the scan has.
    pub fn heads(&self) -> usize {
        self.dt_bias.dims()[0]
    }

    /// How many channels a head has.
    pub fn head_dim(&self) -> usize {
        self.d_inner() / self.heads()
    }

    /// How many states a channel has.
    pub fn d_state(&self) -> usize {
        self.b_bias.dims()[1]
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
        state: Option<Mamba3State>,
    ) -> (Tensor<3>, Mamba3State) {
        let sequences = Sequences {
            resets: Some(resets),
            ..Sequences::default()
        };
        self.run(x, &sequences, state)
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
        state: Mamba3State,
    ) -> (Tensor<3>, Mamba3State) {
        check_width(&x.dims(), self.d_input());
        Lengths::check_input(lengths, x.dims());
        unroll(self, x, lengths, state)
    }

    fn run(
        &self,
        x: Tensor<3>,
        sequences: &Sequences<'_>,
        state: Option<Mamba3State>,
    ) -> (Tensor<3>, Mamba3State) {
        let shape @ [batch, time, _] = x.dims();
        check_width(&shape, self.d_input());
        Lengths::check_input(sequences.lengths, shape);
        if let Some(state) = &state {
            self.check_state(state, batch);
        }
        let state = state.unwrap_or_else(|| self.initial_state(batch, &x.device()));
        let parts = self.prepare(sequences.clear(x), sequences, state.angle);
        let before = match &sequences.resets {
            Some(resets) => parts.before.mask_fill(starts(resets, &parts.v), 0.0),
            None => parts.before,
        };
        let before = sequences.clear(before);
        // What the first step adds of the one before the sequence, as if that had added it.
        let first = before.clone().narrow(1, 0, 1).swap_dims(1, 2);
        let first = first.unsqueeze_dim::<4>(3) * outer(state.v.clone(), state.k.clone());
        let end = before.clone().narrow(1, 0, 1).zeros_like();
        let ahead = match time {
            1 => end,
            _ => Tensor::cat(vec![before.narrow(1, 1, time - 1), end], 1),
        };
        let weigh = |weights: Tensor<3>| weights.unsqueeze_dim::<4>(3) * parts.v.clone();
        let scan = Ssd {
            state: Some(state.ssm + first),
            lengths: sequences.lengths.cloned(),
            resets: sequences.resets.clone(),
            chunk_size: self.chunk_size,
            ..Ssd::new(
                weigh(parts.own + ahead.clone()),
                SsdDecay::Logarithm(parts.log_decay),
                parts.k.clone(),
                parts.q.clone(),
            )
        };
        let (y, ssm) = scan.run();
        let met = (parts.k.clone() * parts.q).sum_dim(3).squeeze_dim::<3>(3);
        let y = y - weigh(ahead * met);
        let next = Mamba3State {
            angle: parts.angle,
            ssm,
            k: last(state.k, parts.k, sequences.lengths),
            v: last(state.v, parts.v.clone(), sequences.lengths),
        };
        (self.read(y, parts.v, parts.z), next)
    }

    /// The parts of a step, of an input whose padding is cleared.
    fn prepare(&self, x: Tensor<3>, sequences: &Sequences<'_>, angle: Tensor<3>) -> Parts {
        let [batch, time, _] = x.dims();
        let (d_inner, heads, d_state) = (self.d_inner(), self.heads(), self.d_state());
        let grouped = self.n_groups * d_state;
        let mut first = 0;
        let mut part = |width: usize| {
            first += width;
            project(&self.in_proj, x.clone(), first - width, width)
        };
        let (z, v) = (part(d_inner), part(d_inner));
        let (b, c) = (part(grouped), part(grouped));
        let (dt, a, trap) = (part(heads), part(heads), part(heads));
        let turns = part(self.angles);

        let dt = softplus(dt + self.dt_bias.val().unsqueeze());
        let rate = a.clone().clamp_min(0.0) + (-a.clamp_max(0.0) + 1.0).recip();
        let trap = Activation::Sigmoid.forward(trap);
        let turned = Activation::Tanh.forward(turns) * PI;
        let turned = turned.unsqueeze_dim::<4>(2) * dt.clone().unsqueeze_dim(3);
        let (angles, angle) = self.turn(turned, sequences, angle);
        let key = |b, weight: &Param<Tensor<1>>, bias: &Param<Tensor<2>>| {
            let b = Tensor::reshape(b, [batch, time, self.n_groups, d_state]);
            let b = spread(rms_norm(b, weight.val(), self.norm_eps), heads);
            rotate(b + bias.val().unsqueeze(), angles.clone())
        };
        Parts {
            z,
            v: v.reshape([batch, time, heads, self.head_dim()]),
            k: key(b, &self.b_norm_weight, &self.b_bias),
            q: key(c, &self.c_norm_weight, &self.c_bias),
            log_decay: -rate.clamp_min(self.a_floor) * dt.clone(),
            own: trap.clone() * dt.clone(),
            before: (-trap + 1.0) * dt,
            angle,
        }
    }

    /// How far the pairs have turned after each step, `[batch, time, heads, angles]`, and after the last.
    fn turn(
        &self,
        turned: Tensor<4>,
        sequences: &Sequences<'_>,
        angle: Tensor<3>,
    ) -> (Tensor<4>, Tensor<3>) {
        let [batch, time, heads, angles] = turned.dims();
        let (dtype, width) = (turned.dtype(), heads * angles);
        let precise = precise(&turned);
        let x = turned.reshape([batch, time, width]).cast(precise);
        let one = Tensor::ones([width], (&x.device(), precise));
        let scan = LinearScan {
            state: Some(angle.reshape([batch, width]).cast(precise)),
            lengths: sequences.lengths.cloned(),
            resets: sequences.resets.clone(),
            ..LinearScan::new(Decay::Constant(one), x)
        };
        let (steps, last) = scan.run();
        let steps = within_a_turn(steps).cast(dtype);
        let last = within_a_turn(last).cast(dtype);
        (
            steps.reshape([batch, time, heads, angles]),
            last.reshape([batch, heads, angles]),
        )
    }

    /// The outputs, of what the scan gave.
    fn read(&self, y: Tensor<4>, v: Tensor<4>, z: Tensor<3>) -> Tensor<3> {
        let d = self.d.val().reshape([1, 1, self.heads(), 1]);
        let y = (y + v * d).reshape(z.dims());
        let y = match &self.norm_weight {
            Some(weight) => GatedNorm {
                y,
                z,
                weight: weight.val(),
                options: gated_norm::Options {
                    groups: self.heads(),
                    gate_last: true,
                    eps: self.norm_eps,
                },
            }
            .run(),
            None => y * silu(z),
        };
        linear(y, self.out_proj.weight.val(), None)
    }

    fn check_state(&self, state: &Mamba3State, batch: usize) {
        let Mamba3State { angle, ssm, k, v } = state;
        let found = (angle.dims(), ssm.dims(), k.dims(), v.dims());
        let (heads, head_dim, d_state) = (self.heads(), self.head_dim(), self.d_state());
        let expected = (
            [batch, heads, self.angles],
            [batch, heads, head_dim, d_state],
            [batch, heads, d_state],
            [batch, heads, head_dim],
        );
        assert_eq!(
            found, expected,
            "the state has shapes {found:?}, the layer and a batch of {batch} need {expected:?}"
        );
    }
}

/// The most precise type that the device is known to compute in: a sum of angles loses what its size takes.
fn precise<const D: usize>(x: &Tensor<D>) -> DType {
    #[cfg(any(feature = "ndarray", feature = "flex"))]
    if seq_core::is_cpu(&x.device()) {
        return DType::F64;
    }
    x.dtype()
}

/// Angles less whole turns.
fn within_a_turn<const D: usize>(angle: Tensor<D>) -> Tensor<D> {
    let turns = (angle.clone().detach() * TAU.recip()).floor();
    angle - turns * TAU
}

/// `[batch, time, groups, d_state]` normalised along the states.
fn rms_norm(x: Tensor<4>, weight: Tensor<1>, eps: f64) -> Tensor<4> {
    let [.., d_state] = x.dims();
    let mean = (x.clone() * x.clone()).sum_dim(3) * (d_state as f64).recip();
    x * (mean + eps).sqrt().recip() * weight.unsqueeze()
}

/// Each group once for every one of its heads, which are neighbours.
fn spread(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [batch, time, groups, d_state] = x.dims();
    let x = x.unsqueeze_dim::<5>(3);
    let x = x.expand([batch, time, groups, heads / groups, d_state]);
    x.reshape([batch, time, heads, d_state])
}

/// The first pairs of neighbouring states turned by `[batch, time, heads, angles]`.
fn rotate(x: Tensor<4>, angles: Tensor<4>) -> Tensor<4> {
    let shape @ [batch, time, heads, d_state] = x.dims();
    let [.., turning] = angles.dims();
    let x = x.reshape([batch, time, heads, d_state / 2, 2]);
    let part = |index| {
        let x = x.clone().narrow(3, 0, turning).narrow(4, index, 1);
        x.squeeze_dim::<4>(4)
    };
    let (re, im) = (part(0), part(1));
    let (sin, cos) = (angles.clone().sin(), angles.cos());
    let turned = Tensor::stack::<5>(
        vec![
            re.clone() * cos.clone() - im.clone() * sin.clone(),
            re * sin + im * cos,
        ],
        4,
    );
    let x = match d_state / 2 - turning {
        0 => turned,
        rest => Tensor::cat(vec![turned, x.narrow(3, turning, rest)], 3),
    };
    x.reshape(shape)
}

/// `v k^T` of every head, `[batch, heads, head_dim, d_state]`.
fn outer(v: Tensor<3>, k: Tensor<3>) -> Tensor<4> {
    v.unsqueeze_dim::<4>(3) * k.unsqueeze_dim::<4>(2)
}

/// Where a sequence begins, `[batch, time, heads]` of `like` `[batch, time, heads, _]`.
fn starts(resets: &[Vec<bool>], like: &Tensor<4>) -> Tensor<3, Bool> {
    let [batch, time, heads, _] = like.dims();
    let found: Vec<usize> = resets.iter().map(Vec::len).collect();
    assert!(
        found.len() == batch && found.iter().all(|&steps| steps == time),
        "resets for rows of {found:?} steps do not fit an input of batch {batch} and time {time}"
    );
    let values: Vec<bool> = resets.iter().flatten().copied().collect();
    let starts = Tensor::<3, Bool>::from_data(TensorData::new(values, [batch, time, 1]), &like.device());
    starts.expand([batch, time, heads])
}

/// The values `[batch, heads, width]` of each sequence's last step, or `before` where it has none.
fn last(before: Tensor<3>, x: Tensor<4>, lengths: Option<&Lengths>) -> Tensor<3> {
    let [batch, time, heads, width] = x.dims();
    let Some(lengths) = lengths else {
        return x.narrow(1, time - 1, 1).squeeze_dim(1);
    };
    let all = Tensor::cat(vec![before.unsqueeze_dim(1), x], 1);
    let steps: Vec<i64> = lengths.as_slice().iter().map(|&n| n as i64).collect();
    let steps = TensorData::new(steps, [batch, 1, 1, 1]);
    let steps = Tensor::<4, Int>::from_data(steps, &all.device());
    all.gather(1, steps.expand([batch, 1, heads, width]))
        .squeeze_dim(1)
}

impl SequenceLayer for Mamba3 {
    type State = Mamba3State;

    fn d_input(&self) -> usize {
        self.in_proj.weight.dims()[0]
    }

    fn d_output(&self) -> usize {
        self.out_proj.weight.dims()[1]
    }

    fn initial_state(&self, batch: usize, device: &Device) -> Mamba3State {
        let options = (device, self.d.val().dtype());
        let (heads, head_dim, d_state) = (self.heads(), self.head_dim(), self.d_state());
        Mamba3State {
            angle: Tensor::zeros([batch, heads, self.angles], options),
            ssm: Tensor::zeros([batch, heads, head_dim, d_state], options),
            k: Tensor::zeros([batch, heads, d_state], options),
            v: Tensor::zeros([batch, heads, head_dim], options),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<Mamba3State>) -> (Tensor<3>, Mamba3State) {
        self.run(x, &Sequences::default(), state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<Mamba3State>,
    ) -> (Tensor<3>, Mamba3State) {
        let sequences = Sequences {
            lengths: Some(lengths),
            ..Sequences::default()
        };
        self.run(x, &sequences, state)
    }

    fn step(&self, x: Tensor<2>, state: Mamba3State) -> (Tensor<2>, Mamba3State) {
        let shape @ [batch, _] = x.dims();
        check_width(&shape, self.d_input());
        self.check_state(&state, batch);
        let parts = self.prepare(x.unsqueeze_dim(1), &Sequences::default(), state.angle);
        // `[batch, heads, 1, 1]`
        let each = |x: Tensor<3>| x.swap_dims(1, 2).unsqueeze_dim::<4>(3);
        let k = parts.k.squeeze_dim::<3>(1);
        let v = parts.v.clone().squeeze_dim::<3>(1);
        let kept = state.ssm + outer(state.v, state.k) * each(parts.before);
        let written = outer(v.clone(), k.clone()) * each(parts.own);
        let ssm = kept * each(parts.log_decay).exp() + written;
        // `[batch, 1, heads, head_dim]`
        let y = (ssm.clone() * parts.q.swap_dims(1, 2)).sum_dim(3);
        let y = self.read(y.swap_dims(1, 3).swap_dims(2, 3), parts.v, parts.z);
        let state = Mamba3State {
            angle: parts.angle,
            ssm,
            k,
            v,
        };
        (y.squeeze_dim(1), state)
    }
}
