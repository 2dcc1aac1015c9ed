//! Trains a character model of Transformer blocks with rotary positions on Moby-Dick, then lets it write:
//!
//! ```sh
//! cargo run --release -p seq-transformer --example train_text
//! cargo run --release -p seq-transformer --example train_text -- --resume --epochs 8
//! ```

use std::path::Path;
use std::process::ExitCode;

use burn::tensor::Device;
use clap::Parser;
use seq_core::models::{TextProgram, size};
use seq_transformer::{
    Activation, FeedForwardConfig, MultiHeadAttentionConfig, NormConfig, RotaryConfig, Transformer,
    TransformerBlockConfig, TransformerConfig,
};

/// Trains a character model of Transformer blocks on Moby-Dick, then lets it write.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    text: TextProgram,
    /// The width of embedding and blocks, a multiple of twice the heads.
    #[arg(long, default_value = "192", value_parser = size)]
    d_model: usize,
    /// The heads of the attention.
    #[arg(long, default_value = "6", value_parser = size)]
    num_heads: usize,
    /// Blocks over one another.
    #[arg(long, default_value = "2", value_parser = size)]
    num_layers: usize,
}

impl Args {
    fn config(&self) -> TransformerConfig {
        let (width, heads) = (self.d_model, self.num_heads);
        let attention = MultiHeadAttentionConfig::new(width, heads)
            .with_bias(false)
            .with_output_bias(false)
            .with_rotary(Some(RotaryConfig::new(width / heads)));
        // With a gate, 8 / 3 times the width has as many weights as 4 times without.
        let feed_forward = FeedForwardConfig::new(width, width * 8 / 3)
            .with_activation(Activation::Silu)
            .with_gated(true)
            .with_bias(false);
        let block = TransformerBlockConfig::new(attention, feed_forward.into())
            .with_norm(NormConfig::Rms { epsilon: 1e-5 });
        TransformerConfig::new(self.num_layers, block)
    }

    fn run(&self) -> Result<(), Box<dyn std::error::Error>> {
        let config = self.config();
        config.validate()?;
        let out = Path::new("target/train_text/transformer");
        let layer = |device: &Device| -> Transformer { config.init(device) };
        self.text.run(out, &seq_transformer::device(), layer)
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
