//! Writes text with the pretrained LSTM of textgenrnn, character by character:
//!
//! ```sh
//! cargo run --release -p seq-lstm --example textgen -- --prompt "The best way to" --temperature 0.5
//! ```

mod model;

use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use model::TextGen;
use seq_core::models::Sampler;

/// Writes text with a pretrained LSTM.
#[derive(Parser)]
struct Args {
    /// What the text begins with.
    #[arg(long, default_value = "The best way to")]
    prompt: String,
    /// 0 takes the likeliest character each time, 1 draws by probability.
    #[arg(long, default_value = "0.5", value_parser = temperature)]
    temperature: f64,
    /// How many characters to write.
    #[arg(long, default_value_t = 200)]
    length: usize,
    /// The same seed writes the same text.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn temperature(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value >= 0.0 && f64::is_finite(value) => Ok(value),
        _ => Err("must be a number of at least 0".to_string()),
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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/textgen/data");
    let model = TextGen::load(&folder, &seq_lstm::device())?;
    let mut text = model.vocab().encode(&args.prompt).map_err(|unknown| {
        format!("the model does not know the character {unknown:?} of the prompt")
    })?;

    let mut sampler = Sampler::new(args.seed).with_temperature(args.temperature);
    let mut out = std::io::stdout().lock();
    write!(out, "{}", args.prompt)?;
    for _ in 0..args.length {
        let logits: Vec<f32> = model.logits(&[&text]).into_data().iter().collect();
        let id = sampler.sample(&logits);
        text.push(id);
        if let Some(character) = model.vocab().decode(id) {
            write!(out, "{character}")?;
            out.flush()?;
        }
    }
    writeln!(out)?;
    Ok(())
}
