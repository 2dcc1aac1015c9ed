//! Whole models over any [`SequenceLayer`](crate::SequenceLayer), and what samples from them.

mod classifier;
#[cfg(feature = "train")]
mod generation;
mod language;
mod sampling;
#[cfg(feature = "train")]
mod training;

pub use classifier::Classifier;
#[cfg(feature = "train")]
pub use generation::{GenerationFailure, GenerationProgram};
pub use language::{Generation, LanguageModel, bits_per_char, surprisal};
pub use sampling::Sampler;
#[cfg(feature = "train")]
pub use training::{TextProgram, TextTraining, TrainingFailure, size};
