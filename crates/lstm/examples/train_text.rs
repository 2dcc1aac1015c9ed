//! Trains a character model on Moby-Dick, then lets it write:
//!
//! ```sh
//! cargo run --release -p seq-lstm --example train_text
//! cargo run --release -p seq-lstm --example train_text -- --resume --epochs 8
//! ```

use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use seq_core::models::{TextProgram, size};
use seq_lstm::LstmConfig;

/// Trains an LSTM character model on Moby-Dick, then lets it write.
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    text: TextProgram,
    /// The width of embedding and hidden state.
    #[arg(long, default_value = "256", value_parser = size)]
    d_hidden: usize,
    /// LSTM layers over one another.
    #[arg(long, default_value = "1", value_parser = size)]
    num_layers: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let config = LstmConfig::new(args.d_hidden, args.d_hidden)
        .with_num_layers(args.num_layers)
        .with_forget_bias(Some(1.0));
    let out = Path::new("target/train_text/lstm");
    let layer = |device: &_| config.init(device);
    match args.text.run(out, &seq_lstm::device(), layer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
