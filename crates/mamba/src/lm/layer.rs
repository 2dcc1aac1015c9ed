use burn::module::Module;
use burn::tensor::{Device, Tensor};
use seq_core::blocks::{Residual, Stack};
use seq_core::models::LanguageModel;
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper};

use crate::{Mamba, Mamba2, Mamba2State, Mamba3, Mamba3State, MambaState};

/// A language model of Mamba, Mamba-2 or Mamba-3 layers (Gu and Dao 2023, <https://arxiv.org/abs/2312.00752>): an
/// embedding, residual blocks each with a root mean square norm before its layer, a last norm, and a head
/// or the embedding in its place. Made by [`MambaLmConfig`](crate::MambaLmConfig) or
/// [`load_pretrained`](crate::load_pretrained).
///
/// A prompt is read in the parallel form; each further symbol costs one step, however many there were.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Int, Tensor};
/// use seq_core::models::Sampler;
/// use seq_mamba::{MambaConfig, MambaLmConfig};
///
/// let device = seq_mamba::device();
/// let model = MambaLmConfig::new(50, 2, MambaConfig::new(16).into()).init(&device);
/// let ids = Tensor::<2, Int>::from_data([[3, 1, 4]], &device);
/// let (logits, _state) = model.forward(ids, None);
/// assert_eq!(logits.dims(), [1, 3, 50]);
/// let written: Vec<u32> = model.generate(&[3, 1, 4], Sampler::greedy()).take(5).collect();
/// assert_eq!(written.len(), 5);
/// # }
/// ```
pub type MambaLm = LanguageModel<Stack<Residual<Mixer>>>;

/// The layer of a block: of any kind, so that one model may have both.
///
/// The example is at [`MambaLm`].
#[derive(Module, Debug)]
pub enum Mixer {
    /// The first one.
    Mamba(Mamba),
    /// The one of the state-space dual.
    Mamba2(Mamba2),
    /// The one whose states turn.
    Mamba3(Mamba3),
}

/// What a [`Mixer`] remembers. The example is at [`MambaLm`].
#[derive(Debug, Clone)]
#[allow(
    clippy::large_enum_variant,
    reason = "a layer has one, and is moved once a step"
)]
pub enum MixerState {
    /// Of [`Mamba`].
    Mamba(MambaState),
    /// Of [`Mamba2`].
    Mamba2(Mamba2State),
    /// Of [`Mamba3`].
    Mamba3(Mamba3State),
}

impl SequenceState for MixerState {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        match self {
            Self::Mamba(state) => Self::Mamba(state.map(mapper)),
            Self::Mamba2(state) => Self::Mamba2(state.map(mapper)),
            Self::Mamba3(state) => Self::Mamba3(state.map(mapper)),
        }
    }
}

impl MixerState {
    /// Which kind it is of, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Self::Mamba(_) => "Mamba",
            Self::Mamba2(_) => "Mamba-2",
            Self::Mamba3(_) => "Mamba-3",
        }
    }

    fn of_mamba(self) -> MambaState {
        match self {
            Self::Mamba(state) => state,
            other => panic!("the state is one of {}, the layer Mamba", other.kind()),
        }
    }

    fn of_mamba2(self) -> Mamba2State {
        match self {
            Self::Mamba2(state) => state,
            other => panic!("the state is one of {}, the layer Mamba-2", other.kind()),
        }
    }

    fn of_mamba3(self) -> Mamba3State {
        match self {
            Self::Mamba3(state) => state,
            other => panic!("the state is one of {}, the layer Mamba-3", other.kind()),
        }
    }
}

/// Runs `$call` of the layer inside, with `$state` as its own, and gives the state back as one of any.
macro_rules! with_layer {
    ($mixer:expr, $state:ident, $layer:ident => $call:expr) => {
        match $mixer {
            Mixer::Mamba($layer) => {
                let $state = $state.map(MixerState::of_mamba);
                let (y, state) = $call;
                (y, MixerState::Mamba(state))
            }
            Mixer::Mamba2($layer) => {
                let $state = $state.map(MixerState::of_mamba2);
                let (y, state) = $call;
                (y, MixerState::Mamba2(state))
            }
            Mixer::Mamba3($layer) => {
                let $state = $state.map(MixerState::of_mamba3);
                let (y, state) = $call;
                (y, MixerState::Mamba3(state))
            }
        }
    };
}

impl SequenceLayer for Mixer {
    type State = MixerState;

    fn d_input(&self) -> usize {
        match self {
            Self::Mamba(layer) => layer.d_input(),
            Self::Mamba2(layer) => layer.d_input(),
            Self::Mamba3(layer) => layer.d_input(),
        }
    }

    fn d_output(&self) -> usize {
        match self {
            Self::Mamba(layer) => layer.d_output(),
            Self::Mamba2(layer) => layer.d_output(),
            Self::Mamba3(layer) => layer.d_output(),
        }
    }

    fn initial_state(&self, batch: usize, device: &Device) -> MixerState {
        match self {
            Self::Mamba(layer) => MixerState::Mamba(layer.initial_state(batch, device)),
            Self::Mamba2(layer) => MixerState::Mamba2(layer.initial_state(batch, device)),
            Self::Mamba3(layer) => MixerState::Mamba3(layer.initial_state(batch, device)),
        }
    }

    fn forward(&self, x: Tensor<3>, state: Option<MixerState>) -> (Tensor<3>, MixerState) {
        with_layer!(self, state, layer => layer.forward(x, state))
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<MixerState>,
    ) -> (Tensor<3>, MixerState) {
        with_layer!(self, state, layer => layer.forward_padded(x, lengths, state))
    }

    fn step(&self, x: Tensor<2>, state: MixerState) -> (Tensor<2>, MixerState) {
        match self {
            Self::Mamba(layer) => {
                let (y, state) = layer.step(x, state.of_mamba());
                (y, MixerState::Mamba(state))
            }
            Self::Mamba2(layer) => {
                let (y, state) = layer.step(x, state.of_mamba2());
                (y, MixerState::Mamba2(state))
            }
            Self::Mamba3(layer) => {
                let (y, state) = layer.step(x, state.of_mamba3());
                (y, MixerState::Mamba3(state))
            }
        }
    }
}
