//! Models from one sequence of symbols to another.

mod config;
mod model;

pub use config::TransformerSeq2SeqConfig;
pub use model::TransformerSeq2Seq;
