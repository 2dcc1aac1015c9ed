//! The position-wise layer of a Transformer block: two linear maps with a nonlinearity between them, or a
//! mixture of several such.

mod activation;
mod config;
mod experts;
mod layer;
mod mlp;

pub use activation::Activation;
pub use config::{FeedForwardConfig, MixtureOfExpertsConfig, MlpConfig};
pub use experts::{MixtureOfExperts, Routed};
pub use layer::FeedForward;
pub use mlp::Mlp;
