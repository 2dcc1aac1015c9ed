//! Trains a character model of mixed blocks on Moby-Dick, then lets it write; without a file of blocks, a small
//! Jamba of Mamba layers, one attention among them and a gated feed-forward layer after each:
//!
//! ```sh
//! cargo run --release -p seq-hybrid --example train_hybrid
//! cargo run --release -p seq-hybrid --example train_hybrid -- --config hybrid.json --epochs 2
//! ```

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use seq_core::models::{TextProgram, size};
use seq_hybrid::{BlockConfig, HybridConfig};
use seq_mamba::MambaConfig;
use seq_transformer::{Activation, FeedForwardConfig, MultiHeadAttentionConfig};

/// Trains a character model of mixed blocks on Moby-Dick, then lets it write.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    text: TextProgram,
    /// A JSON file with the blocks, instead of the options below.
    #[arg(long)]
    config: Option<PathBuf>,
    /// The width of embedding and blocks, a multiple of 4.
    #[arg(long, default_value = "96", value_parser = size)]
    d_model: usize,
    /// Layers over one another, each a mixer and a feed-forward layer.
    #[arg(long, default_value = "4", value_parser = size)]
    num_layers: usize,
}

impl Args {
    fn hybrid(&self) -> HybridConfig {
        let layer = |index| -> [BlockConfig; 2] {
            let mixer = match index == self.num_layers / 2 {
                true => MultiHeadAttentionConfig::new(self.d_model, 4)
                    .with_bias(false)
                    .into(),
                false => MambaConfig::new(self.d_model).with_d_state(8).into(),
            };
            let feed_forward = FeedForwardConfig::new(self.d_model, 2 * self.d_model)
                .with_activation(Activation::Silu)
                .with_gated(true)
                .with_bias(false);
            [mixer, feed_forward.into()]
        };
        HybridConfig::new(self.d_model, (0..self.num_layers).flat_map(layer).collect())
    }

    fn run(&self) -> Result<(), Box<dyn Error>> {
        let config = match &self.config {
            Some(file) => HybridConfig::read(file)?,
            None => self.hybrid(),
        };
        config.validate()?;
        let out = Path::new("target/train_text/hybrid");
        let layer = |device: &_| config.init(device);
        self.text.run(out, &seq_hybrid::device(), layer)
    }
}

fn main() -> ExitCode {
    match Args::parse().run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
