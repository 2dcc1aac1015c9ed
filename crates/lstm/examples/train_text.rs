//! Trains a character model on Moby-Dick, then lets it write:
//!
//! ```sh
//! cargo run --release -p seq-lstm --example train_text
//! cargo run --release -p seq-lstm --example train_text -- --resume --epochs 8
//! ```

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use seq_core::models::{LanguageModel, Sampler, TextTraining};
use seq_data::text::{CharVocab, TextWindows, moby_dick};
use seq_lstm::LstmConfig;

/// Trains an LSTM character model on Moby-Dick, then lets it write.
#[derive(Parser)]
struct Args {
    /// The folder of the checkpoints.
    #[arg(long, default_value = "target/train_text/lstm")]
    out: PathBuf,
    /// Go on from the last checkpoint in the folder, with the same --d-hidden and --num-layers.
    #[arg(long)]
    resume: bool,
    /// How often the novel is read, what came before a resumption included.
    #[arg(long, default_value_t = 4)]
    epochs: usize,
    /// Windows a step.
    #[arg(long, default_value = "32", value_parser = size)]
    batch_size: usize,
    /// Characters a window.
    #[arg(long, default_value = "128", value_parser = size)]
    window: usize,
    /// The width of embedding and hidden state.
    #[arg(long, default_value = "256", value_parser = size)]
    d_hidden: usize,
    /// LSTM layers over one another.
    #[arg(long, default_value = "1", value_parser = size)]
    num_layers: usize,
    /// Adam's rate.
    #[arg(long, default_value_t = 3e-3)]
    learning_rate: f64,
    /// Of weights, order of the windows, and sampling.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What the sample begins with.
    #[arg(long, default_value = "Call me ")]
    prompt: String,
    /// How many characters to write.
    #[arg(long, default_value_t = 500)]
    length: usize,
}

fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size > 0 => Ok(size),
        _ => Err("must be a whole number of at least 1".to_string()),
    }
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Box<dyn std::error::Error>> {
    let vocab = CharVocab::new(moby_dick());
    let prompt = vocab.encode(&args.prompt)?;
    if prompt.is_empty() {
        return Err("the prompt is empty".into());
    }
    let ids = vocab.encode(moby_dick())?;
    let (train, valid) = TextWindows::split(&ids, 0.9, args.window, args.window)?;

    let device = seq_lstm::device();
    device.seed(args.seed);
    let lstm = LstmConfig::new(args.d_hidden, args.d_hidden)
        .with_num_layers(args.num_layers)
        .with_forget_bias(Some(1.0))
        .init(&device);
    let model = LanguageModel::new(vocab.len(), lstm, &device);
    let training = TextTraining {
        resume: args.resume,
        epochs: args.epochs,
        batch_size: args.batch_size,
        learning_rate: args.learning_rate,
        seed: args.seed,
        ..TextTraining::new(&args.out)
    };
    let model = training.fit(model, train, valid)?;
    println!("checkpoints: {}\n", args.out.join("checkpoint").display());

    let mut out = std::io::stdout().lock();
    write!(out, "{}", args.prompt)?;
    let sampler = Sampler::new(args.seed).with_temperature(0.7);
    for id in model.generate(&prompt, sampler).take(args.length) {
        write!(out, "{}", vocab.decode(&[id])?)?;
        out.flush()?;
    }
    writeln!(out)?;
    Ok(())
}
