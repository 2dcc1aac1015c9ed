use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Device, Tensor};
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper, linear};

use crate::mixer::{Sequences, bias, check_width, project};
use crate::{Projection, SelectiveScan, softplus};

/// A Mamba layer (Gu and Dao 2023, <https://arxiv.org/abs/2312.00752>, figure 3), made by
/// [`MambaConfig`](crate::MambaConfig); with the norms of FalconMamba where they are asked for:
///
/// ```text
/// u, z = split(in_proj x_t)
/// u = silu(causal_conv(u))
/// dt, B, C = split(x_proj u)
/// dt = softplus(dt_proj dt)
/// h_t = exp(dt A) * h_{t-1} + dt B u,   A = -exp(a_log)
/// y_t = out_proj ((C h_t + d u) * silu(z))
/// ```
///
/// It has no norm and no residual connection around it; [`MambaLm`](crate::MambaLm) adds both.
///
/// Use it through [`SequenceLayer`]: `forward` for whole sequences, `step` for streams. A long sequence
/// may be run in chunks, in constant memory: the state after one is the one before the next.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_mamba::{MambaConfig, SequenceLayer};
///
/// let device = seq_mamba::device();
/// let mamba = MambaConfig::new(16).init(&device);
/// let x = Tensor::<3>::random([2, 10, 16], Distribution::Default, &device);
/// let (y, state) = mamba.forward(x, None);
/// assert_eq!(y.dims(), [2, 10, 16]);
///
/// let (y, _state) = mamba.step(Tensor::zeros([2, 16], &device), state);
/// assert_eq!(y.dims(), [2, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct Mamba {
    /// `[d_model, 2 * d_inner]`: the scan's input and its gate.
    pub in_proj: Linear,
    /// `[d_inner, d_conv]`, the newest step last.
    pub conv_weight: Param<Tensor<2>>,
    /// `[d_inner]`
    pub conv_bias: Option<Param<Tensor<1>>>,
    /// `[d_inner, dt_rank + 2 * d_state]`: what the step size is made of, B and C.
    pub x_proj: Linear,
    /// `[dt_rank, d_inner]`, and the bias of the step size.
    pub dt_proj: Linear,
    /// `[d_inner, d_state]`: the logarithm of -A.
    pub a_log: Param<Tensor<2>>,
    /// `[d_inner]`: the share of the scan's input in its output.
    pub d: Param<Tensor<1>>,
    /// `[d_inner, d_model]`
    pub out_proj: Linear,
    /// What step sizes are clipped to.
    #[module(skip)]
    pub dt_limit: Option<[f64; 2]>,
    /// The epsilon of the norms of the step size, B and C.
    #[module(skip)]
    pub dt_b_c_norm_eps: Option<f64>,
}

/// What a [`Mamba`] layer remembers.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use seq_mamba::{MambaConfig, SequenceLayer};
///
/// let mamba = MambaConfig::new(16).init(&seq_mamba::device());
/// let state = mamba.initial_state(2, &seq_mamba::device());
/// assert_eq!((state.conv.dims(), state.ssm.dims()), ([2, 32, 3], [2, 32, 16]));
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MambaState {
    /// The last inputs of the convolution, oldest first, `[batch, d_inner, d_conv - 1]`.
    pub conv: Tensor<3>,
    /// The state of the scan, `[batch, d_inner, d_state]`.
    pub ssm: Tensor<3>,
}

impl SequenceState for MambaState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            conv: mapper.tensor("conv", self.conv),
            ssm: mapper.tensor("ssm", self.ssm),
        }
    }
}

impl Mamba {
    /// How many channels the scan has.
    pub fn d_inner(&self) -> usize {
        self.a_log.dims()[0]
    }

    /// How many states a channel has.
    pub fn d_state(&self) -> usize {
        self.a_log.dims()[1]
    }

