use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper};

use crate::gated_norm::{self, GatedNorm};
use crate::mixer::{Sequences, check_width, project};
use crate::ssd::silu;
use crate::{Ssd, SsdDecay, StepSize};

/// A Mamba-2 layer (Dao and Gu 2024, <https://arxiv.org/abs/2405.21060>, figure 6), made by
/// [`Mamba2Config`](crate::Mamba2Config):
///
/// ```text
/// z, x, B, C, dt = split(in_proj x_t)
/// x, B, C = split(silu(causal_conv(x, B, C)))
/// dt = softplus(dt + dt_bias)
/// h_t = exp(dt a) h_{t-1} + (dt x) B^T,   a = -exp(a_log)    for each head
/// y_t = out_proj norm((h_t C + d x) * silu(z))
/// ```
///
/// It has no norm and no residual connection around it.
///
/// Use it through [`SequenceLayer`]: `forward` for whole sequences, `step` for streams. A long sequence
/// may be run in chunks, in constant memory: the state after one is the one before the next.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_mamba::{Mamba2Config, SequenceLayer};
///
/// let device = seq_mamba::device();
/// let mamba = Mamba2Config::new(16).with_head_dim(8).with_d_state(4).init(&device);
/// let x = Tensor::<3>::random([2, 10, 16], Distribution::Default, &device);
/// let (y, state) = mamba.forward(x, None);
/// assert_eq!(y.dims(), [2, 10, 16]);
///
/// let (y, _state) = mamba.step(Tensor::zeros([2, 16], &device), state);
/// assert_eq!(y.dims(), [2, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Mamba2 {
    /// `[d_model, 2 * d_inner + 2 * n_groups * d_state + heads]`: the gate, the scan's input, B, C and what
    /// the step size is made of.
    pub in_proj: Linear,
    /// `[d_inner + 2 * n_groups * d_state, d_conv]`, the newest step last.
    pub conv_weight: Param<Tensor<2>>,
    /// `[d_inner + 2 * n_groups * d_state]`
    pub conv_bias: Option<Param<Tensor<1>>>,
    /// `[heads]`
    pub dt_bias: Param<Tensor<1>>,
    /// `[heads]`: the logarithm of -a.
    pub a_log: Param<Tensor<1>>,
    /// The share of the scan's input in its output, `[heads, 1]`, or `[heads, head_dim]`.
    pub d: Param<Tensor<2>>,
    /// `[d_inner]`; none where the scan's output is not normalised.
    pub norm_weight: Option<Param<Tensor<1>>>,
    /// `[d_inner, d_model]`
    pub out_proj: Linear,
    /// How many groups of heads share a B and a C.
    #[module(skip)]
    pub n_groups: usize,
    /// How many groups of channels are normalised apart.
    #[module(skip)]
    pub norm_groups: usize,
    /// Whether the gate comes after the norm.
    #[module(skip)]
    pub norm_before_gate: bool,
    /// The epsilon of the norm.
    #[module(skip)]
    pub norm_eps: f64,
    /// What step sizes are clipped to.
    #[module(skip)]
    pub dt_limit: Option<[f64; 2]>,
    /// How many steps are done at once.
    #[module(skip)]
    pub chunk_size: usize,
}

/// What a [`Mamba2`] layer remembers.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use seq_mamba::{Mamba2Config, SequenceLayer};
///
/// let mamba = Mamba2Config::new(16).with_head_dim(8).with_d_state(4).init(&seq_mamba::device());
/// let state = mamba.initial_state(2, &seq_mamba::device());
/// assert_eq!((state.conv.dims(), state.ssm.dims()), ([2, 40, 3], [2, 4, 8, 4]));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Mamba2State {
    /// The last inputs of the convolution, oldest first, `[batch, d_inner + 2 * n_groups * d_state,
    /// d_conv - 1]`.
    pub conv: Tensor<3>,
    /// The state of the scan, `[batch, heads, head_dim, d_state]`.
    pub ssm: Tensor<4>,
}

impl SequenceState for Mamba2State {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            conv: mapper.tensor("conv", self.conv),
            ssm: mapper.tensor("ssm", self.ssm),
        }
    }
}

impl Mamba2 {
    /// How many channels the scan has.
    pub fn d_inner(&self) -> usize {
        self.out_proj.weight.dims()[0]
    }

    /// How many heads the scan has.
    pub fn heads(&self) -> usize {
        self.a_log.dims()[0]
    }

    /// How many channels a head has.
    pub fn head_dim(&self) -> usize {
        self.d_inner() / self.heads()
    }

    /// How many states a channel has.
    pub fn d_state(&self) -> usize {
        let [width, _] = self.conv_weight.dims();
        (width - self.d_inner()) / (2 * self.n_groups)
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
        state: Option<Mamba2State>,
    ) -> (Tensor<3>, Mamba2State) {
        let sequences = Sequences {
            resets: Some(resets),
            ..Sequences::default()
        };
        self.run(x, &sequences, state)
    }

