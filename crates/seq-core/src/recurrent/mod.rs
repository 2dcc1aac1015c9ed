//! The time loop of gated cells, shared by the vanilla RNN, the LSTM and the GRU.
//!
//! A cell brings its mathematics, as one step in tensor operations (the reference) and, for the
//! fused CPU kernels, pointwise forward and backward; hoisting the input projection, walking through
//! time, layers, directions, lengths and the weight gradients are done here.

mod activation;
mod reference;
mod stack;

pub use activation::Activation;
pub use reference::unroll;
pub use stack::{RecurrentCell, Stack};
