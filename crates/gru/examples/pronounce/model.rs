//! The model of g2p-en: one GRU reads the letters of a word, another one writes its phonemes.

use std::path::{Path, PathBuf};
use std::{fs, io};

use burn::module::Param;
use burn::nn::{Embedding, Linear};
use burn::tensor::{Device, Int, Tensor, TensorData};
use seq_gru::{Checkpoint, CheckpointError, Gru, GruConfig, Lengths, SequenceLayer};
use serde::Deserialize;
use thiserror::Error;

/// The width of embeddings and states.
const D_HIDDEN: usize = 256;
/// How many letters of a word are read, so that no input costs more than a word can.
pub const MAX_LETTERS: usize = 64;
/// Where the decoder is stopped if it does not stop by itself, as in g2p-en.
pub const MAX_PHONEMES: usize = 20;

pub struct Pronouncer {
    enc_emb: Embedding,
    encoder: Gru,
    dec_emb: Embedding,
    decoder: Gru,
    fc: Linear,
    alphabets: Alphabets,
}

#[derive(Deserialize)]
struct Alphabets {
    graphemes: Vec<String>,
    phonemes: Vec<String>,
}

#[derive(Debug, Error)]
pub enum LoadError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: {source}", file.display())]
    Json {
        file: PathBuf,
        source: serde_json::Error,
    },
    #[error("{}: `{alphabet}` has no `{symbol}`", file.display())]
    MissingSymbol {
        file: PathBuf,
        alphabet: &'static str,
        symbol: &'static str,
    },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl Pronouncer {
    /// Reads `g2p-en-gru.safetensors` and `.json` from a folder.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, LoadError> {
        let alphabets = Alphabets::load(folder.join("g2p-en-gru.json"))?;
        let mut checkpoint = Checkpoint::read(folder.join("g2p-en-gru.safetensors"))?;
        let graphemes = alphabets.graphemes.len();
        let phonemes = alphabets.phonemes.len();
        let fc_w: Tensor<2> = checkpoint.take("fc_w", [phonemes, D_HIDDEN], device)?;
        let model = Self {
            enc_emb: Embedding {
                weight: param(&mut checkpoint, "enc_emb", [graphemes, D_HIDDEN], device)?,
            },
            encoder: gru(&mut checkpoint, "enc", device)?,
            dec_emb: Embedding {
                weight: param(&mut checkpoint, "dec_emb", [phonemes, D_HIDDEN], device)?,
            },
            decoder: gru(&mut checkpoint, "dec", device)?,
            fc: Linear {
                weight: Param::from_tensor(fc_w.transpose()),
                bias: Some(param(&mut checkpoint, "fc_b", [phonemes], device)?),
            },
            alphabets,
        };
        checkpoint.finish()?;
        Ok(model)
    }

    /// The likeliest phonemes of each word, all words in one batch.
    pub fn pronounce(&self, words: &[&str]) -> Vec<Vec<&str>> {
        let mut spoken = vec![Vec::new(); words.len()];
        if words.is_empty() {
            return spoken;
        }
        let device = self.fc.weight.device();
        let (letters, lengths) = self.alphabets.encode(words, &device);
        let letters = self.enc_emb.forward(letters);
        let (_, mut state) = self.encoder.forward_padded(letters, &lengths, None);

        let [start, end] = ["<s>", "</s>"].map(|symbol| id(&self.alphabets.phonemes, symbol));
        let mut last = Tensor::<2, Int>::full([words.len(), 1], start, &device);
        let mut ended = vec![false; words.len()];
        for _ in 0..MAX_PHONEMES {
            let x = self.dec_emb.forward(last).squeeze_dim(1);
            let (y, after) = self.decoder.step(x, state);
            state = after;
            last = self.fc.forward(y).argmax(1);
            
        }
        spoken
    }
}
