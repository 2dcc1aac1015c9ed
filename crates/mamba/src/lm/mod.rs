//! Language models of Mamba layers, and the folders that they are published in.

mod config;
mod hugging_face;
mod layer;
mod parameters;
mod pretrained;

pub use config::{MambaLmConfig, MixerConfig};
pub use layer::{MambaLm, Mixer, MixerState};
pub use pretrained::{load_pretrained, save_pretrained};