    /// The width that the step sizes are made of.
    pub fn dt_rank(&self) -> usize {
        self.dt_proj.weight.dims()[0]
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
        state: Option<MambaState>,
    ) -> (Tensor<3>, MambaState) {
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
        state: MambaState,
    ) -> (Tensor<3>, MambaState) {
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
        state: Option<MambaState>,
    ) -> (Tensor<3>, MambaState) {
        let shape @ [batch, _, _] = x.dims();
        check_width(&shape, self.d_input());
        Lengths::check_input(sequences.lengths, shape);
        if let Some(state) = &state {
            self.check_state(state, batch);
        }
        let (conv_state, ssm_state) = match state {
            Some(state) => (Some(state.conv), Some(state.ssm)),
            None => (None, None),
        };
        let d_inner = self.d_inner();
        let x = sequences.clear(x);
        let u = project(&self.in_proj, x.clone(), 0, d_inner);
        let z = project(&self.in_proj, x, d_inner, d_inner);
        let bias = self.conv_bias.as_ref();
        let (u, conv) = sequences.convolve(u, &self.conv_weight, bias, conv_state);
        let scan = SelectiveScan {
            z: Some(z),
            state: ssm_state,
            lengths: sequences.lengths.cloned(),
            resets: sequences.resets.clone(),
            ..self.selection(u)
        };
        let (y, ssm) = match sequences.reference {
            true => scan.reference(),
            false => scan.run(),
        };
        let y = sequences.project_out(y, &self.out_proj);
        (y, MambaState { conv, ssm })
    }

    /// The scan that an input `[batch, time, d_inner]` selects.
    fn selection(&self, u: Tensor<3>) -> SelectiveScan {
        let (dt_rank, d_state) = (self.dt_rank(), self.d_state());
        let selected = linear(u.clone(), self.x_proj.weight.val(), bias(&self.x_proj));
        let part = |first, width| {
            let part = selected.clone().narrow(2, first, width);
            match self.dt_b_c_norm_eps {
                Some(eps) => root_mean_square_norm(part, eps),
                None => part,
            }
        };
        let dt = linear(part(0, dt_rank), self.dt_proj.weight.val(), None);
        let b = part(dt_rank, d_state);
        let c = part(dt_rank + d_state, d_state);
        let varying = |x: Tensor<3>| Projection::Varying(x.unsqueeze_dim(2));
        let a = -self.a_log.val().exp();
        let scan = SelectiveScan {
            d: Some(self.d.val()),
            delta_bias: bias(&self.dt_proj),
            delta_softplus: true,
            ..SelectiveScan::new(u, dt, a, varying(b), varying(c))
        };
        let Some([low, high]) = self.dt_limit else {
            return scan;
        };
        let dt = match scan.delta_bias {
            Some(bias) => scan.delta + bias.unsqueeze(),
            None => scan.delta,
        };
        SelectiveScan {
            delta: softplus(dt).clamp(low, high),
            delta_bias: None,
            delta_softplus: false,
            ..scan
        }
    }

    fn check_state(&self, state: &MambaState, batch: usize) {
        let [d_inner, d_conv] = self.conv_weight.dims();
        let found = (state.conv.dims(), state.ssm.dims());
        let expected = (
            [batch, d_inner, d_conv - 1],
            [batch, d_inner, self.d_state()],
        );
        assert_eq!(
            found, expected,
            "the state has shapes {found:?}, the layer and a batch of {batch} need {expected:?}"
        );
    }
}

impl SequenceLayer for Mamba {
    type State = MambaState;

    fn d_input(&self) -> usize {
        self.in_proj.weight.dims()[0]
    }

    fn d_output(&self) -> usize {
        self.out_proj.weight.dims()[1]
    }

    fn initial_state(&self, batch: usize, device: &Device) -> MambaState {
        let [d_inner, d_conv] = self.conv_weight.dims();
        let options = (device, self.a_log.val().dtype());
        MambaState {
            conv: Tensor::zeros([batch, d_inner, d_conv - 1], options),
            ssm: Tensor::zeros([batch, d_inner, self.d_state()], options),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<MambaState>) -> (Tensor<3>, MambaState) {
        self.run(x, &Sequences::default(), state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<MambaState>,
    ) -> (Tensor<3>, MambaState) {
        let sequences = Sequences {
            lengths: Some(lengths),
            ..Sequences::default()
        };
        self.run(x, &sequences, state)
    }

    fn step(&self, x: Tensor<2>, state: MambaState) -> (Tensor<2>, MambaState) {
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

/// A norm of the last axis, without weights.
fn root_mean_square_norm(x: Tensor<3>, eps: f64) -> Tensor<3> {
    let squares = x.clone().powi_scalar(2).mean_dim(2);
    x / (squares + eps).sqrt()
}
