//! The recurrent kit: what the vanilla RNN, the LSTM and the GRU share, and any other gated cell needs.
//!
//! A cell ([`RecurrentCell`]) brings its mathematics, as one step in tensor operations (the reference)
//! and, for the fused CPU kernels, pointwise forward and backward (`Cell`). Here are its weights
//! ([`CellWeights`]), layers and directions ([`Recurrent`]), configurations ([`RecurrentConfig`]), files
//! ([`PyTorchCell`], [`FromBurn`]), and the walk through time with its gradients.

mod activation;
#[cfg(feature = "cpu-kernels")]
mod cell;
mod config;
mod convert;
#[cfg(feature = "cpu-kernels")]
mod cpu;
#[cfg(feature = "cpu-kernels")]
mod gradient;
mod layer;
#[cfg(feature = "cpu-kernels")]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;
mod pytorch;
mod recurrence;
mod reference;
mod state;
mod weights;

pub use activation::{Activation, clip};
#[cfg(feature = "cpu-kernels")]
pub use activation::{clip_gradient, clip_lanes};
#[cfg(feature = "cpu-kernels")]
pub use cell::{Backward, Cell, Forward, State, Taken};
pub use config::{LayerOptions, RecurrentConfig};
pub use convert::{BurnGate, ConvertError, FromBurn};
pub use layer::{Recurrent, RecurrentCell};
pub use pytorch::{Names, PyTorchCell};
pub use recurrence::{Fused, Recurrence};
pub use reference::unroll;
pub use state::{CellState, HiddenState, MemoryState, RecurrentState};
pub use weights::{
    CellWeights, ProductNorm, RecurrentInit, RecurrentProduct, WeightsConfig, zoneout,
};
