//! The model of g2p-en: one GRU reads the letters of a word, another writes its phonemes.

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
/// How many letters of a word are read, so that the longest line is no more work than a page of words.
pub const MAX_LETTERS: usize = 64;
/// Where a pronunciation is cut off that does not end by itself.
pub const MAX_PHONEMES: usize = 20;

pub struct Pronouncer {
    enc_emb: Embedding,
    encoder: Gru,
    dec_emb: Embedding,
    decoder: Gru,
    fc: Linear,
    alphabets: Alphabets,
}

impl Pronouncer {
    /// Reads `g2p-en-gru.safetensors` and `.json` from a folder.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, LoadError> {
        let alphabets = Alphabets::load(folder.join("g2p-en-gru.json"))?;
        let mut weights = Checkpoint::read(folder.join("g2p-en-gru.safetensors"))?;
        let [graphemes, phonemes] = [&alphabets.graphemes, &alphabets.phonemes].map(Vec::len);

        let fc_w: Tensor<2> = weights.take("fc_w", [phonemes, D_HIDDEN], device)?;
        let model = Self {
            enc_emb: Embedding {
                weight: param(&mut weights, "enc_emb", [graphemes, D_HIDDEN], device)?,
            },
            encoder: gru(&mut weights, "enc", device)?,
            dec_emb: Embedding {
                weight: param(&mut weights, "dec_emb", [phonemes, D_HIDDEN], device)?,
            },
            decoder: gru(&mut weights, "dec", device)?,
            fc: Linear {
                weight: Param::from_tensor(fc_w.transpose()),
                bias: Some(param(&mut weights, "fc_b", [phonemes], device)?),
            },
            alphabets,
        };
        weights.finish()?;
        Ok(model)
    }

    /// The phonemes of each word, of all words at once.
    pub fn pronounce(&self, words: &[&str]) -> Vec<Vec<&str>> {
        let mut spoken = vec![Vec::new(); words.len()];
        if words.is_empty() {
            return spoken;
        }
        let device = self.fc.weight.device();
        let (letters, lengths) = self.alphabets.encode(words, &device);
        let letters = self.enc_emb.forward(letters);
        let (_, mut state) = self.encoder.forward_padded(letters, &lengths, None);

        let Alphabets { start, end, .. } = self.alphabets;
        let mut last = Tensor::<2, Int>::full([words.len(), 1], start as i64, &device);
        let mut ended = vec![false; words.len()];
        for _ in 0..MAX_PHONEMES {
            let x = self.dec_emb.forward(last).squeeze_dim(1);
            let (y, after) = self.decoder.step(x, state);
            state = after;
            last = self.fc.forward(y).argmax(1);
            let phonemes = last.to_data();
            let rows = spoken.iter_mut().zip(&mut ended);
            for ((spoken, ended), phoneme) in rows.zip(phonemes.iter::<u32>()) {
                *ended |= phoneme as usize == end;
                if !*ended {
                    spoken.push(self.alphabets.phonemes[phoneme as usize].as_str());
                }
            }
            if !ended.contains(&false) {
                break;
            }
        }
        spoken
    }
}

fn gru(weights: &mut Checkpoint, name: &str, device: &Device) -> Result<Gru, CheckpointError> {
    const ROWS: usize = 3 * D_HIDDEN;
    let mut cell = GruConfig::new(D_HIDDEN, D_HIDDEN).init_cell(device);
    let shape = [ROWS, D_HIDDEN];
    cell.weights.weight_ih = param(weights, &format!("{name}_w_ih"), shape, device)?;
    cell.weights.weight_hh = param(weights, &format!("{name}_w_hh"), shape, device)?;
    cell.weights.bias_ih = Some(param(weights, &format!("{name}_b_ih"), [ROWS], device)?);
    cell.weights.bias_hh = Some(param(weights, &format!("{name}_b_hh"), [ROWS], device)?);
    Ok(cell.into())
}

fn param<const D: usize>(
    weights: &mut Checkpoint,
    name: &str,
    shape: [usize; D],
    device: &Device,
) -> Result<Param<Tensor<D>>, CheckpointError> {
    Ok(Param::from_tensor(weights.take(name, shape, device)?))
}

/// Letters and phonemes in the order of their ids, and the ids of the special ones.
struct Alphabets {
    graphemes: Vec<String>,
    unknown: usize,
    word_end: usize,
    phonemes: Vec<String>,
    start: usize,
    end: usize,
}

impl Alphabets {
    fn load(file: PathBuf) -> Result<Self, LoadError> {
        #[derive(Deserialize)]
        struct Json {
            graphemes: Vec<String>,
            phonemes: Vec<String>,
        }
        let json = match fs::read(&file) {
            Ok(json) => json,
            Err(source) => return Err(LoadError::Io { file, source }),
        };
        let Json {
            graphemes,
            phonemes,
        } = match serde_json::from_slice(&json) {
            Ok(json) => json,
            Err(source) => return Err(LoadError::Json { file, source }),
        };
        let find = |alphabet: &[String], symbol| {
            let id = alphabet.iter().position(|other| other == symbol);
            id.ok_or_else(|| LoadError::MissingSymbol {
                file: file.clone(),
                symbol,
            })
        };
        Ok(Self {
            unknown: find(&graphemes, "<unk>")?,
            word_end: find(&graphemes, "</s>")?,
            start: find(&phonemes, "<s>")?,
            end: find(&phonemes, "</s>")?,
            graphemes,
            phonemes,
        })
    }

    /// The letters `[words, letters]`, with the end of the word as the last of each.
    fn encode(&self, words: &[&str], device: &Device) -> (Tensor<2, Int>, Lengths) {
        let id = |letter: char| {
            let found = self.graphemes.iter().position(|g| g.chars().eq([letter]));
            found.unwrap_or(self.unknown) as u32
        };
        let encode = |word: &&str| -> Vec<u32> {
            let letters = word.chars().flat_map(char::to_lowercase);
            let ids = letters.take(MAX_LETTERS).map(id);
            ids.chain([self.word_end as u32]).collect()
        };
        let words: Vec<Vec<u32>> = words.iter().map(encode).collect();
        let lengths = Lengths::new(words.iter().map(Vec::len));
        let shape = [words.len(), lengths.longest()];
        let mut ids = vec![0; shape[0] * shape[1]];
        for (row, word) in ids.chunks_mut(shape[1]).zip(&words) {
            row[..word.len()].copy_from_slice(word);
        }
        let ids = Tensor::from_data(TensorData::new(ids, shape), device);
        (ids, lengths)
    }
}

/// Why the model could not be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: {source}", file.display())]
    Json {
        file: PathBuf,
        source: serde_json::Error,
    },
    #[error("{}: an alphabet has no `{symbol}`", file.display())]
    MissingSymbol { file: PathBuf, symbol: &'static str },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
