//! Writes text with a published Transformer, a symbol at a time:
//!
//! ```sh
//! cargo run --release -p seq-transformer --example generate -- --model gpt2 --prompt "The sea is"
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
use seq_transformer::load_pretrained;
use tokenizers::Tokenizer;

/// Writes text with a published Transformer.
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
    // With what the tokenizer puts before a text, as the models were trained.
    let prompt = tokenizer.encode(args.text.prompt.as_str(), true)?;
    let ends = eos_token_ids(&args.model)?;
    let begin = Instant::now();
    let (model, _) = load_pretrained(&args.model, &seq_transformer::device())?;
    let positions = model.layer.positions.as_ref();
    if let Some(max) = positions.and_then(|positions| positions.max_positions())
        && prompt.len() + args.text.length > max
    {
        let read = prompt.len();
        let reason = format!("the model has {max} positions, {read} are of the prompt");
        return Err(format!("{}: {reason}", args.model.display()).into());
    }
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
