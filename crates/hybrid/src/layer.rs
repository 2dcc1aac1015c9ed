use burn::module::Module;
use burn::tensor::{Device, Tensor};
use seq_core::blocks::Residual;
use seq_core::{Lengths, SequenceLayer, SequenceState, StateMapper};
use seq_gru::{Gru, GruState};
use seq_lstm::{Lstm, LstmState};
use seq_mamba::{Mamba, Mamba2, Mamba2State, Mamba3, Mamba3State, MambaState};
use seq_rnn::{Rnn, RnnState};
use seq_ssm::{S4, S4Block, S4State, S4d, S4dState, S5, S5State};
use seq_transformer::{KvCache, MultiHeadAttention, TransformerBlock};

use crate::{FeedForwardBlock, Memoryless};

/// The state inside, which has to be of a kind.
macro_rules! of_kind {
    ($state:expr, $kind:ident) => {
        match $state {
            HybridState::$kind(state) => state,
            other => panic!(
                "the state is one of {}, the layer {}",
                other.kind(),
                stringify!($kind)
            ),
        }
    };
}

/// Defines the blocks and their states, and runs whichever a block is.
macro_rules! layers {
    ($(#[$doc:meta] $kind:ident($layer:ty, $state:ty),)*) => {
        /// One block of a [`Hybrid`](crate::Hybrid), of any kind, with its residual connection; made by
        /// [`BlockConfig`](crate::BlockConfig).
        ///
        /// ```
        /// # #[cfg(feature = "ndarray")] {
        /// use burn::tensor::Tensor;
        /// use seq_hybrid::{HybridConfig, HybridLayer, HybridState, SequenceLayer};
        /// use seq_lstm::LstmConfig;
        ///
        /// let device = seq_hybrid::device();
        /// let config = HybridConfig::new(8, vec![LstmConfig::new(8, 8).into()]);
        /// let layers = config.init(&device).layers;
        /// assert!(matches!(layers[0], HybridLayer::Lstm(_)));
        /// let (_, state) = layers[0].forward(Tensor::<3>::ones([2, 5, 8], &device), None);
        /// assert!(matches!(state, HybridState::Lstm(_)));
        /// # }
        /// ```
        #[derive(Module, Debug)]
        #[allow(clippy::large_enum_variant, reason = "a model has few, and they stay where they are")]
        pub enum HybridLayer {
            $(#[$doc] $kind($layer),)*
        }

        /// What a [`HybridLayer`] remembers. The example is there.
        #[derive(Debug, Clone)]
        #[allow(clippy::large_enum_variant, reason = "a layer has one, and is moved once a step")]
        pub enum HybridState {
            $(#[$doc] $kind($state),)*
        }

        impl HybridState {
            /// Which kind it is of, for messages.
            fn kind(&self) -> &'static str {
                match self {
                    $(Self::$kind(_) => stringify!($kind),)*
                }
            }
        }

        impl SequenceState for HybridState {
            fn map(self, mapper: &mut impl StateMapper) -> Self {
                match self {
                    $(Self::$kind(state) => Self::$kind(state.map(mapper)),)*
                }
            }
        }

        impl SequenceLayer for HybridLayer {
            type State = HybridState;

            fn d_input(&self) -> usize {
                match self {
                    $(Self::$kind(layer) => layer.d_input(),)*
                }
            }

            fn d_output(&self) -> usize {
                match self {
                    $(Self::$kind(layer) => layer.d_output(),)*
                }
            }

            fn initial_state(&self, batch: usize, device: &Device) -> HybridState {
                match self {
                    $(Self::$kind(layer) => HybridState::$kind(layer.initial_state(batch, device)),)*
                }
            }

            fn forward(&self, x: Tensor<3>, state: Option<HybridState>) -> (Tensor<3>, HybridState) {
                match self {
                    $(Self::$kind(layer) => {
                        let state = state.map(|state| of_kind!(state, $kind));
                        let (y, state) = layer.forward(x, state);
                        (y, HybridState::$kind(state))
                    })*
                }
            }

            fn forward_padded(
                &self,
                x: Tensor<3>,
                lengths: &Lengths,
                state: Option<HybridState>,
            ) -> (Tensor<3>, HybridState) {
                match self {
                    $(Self::$kind(layer) => {
                        let state = state.map(|state| of_kind!(state, $kind));
                        let (y, state) = layer.forward_padded(x, lengths, state);
                        (y, HybridState::$kind(state))
                    })*
                }
            }

            fn step(&self, x: Tensor<2>, state: HybridState) -> (Tensor<2>, HybridState) {
                match self {
                    $(Self::$kind(layer) => {
                        let (y, state) = layer.step(x, of_kind!(state, $kind));
                        (y, HybridState::$kind(state))
                    })*
                }
            }
        }
    };
}

layers! {
    /// Of Mamba.
    Mamba(Residual<Mamba>, MambaState),
    /// Of Mamba-2.
    Mamba2(Residual<Mamba2>, Mamba2State),
    /// Of Mamba-3.
    Mamba3(Residual<Mamba3>, Mamba3State),
    /// Of S4, with the norm, the gate and the residual connection of its papers.
    S4(S4Block<S4>, S4State),
    /// Of S4D, in the same block.
    S4d(S4Block<S4d>, S4dState),
    /// Of S5, in the same block.
    S5(S4Block<S5>, S5State),
    /// Of the vanilla RNN.
    Rnn(Residual<Rnn>, RnnState),
    /// Of the LSTM.
    Lstm(Residual<Lstm>, LstmState),
    /// Of the GRU.
    Gru(Residual<Gru>, GruState),
    /// Of causal self-attention alone.
    Attention(Residual<MultiHeadAttention>, KvCache),
    /// Of attention and feed-forward, with norms where its configuration has them.
    Transformer(TransformerBlock, KvCache),
    /// Of one feed-forward layer or a mixture, which remembers nothing.
    FeedForward(FeedForwardBlock, Memoryless),
}

impl HybridLayer {
    /// As [`SequenceLayer::forward`], or with `lengths` as `forward_padded`, and the loss that balances the
    /// experts of a mixture, `[1]`, if there are such in the block.
    ///
    /// # Panics
    ///
    /// As those.
    pub fn forward_balanced(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<HybridState>,
    ) -> (Tensor<3>, HybridState, Option<Tensor<1>>) {
        match self {
            Self::Transformer(block) => {
                let state = state.map(|state| of_kind!(state, Transformer));
                let (y, state, balance) = block.forward_balanced(x, lengths, state);
                (y, HybridState::Transformer(state), balance)
            }
            Self::FeedForward(block) => {
                let Memoryless = state.map_or(Memoryless, |state| of_kind!(state, FeedForward));
                let (y, balance) = block.forward_balanced(x, lengths);
                (y, HybridState::FeedForward(Memoryless), balance)
            }
            layer => {
                let (y, state) = match lengths {
                    Some(lengths) => layer.forward_padded(x, lengths, state),
                    None => layer.forward(x, state),
                };
                (y, state, None)
            }
        }
    }
}
