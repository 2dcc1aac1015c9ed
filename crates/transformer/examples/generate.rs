//! Writes text with a published Transformer, a symbol at a time:
//!
//! ```sh
//! cargo run --release -p seq-transformer --example generate -- --model gpt2 --prompt "The sea is"
//! ```
//!
//! The folder is one of Hugging Face: `config.json`, the weights in one file or in parts, and `tokenizer.json`.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use burn::module::Module;
use clap::Parser;
use seq_core::models::Sampler;
use seq_transformer::load_pretrained;
use tokenizers::Tokenizer;

/// Writes text with a published Transformer.
#[derive(Parser)]
struct Args {
    /// The folder with the model and its tokenizer.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What the text begins with.
    #[arg(long, default_value = "The sea is")]
    prompt: String,
    /// How many symbols to write.
    #[arg(long, visible_alias = "tokens", default_value_t = 100)]
    length: usize,
    /// 0 takes the likeliest symbol each time, 1 draws by probability.
    #[arg(long, default_value = "0", value_parser = temperature)]
    temperature: f64,
    /// Draws from so many of the likeliest symbols only.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    top_k: Option<u32>,
    /// Draws from the fewest symbols that have this probability together.
    #[arg(long, value_parser = probability)]
    top_p: Option<f64>,
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

fn probability(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(value) if value > 0.0 && value <= 1.0 => Ok(value),
        _ => Err("must be a number above 0, at most 1".to_string()),
    }
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
    let prompt = tokenizer.encode(args.prompt.as_str(), true)?;
    let prompt = prompt.get_ids().to_vec();
    if prompt.is_empty() {
        return Err("the prompt is empty".into());
    }
    let begin = Instant::now();
    let (model, config) = load_pretrained(&args.model, &seq_transformer::device())?;
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
        return Err(format!(
            "{}: the tokenizer has a symbol {id}, the model only {} symbols",
            args.model.display(),
            config.vocab_size
        )
        .into());
    }
    let positions = model.layer.positions.as_ref();
    if let Some(max) = positions.and_then(|positions| positions.max_positions())
        && prompt.len() + args.length > max
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

    let mut sampler = Sampler::new(args.seed).with_temperature(args.temperature);
    if let Some(k) = args.top_k {
        sampler = sampler.with_top_k(k as usize);
    }
    if let Some(p) = args.top_p {
        sampler = sampler.with_top_p(p);
    }
    let mut out = std::io::stdout().lock();
    write!(out, "{}", args.prompt)?;
    out.flush()?;

    let begin = Instant::now();
    let mut symbols = model.generate(&prompt, sampler);
    let mut ids = prompt.clone();
    let mut shown = tokenizer.decode(&ids, true)?;
    // The first symbol comes of the prompt alone.
    let Some(first) = symbols.next().filter(|_| args.length > 0) else {
        writeln!(out)?;
        return Ok(());
    };
    let reading = begin.elapsed();
    let begin = Instant::now();
    let rest = symbols.take(args.length - 1);
    for id in std::iter::once(first).chain(rest) {
        ids.push(id);
        // A symbol may be a part of a character, which is shown when it is whole.
        let text = tokenizer.decode(&ids, true)?;
        if let Some(new) = text.strip_prefix(shown.as_str())
            && !new.ends_with('\u{fffd}')
        {
            write!(out, "{new}")?;
            out.flush()?;
            shown = text;
        }
    }
    writeln!(out)?;
    let writing = begin.elapsed();
    eprintln!(
        "prompt: {} symbols, {:.1} a second; written: {} symbols, {:.1} a second",
        prompt.len(),
        prompt.len() as f64 / reading.as_secs_f64(),
        args.length,
        (args.length - 1) as f64 / writing.as_secs_f64().max(1e-9)
    );
    Ok(())
}
