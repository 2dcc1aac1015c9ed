//! Layers made of layers.

mod norm;
mod residual;
mod stack;

pub use norm::{LayerNorm, Norm};
pub use residual::Residual;
pub use stack::Stack;
