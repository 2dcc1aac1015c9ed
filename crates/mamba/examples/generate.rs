//! Writes text with a published Mamba model, a symbol at a time:
//!
//! ```sh
//! cargo run --release -p seq-mamba --example generate -- --model mamba-130m-hf --prompt "The sea is"
//! ```
//!
//! The folder is one of Hugging Face: `config.json`, the weights in one file or in parts, and `tokenizer.json`. The
//! text ends where the model ends it, by the `eos_token_id` of `generation_config.json` or `config.json`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use burn::module::Module;
use clap::Parser;
use seq_core::checkpoint::eos_token_ids;
use seq_core::models::GenerationProgram;
use seq_mamba::load_pretrained;
use tokenizers::Tokenizer;

/// Writes text with a published Mamba model.
#[derive(Parser)]
struct Args {
    /// The folder with the model and its tokenizer.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    #[command(flatten)]
    text: GenerationProgram,
}

type Outcome<T = ()> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn tokenizer(folder: &Path) -> Outcome<Tokenizer> {
    let file = folder.join("tokenizer.json");
    let found = Tokenizer::from_file(&file);
    Ok(found.map_err(|error| format!("{}: {error}", file.display()))?)
}

fn run(args: &Args) -> Outcome {
    let tokenizer = tokenizer(&args.model)?;
    let prompt = tokenizer.encode(args.text.prompt.as_str(), false)?;
    let ends = eos_token_ids(&args.model)?;
    let begin = Instant::now();
    let (model, _) = load_pretrained(&args.model, &seq_mamba::device())?;
    eprintln!(
        "{} parameters in {:.1} s",
        model.num_params(),
        begin.elapsed().as_secs_f64()
    );
    let decode = |ids: &[u32]| tokenizer.decode(ids, true);
    let out = std::io::stdout().lock();
    (args.text).run(&args.model, &model, prompt.get_ids(), &ends, decode, out)?;
    Ok(())
}
