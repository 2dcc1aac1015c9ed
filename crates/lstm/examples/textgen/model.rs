//! The character model of textgenrnn: an embedding, two LSTMs, and attention over the last 40
//! characters.

use std::collections::HashMap;
use std::path::Path;
use std::{fs, io};

use burn::module::Param;
use burn::nn::{Embedding, EmbeddingConfig, Linear};
use burn::tensor::activation::softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};
use seq_lstm::{Checkpoint, CheckpointError, Lstm, SequenceLayer};

/// How many characters the model sees, padded in front with id 0.
pub const CONTEXT: usize = 40;

const D_EMBEDDING: usize = 100;
const D_HIDDEN: usize = 128;
/// Embedding and the outputs of both LSTMs, side by side.
const D_FEATURES: usize = D_EMBEDDING + 2 * D_HIDDEN;

pub struct TextGen {
    embedding: Embedding,
    lstm1: Lstm,
    lstm2: Lstm,
    /// `[D_FEATURES, 1]`
    attention: Tensor<2>,
    output: Linear,
    vocab: Vocab,
}

/// Characters and their ids; ids begin at 1.
pub struct Vocab {
    ids: HashMap<char, u32>,
    chars: HashMap<u32, char>,
    /// Stands before the first character of every text.
    pub start: u32,
}

impl TextGen {
    /// Reads `textgenrnn-lstm.safetensors` and `.json` from a folder.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, Box<dyn std::error::Error>> {
        let vocab = Vocab::load(&folder.join("textgenrnn-lstm.json"))?;
        let weights = folder.join("textgenrnn-lstm.safetensors");
        Ok(Self::from_checkpoint(
            Checkpoint::read(weights)?,
            vocab,
            device,
        )?)
    }

    fn from_checkpoint(
        mut checkpoint: Checkpoint,
        vocab: Vocab,
        device: &Device,
    ) -> Result<Self, CheckpointError> {
        let vocab_size = vocab.chars.len() + 1;
        let mut embedding = EmbeddingConfig::new(vocab_size, D_EMBEDDING).init(device);
        let weight = checkpoint.take("embedding.weight", [vocab_size, D_EMBEDDING], device)?;
        embedding.weight = Param::from_tensor(weight);
        let weight: Tensor<2> =
            checkpoint.take("output.weight", [vocab_size, D_FEATURES], device)?;
        let bias = checkpoint.take("output.bias", [vocab_size], device)?;
        let model = Self {
            embedding,
            lstm1: Lstm::from_checkpoint(checkpoint.split_off("lstm1")?, device)?,
            lstm2: Lstm::from_checkpoint(checkpoint.split_off("lstm2")?, device)?,
            attention: checkpoint.take("attention.weight", [D_FEATURES, 1], device)?,
            output: Linear {
                weight: Param::from_tensor(weight.transpose()),
                bias: Some(Param::from_tensor(bias)),
            },
            vocab,
        };
        checkpoint.finish()?;
        Ok(model)
    }

    pub fn vocab(&self) -> &Vocab {
        &self.vocab
    }

    /// What follows each of several texts, given as ids of any length: `[texts, vocab_size]`.
    pub fn logits(&self, texts: &[&[u32]]) -> Tensor<2> {
        let mut ids = Vec::with_capacity(texts.len() * CONTEXT);
        for text in texts {
            let seen = &text[text.len().saturating_sub(CONTEXT)..];
            ids.extend(std::iter::repeat_n(0, CONTEXT - seen.len()));
            ids.extend(seen);
        }
        let ids = TensorData::new(ids, [texts.len(), CONTEXT]);
        let ids = Tensor::<2, Int>::from_data(ids, &self.attention.device());

        let e = self.embedding.forward(ids);
        let (r1, _) = self.lstm1.forward(e.clone(), None);
        let (r2, _) = self.lstm2.forward(r1.clone(), None);
        // [texts, CONTEXT, D_FEATURES]
        let features = Tensor::cat(vec![e, r1, r2], 2);
        let scores = features.clone().matmul(self.attention.clone().unsqueeze());
        let summary = (features * softmax(scores, 1)).sum_dim(1).squeeze_dim(1);
        self.output.forward(summary)
    }
}

impl Vocab {
    fn load(file: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let bad = |reason: &dyn ToString| {
            let message = format!("{}: {}", file.display(), reason.to_string());
            io::Error::new(io::ErrorKind::InvalidData, message)
        };
        let json = fs::read(file).map_err(|error| bad(&error))?;
        let json: serde_json::Value = serde_json::from_slice(&json).map_err(|error| bad(&error))?;
        let ids: HashMap<String, u32> =
            serde_json::from_value(json["vocab"].clone()).map_err(|error| bad(&error))?;
        let start = json["start_token"]
            .as_str()
            .and_then(|token| ids.get(token).copied());
        let start = start.ok_or_else(|| bad(&"`start_token` is not in `vocab`"))?;
        let chars: HashMap<u32, char> = ids
            .iter()
            .map(|(token, &id)| match id == start {
                true => (id, '\n'),
                false => (id, token.chars().next().unwrap_or_default()),
            })
            .collect();
        let ids = chars
            .iter()
            .map(|(&id, &character)| (character, id))
            .collect();
        Ok(Self { ids, chars, start })
    }

    /// The ids of a text, behind the start token; the error is a character the model does not know.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, char> {
        let ids = text.chars().map(|c| self.ids.get(&c).copied().ok_or(c));
        std::iter::once(Ok(self.start)).chain(ids).collect()
    }

    /// The character of an id, or `None` for the padding. The start token also ends a text: it is a
    /// line break.
    pub fn decode(&self, id: u32) -> Option<char> {
        self.chars.get(&id).copied()
    }
}