    /// The specification of [`forward_padded`](SequenceLayer::forward_padded), in plain tensor
    /// operations.
    ///
    /// # Panics
    ///
    /// As `forward_padded`.
    pub fn reference(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Mamba2State,
    ) -> (Tensor<3>, Mamba2State) {
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
        state: Option<Mamba2State>,
    ) -> (Tensor<3>, Mamba2State) {
        let shape @ [batch, time, _] = x.dims();
        check_width(&shape, self.d_input());
        Lengths::check_input(sequences.lengths, shape);
        if let Some(state) = &state {
            self.check_state(state, batch);
        }
        let (conv_state, ssm_state) = match state {
            Some(state) => (Some(state.conv), Some(state.ssm)),
            None => (None, None),
        };
        let (d_inner, heads, d_state) = (self.d_inner(), self.heads(), self.d_state());
        let [width, _] = self.conv_weight.dims();
        let x = sequences.clear(x);
        let z = project(&self.in_proj, x.clone(), 0, d_inner);
        let mixed = project(&self.in_proj, x.clone(), d_inner, width);
        let dt = project(&self.in_proj, x, d_inner + width, heads);
        let bias = self.conv_bias.as_ref();
        let (mixed, conv) = sequences.convolve(mixed, &self.conv_weight, bias, conv_state);

        let part = |first, [count, width]: [usize; 2]| {
            let part = mixed.clone().narrow(2, first, count * width);
            part.reshape([batch, time, count, width])
        };
        let grouped = [self.n_groups, d_state];
        let steps = StepSize {
            bias: Some(self.dt_bias.val()),
            softplus: true,
            limit: self.dt_limit,
            ..StepSize::new(dt, -self.a_log.val().exp())
        };
        let scan = Ssd {
            d: Some(self.d.val()),
            state: ssm_state,
            lengths: sequences.lengths.cloned(),
            resets: sequences.resets.clone(),
            chunk_size: self.chunk_size,
            ..Ssd::new(
                part(0, [heads, self.head_dim()]),
                SsdDecay::Steps(steps),
                part(d_inner, grouped),
                part(d_inner + self.n_groups * d_state, grouped),
            )
        };
        let (y, ssm) = match sequences.reference {
            true => scan.reference(),
            false => scan.run(),
        };
        let y = y.reshape([batch, time, d_inner]);
        let y = self.gate(y, z, sequences.reference);
        let y = sequences.project_out(y, &self.out_proj);
        (y, Mamba2State { conv, ssm })
    }

    /// The gate and the norm of the scan's output.
    fn gate(&self, y: Tensor<3>, z: Tensor<3>, reference: bool) -> Tensor<3> {
        let Some(weight) = &self.norm_weight else {
            return y * silu(z);
        };
        let norm = GatedNorm {
            y,
            z,
            weight: weight.val(),
            options: gated_norm::Options {
                groups: self.norm_groups,
                gate_last: self.norm_before_gate,
                eps: self.norm_eps,
            },
        };
        match reference {
            true => norm.reference(),
            false => norm.run(),
        }
    }

    fn check_state(&self, state: &Mamba2State, batch: usize) {
        let found = (state.conv.dims(), state.ssm.dims());
        let [width, d_conv] = self.conv_weight.dims();
        let expected = (
            [batch, width, d_conv - 1],
            [batch, self.heads(), self.head_dim(), self.d_state()],
        );
        assert_eq!(
            found, expected,
            "the state has shapes {found:?}, the layer and a batch of {batch} need {expected:?}"
        );
    }
}

impl SequenceLayer for Mamba2 {
    type State = Mamba2State;

    fn d_input(&self) -> usize {
        self.in_proj.weight.dims()[0]
    }

    fn d_output(&self) -> usize {
        self.out_proj.weight.dims()[1]
    }

    fn initial_state(&self, batch: usize, device: &Device) -> Mamba2State {
        let [width, d_conv] = self.conv_weight.dims();
        let options = (device, self.a_log.val().dtype());
        let ssm = [batch, self.heads(), self.head_dim(), self.d_state()];
        Mamba2State {
            conv: Tensor::zeros([batch, width, d_conv - 1], options),
            ssm: Tensor::zeros(ssm, options),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<Mamba2State>) -> (Tensor<3>, Mamba2State) {
        self.run(x, &Sequences::default(), state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<Mamba2State>,
    ) -> (Tensor<3>, Mamba2State) {
        let sequences = Sequences {
            lengths: Some(lengths),
            ..Sequences::default()
        };
        self.run(x, &sequences, state)
    }

    fn step(&self, x: Tensor<2>, state: Mamba2State) -> (Tensor<2>, Mamba2State) {
        let shape @ [batch, _] = x.dims();
        check_width(&shape, self.d_input());
        self.check_state(&state, batch);
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        if super::step::has_kernel(self, &x, &state) {
            return super::step::run(self, x, state);
        }
        let (y, state) = self.forward(x.unsqueeze_dim(1), Some(state));
        (y.squeeze_dim(1), state)
    }
}
