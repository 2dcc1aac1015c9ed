//! What must always hold of feed-forward layers, their activations and mixtures of them.

mod activation;
mod experts;
mod golden;
mod layer;
