//! Numbers the residues of an antibody with the pretrained encoder-decoder of ANARCII:
//!
//! ```sh
//! cargo run --release -p seq-transformer --example antibody -- EVQLVESGGGLVQPGGSLRLSCAAS...
//! ```

mod model;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use model::Numberer;

/// Numbers the residues of antibodies (in the IMGT scheme; `X` is an insertion, `<SKIP>` lies outside).
#[derive(Parser)]
struct Args {
    /// Amino acids in one-letter code. Without any, trastuzumab's heavy chain.
    sequences: Vec<String>,
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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/antibody/data");
    let model = Numberer::load(&folder, &seq_transformer::device())?;
    let sequences = match args.sequences.is_empty() {
        true => vec![model.example.clone()],
        false => args.sequences,
    };
    let sequences: Vec<&str> = sequences.iter().map(String::as_str).collect();
    let mut out = io::stdout().lock();
    for (sequence, numbers) in sequences.iter().zip(model.number(&sequences)?) {
        let mut numbers = numbers.into_iter();
        writeln!(out, "chain {}", numbers.next().unwrap_or("unknown"))?;
        for (residue, number) in sequence.chars().zip(numbers) {
            writeln!(out, "{residue} {number}")?;
        }
    }
    Ok(())
}
