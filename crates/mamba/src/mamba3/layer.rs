use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use seq_core::recurrent::Activation;
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper};

use super::steps::{Steps, last, outer, shift, without_begins};
use super::turn::{Rotation, halves, sums, wrap};
use crate::gated_norm::{self, GatedNorm};
use crate::mixer::{Sequences, check_width, project};
use crate::ssd::silu;
use crate::{Ssd, SsdDecay, softplus};

/// A Mamba-3 layer (Lahoti et al. 2026, <https://arxiv.org/abs/2603.15569>; the reference code is `Mamba3` of
/// <https://github.com/state-spaces/mamba>), made by [`Mamba3Config`](crate::Mamba3Config):
///
/// ```text
/// z, v, B, C, dt, a, trap, angle = split(in_proj x_t)
/// dt = softplus(dt + dt_bias),  a = -max(f(a), a_floor),  trap = sigmoid(trap)
/// angle_t = angle_{t-1} + pi tanh(angle) dt
/// k_t = turn(norm(B) + b_bias, angle_t),  q_t = turn(norm(C) + c_bias, angle_t)    for each head
/// h_t = exp(dt a) (h_{t-1} + (1 - trap) dt v_{t-1} k_{t-1}^T) + trap dt v_t k_t^T
/// y_t = out_proj((h_t q_t + d v_t) * silu(z))
/// ```
///
/// where `f(a)` is `1 + a` above zero and `1 / (1 - a)` below. Against Mamba-2, a step is a trapezoid of its
/// own input and the one before, which is in place of the convolution, and the state turns, as a complex one
/// would. With a norm its output is `out_proj(norm(h_t q_t + d v_t) * silu(z))`, each head normalised apart.
/// It has no norm and no residual connection around it.
///
/// This is the layer of one input and one output a channel (SISO); the one of several (`is_mimo` of the
/// reference code) is not here.
///
/// Use it through [`SequenceLayer`]: `forward` for whole sequences, which runs by an [`Ssd`], `step` for
/// streams. A long sequence may be run in chunks, in constant memory: the state after one is the one before
/// the next. Angles are kept within half a turn, so that no stream is too long for their precision.
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
    /// `[d_model, 2 * d_inner + 2 * n_groups * d_state + 3 * heads + angles]`: the gate, the scan's input, B,
    /// C, and what step size, rate of decay, trapezoid and angles are made of.
    pub in_proj: Linear,
    /// `[heads]`
    pub dt_bias: Param<Tensor<1>>,
    /// Added to B after its norm, `[heads, d_state]`.
    pub b_bias: Param<Tensor<2>>,
    /// Added to C after its norm, `[heads, d_state]`.
    pub c_bias: Param<Tensor<2>>,
    /// Of the norm of B, `[d_state]`.
    pub b_norm_weight: Param<Tensor<1>>,
    /// Of the norm of C, `[d_state]`.
    pub c_norm_weight: Param<Tensor<1>>,
    /// The share of the scan's input in its output, `[heads]`.
    pub d: Param<Tensor<1>>,
    /// `[d_inner]`; none where the scan's output is not normalised.
    pub norm_weight: Option<Param<Tensor<1>>>,
    /// `[d_inner, d_model]`
    pub out_proj: Linear,
    /// How many groups of heads share a B and a C.
    #[module(skip)]
    pub n_groups: usize,
    /// The smallest rate of decay.
    #[module(skip)]
    pub a_floor: f64,
    /// The epsilon of all norms.
    #[module(skip)]
    pub norm_eps: f64,
    /// How many steps are done at once.
    #[module(skip)]
    pub chunk_size: usize,
}

