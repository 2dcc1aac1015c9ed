//! Turns English spelling into phonemes with the pretrained GRU encoder and decoder of g2p-en:
//!
//! ```sh
//! cargo run --release -p seq-gru --example pronounce -- rust recurrent
//! ```

mod model;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use model::Pronouncer;

/// Words that go through the model together.
const BATCH_SIZE: usize = 64;

/// Turns English words into phonemes (ARPAbet, with the stress of each vowel).
#[derive(Parser)]
struct Args {
    /// Without any, they are read from the standard input, line by line.
    words: Vec<String>,
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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pronounce/data");
    let model = Pronouncer::load(&folder, &seq_gru::device())?;
    if !args.words.is_empty() {
        return Ok(pronounce(&model, &args.words.join(" "))?);
    }
    for line in io::stdin().lines() {
        pronounce(&model, &line?)?;
    }
    Ok(())
}

fn pronounce(model: &Pronouncer, text: &str) -> io::Result<()> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut out = io::stdout().lock();
    for words in words.chunks(BATCH_SIZE) {
        for (word, phonemes) in words.iter().zip(model.pronounce(words)) {
            writeln!(out, "{word:<10} {}", phonemes.join(" "))?;
        }
    }
    Ok(())
}
