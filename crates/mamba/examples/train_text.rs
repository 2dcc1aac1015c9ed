//! Trains a character model of Mamba layers on Moby-Dick, then lets it write:
//!
//! ```sh
//! cargo run --release -p seq-mamba --example train_text
//! cargo run --release -p seq-mamba --example train_text -- --resume --epochs 8
//! ```

use std::path::Path;
use std::process::ExitCode;

use burn::nn::RmsNormConfig;
use burn::tensor::Device;
use clap::Parser;
use seq_core::blocks::{Residual, Stack};
use seq_core::models::{TextProgram, size};
use seq_mamba::{Mamba, MambaConfig};

/// Trains a character model of Mamba layers on Moby-Dick, then lets it write.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    text: TextProgram,
    /// The width of embedding and blocks.
    #[arg(long, default_value = "192", value_parser = size)]
    d_model: usize,
    /// The states of a channel.
    #[arg(long, default_value = "8", value_parser = size)]
    d_state: usize,
    /// Blocks over one another.
    #[arg(long, default_value = "2", value_parser = size)]
    num_layers: usize,
}

impl Args {
    fn layer(&self, device: &Device) -> Stack<Residual<Mamba>> {
        let config = MambaConfig::new(self.d_model).with_d_state(self.d_state);
        let norm = || RmsNormConfig::new(self.d_model).init(device);
        let block = |_| Residual::new(norm(), config.init(device));
        Stack::new((0..self.num_layers).map(block).collect()).with_norm(norm())
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let out = Path::new("target/train_text/mamba");
    let layer = |device: &_| args.layer(device);
    match args.text.run(out, &seq_mamba::device(), layer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