/// What a [`Mamba3`] layer remembers.
///
/// Of the `d_state` numbers of `ssm` and `k`, the first of each pair that turns come first, then the second of
/// each, then those that do not turn; in the reference code's state the two of a pair are neighbours.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use seq_mamba::{Mamba3Config, SequenceLayer};
///
/// let mamba = Mamba3Config::new(16).with_head_dim(8).with_d_state(4).init(&seq_mamba::device());
/// let state = mamba.initial_state(2, &seq_mamba::device());
/// assert_eq!((state.angle.dims(), state.ssm.dims()), ([2, 4, 1], [2, 4, 8, 4]));
/// assert_eq!((state.k.dims(), state.v.dims()), ([2, 4, 4], [2, 4, 8]));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Mamba3State {
    /// How far each pair of the states has turned, within half a turn, `[batch, heads, angles]`.
    pub angle: Tensor<3>,
    /// The state of the scan, `[batch, heads, head_dim, d_state]`.
    pub ssm: Tensor<4>,
    /// The last step's B, turned, `[batch, heads, d_state]`.
    pub k: Tensor<3>,
    /// The last step's input of the scan, `[batch, heads, head_dim]`.
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

    /// By how many angles the state of a head is turned.
    pub fn angles(&self) -> usize {
        let [_, width] = self.in_proj.weight.dims();
        width - 2 * self.d_inner() - 2 * self.n_groups * self.d_state() - 3 * self.heads()
    }

    /// As [`forward`](SequenceLayer::forward), for rows that hold several sequences one after the other:
    /// `resets[row][step]` says where one begins. Nothing of a sequence reaches the next.
    ///
    /// The angles go on through the whole row, as outputs depend on differences of angles alone: the state
    /// at its end is that of the last sequence, turned as a whole.
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
        let sequences = Sequences {
            lengths,
            reference: true,
            ..Sequences::default()
        };
        self.run(x, &sequences, Some(state))
    }

    fn run(
        &self,
        x: Tensor<3>,
        sequences: &Sequences<'_>,
        state: Option<Mamba3State>,
    ) -> (Tensor<3>, Mamba3State) {
        let shape @ [batch, _, _] = x.dims();
        check_width(&shape, self.d_input());
        Lengths::check_input(sequences.lengths, shape);
        if let Some(state) = &state {
            self.check_state(state, batch);
        }
        let state = state.unwrap_or_else(|| self.initial_state(batch, &x.device()));
        let x = sequences.clear(x);
        let steps = self.steps(x.clone());
        let skip = steps.v.clone() * self.d.val().reshape([1, 1, -1, 1]);
        let (y, state) = match sequences.reference {
            true => self.one_by_one(&steps, sequences, state),
            false => self.scan(steps, sequences, state),
        };
        (self.finish(y + skip, x, sequences), state)
    }

    /// What the recurrence is made of.
    fn steps(&self, x: Tensor<3>) -> Steps {
        let [batch, time, _] = x.dims();
        let (d_inner, heads, angles) = (self.d_inner(), self.heads(), self.angles());
        let grouped = self.n_groups * self.d_state();
        let v = project(&self.in_proj, x.clone(), d_inner, d_inner);
        let b_c = project(&self.in_proj, x.clone(), 2 * d_inner, 2 * grouped);
        let rest = project(
            &self.in_proj,
            x,
            2 * (d_inner + grouped),
            3 * heads + angles,
        );
        let part = |index| rest.clone().narrow(2, index * heads, heads);

        let dt = softplus(part(0) + self.dt_bias.val().unsqueeze());
        let rate = heavy_tail(part(1)).clamp_min(self.a_floor);
        let trap = Activation::Sigmoid.forward(part(2));
        let own = dt.clone() * trap;
        let angle = rest.clone().narrow(2, 3 * heads, angles).tanh() * std::f64::consts::PI;
        let b = b_c.clone().narrow(2, 0, grouped);
        let c = b_c.narrow(2, grouped, grouped);
        Steps {
            v: v.reshape([batch, time, heads, self.head_dim()]),
            k: self.direction(b, &self.b_norm_weight, &self.b_bias),
            q: self.direction(c, &self.c_norm_weight, &self.c_bias),
            log_decay: -(rate * dt.clone()),
            before: dt.clone() - own.clone(),
            own,
            turn: angle.unsqueeze_dim::<4>(2) * dt.unsqueeze_dim::<4>(3),
        }
    }

    /// B or C `[batch, time, n_groups * d_state]` for each head, normalised and with its bias.
    fn direction(
        &self,
        x: Tensor<3>,
        weight: &Param<Tensor<1>>,
        bias: &Param<Tensor<2>>,
    ) -> Tensor<4> {
        let [batch, time, _] = x.dims();
        let (groups, heads, d_state) = (self.n_groups, self.heads(), self.d_state());
        let x = x.reshape([batch * time * groups, d_state]);
        let squares = (x.clone() * x.clone()).mean_dim(1);
        let x = x / (squares + self.norm_eps).sqrt() * weight.val().unsqueeze();
        let x = halves(x, self.angles()).reshape([batch, time, groups, 1, d_state]);
        let bias = halves(bias.val(), self.angles());
        let x = x + bias.reshape([1, 1, groups, heads / groups, d_state]);
        x.reshape([batch, time, heads, d_state])
    }

    /// The recurrence step by step.
    fn one_by_one(
        &self,
        steps: &Steps,
        sequences: &Sequences<'_>,
        mut state: Mamba3State,
    ) -> (Tensor<4>, Mamba3State) {
        let [_, time, _, _] = steps.v.dims();
        let real = sequences
            .lengths
            .map(|lengths| lengths.mask(time, &steps.v.device()));
        let mut all = Vec::with_capacity(time);
        for step in 0..time {
            let (y, next) = steps.at(step).advance(state.clone());
            state = match &real {
                Some(real) => Mamba3State::choose(real.clone().narrow(1, step, 1), next, state),
                None => next,
            };
            all.push(y);
        }
        (Tensor::cat(all, 1), state)
    }

    /// The recurrence as a scan: of `s_t = exp(dt a) h_{t-1}` with what step t takes of the input before it,
    /// which is `exp(dt a) (s_{t-1} + (own_{t-1} + before_t) v_{t-1} k_{t-1}^T)`. What a step reads of its own
    /// input, and the last one's own, is added after it.
    fn scan(
        &self,
        steps: Steps,
        sequences: &Sequences<'_>,
        state: Mamba3State,
    ) -> (Tensor<4>, Mamba3State) {
        let [batch, time, heads, _] = steps.v.dims();
        let (angles, lengths) = (self.angles(), sequences.lengths);
        let turned = sums(steps.turn.reshape([batch, time, heads * angles]));
        let angle = turned.reshape([batch, time, heads, angles]);
        let angle = wrap(angle + state.angle.clone().unsqueeze_dim(1));
        let rotation = Rotation::new(angle.clone());
        // Both are turned alike, which their product does not see.
        let product = (steps.k.clone() * steps.q.clone()).sum_dim(3);
        let (k, q) = (rotation.turn(steps.k), rotation.turn(steps.q));

        let own = steps.own.unsqueeze_dim::<4>(3);
        let no_own = Tensor::zeros([batch, heads, 1], (&own.device(), own.dtype()));
        let weight = steps.before.unsqueeze_dim(3) + shift(own.clone(), no_own.clone());
        let weight = weight * steps.log_decay.clone().exp().unsqueeze_dim(3);
        let weight = match &sequences.resets {
            Some(resets) => without_begins(weight, resets),
            None => weight,
        };
        let scan = Ssd {
            state: Some(state.ssm),
            lengths: lengths.cloned(),
            resets: sequences.resets.clone(),
            chunk_size: self.chunk_size,
            ..Ssd::new(
                shift(steps.v.clone(), state.v.clone()) * weight,
                SsdDecay::Logarithm(steps.log_decay),
                shift(k.clone(), state.k.clone()),
                q,
            )
        };
        let (y, ssm) = scan.run();
        let y = y + steps.v.clone() * (product * own.clone());
        let (k, v) = (last(k, state.k, lengths), last(steps.v, state.v, lengths));
        let own = last(own, no_own, lengths).swap_dims(1, 2);
        let state = Mamba3State {
            angle: last(angle, state.angle, lengths),
            ssm: ssm + outer(v.clone(), own, k.clone()),
            k,
            v,
        };
        (y, state)
    }

    /// Gate, norm and projection of the scan's output; `x` is the layer's input.
    fn finish(&self, y: Tensor<4>, x: Tensor<3>, sequences: &Sequences<'_>) -> Tensor<3> {
        let y = sequences.clear(y.flatten(2, 3));
        let z = project(&self.in_proj, x, 0, self.d_inner());
        let y = match &self.norm_weight {
            None => y * silu(z),
            Some(weight) => {
                let norm = GatedNorm {
                    y,
                    z,
                    weight: weight.val(),
                    options: gated_norm::Options {
                        groups: self.heads(),
                        gate_last: true,
                        eps: self.norm_eps,
                    },
                };
                match sequences.reference {
                    true => norm.reference(),
                    false => norm.run(),
                }
            }
        };
        sequences.project_out(y, &self.out_proj)
    }

    fn check_state(&self, state: &Mamba3State, batch: usize) {
        let found = (
            state.angle.dims(),
            state.ssm.dims(),
            state.k.dims(),
            state.v.dims(),
        );
        let (heads, head_dim, d_state) = (self.heads(), self.head_dim(), self.d_state());
        let expected = (
            [batch, heads, self.angles()],
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

/// `1 + x`, and `1 / (1 - x)` where `x` is below zero.
fn heavy_tail(x: Tensor<3>) -> Tensor<3> {
    let above = x.clone().clamp_min(0.0);
    // As a difference, so that the two slopes at zero are one.
    let below = x - above.clone();
    above + (-below + 1.0).recip()
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
            angle: Tensor::zeros([batch, heads, self.angles()], options),
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
        let (y, state) = self.reference(x.unsqueeze_dim(1), None, state);
        (y.squeeze_dim(1), state)
    }
}
