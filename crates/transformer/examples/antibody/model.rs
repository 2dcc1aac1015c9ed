//! The model of ANARCII: from the residues of an antibody to its chain and their numbers.

use std::path::{Path, PathBuf};
use std::{fs, io};

use burn::tensor::Device;
use seq_core::checkpoint::{Parameters, Stored};
use seq_core::models::Sampler;
use seq_transformer::{
    Activation, Checkpoint, CheckpointError, DecoderBlockConfig, DecoderConfig, EncoderConfig,
    FeedForwardConfig, Mlp, MultiHeadAttention, MultiHeadAttentionConfig, NormPosition,
    PositionsConfig, PyTorchConfig, PyTorchModule, TransformerBlockConfig, TransformerSeq2Seq,
    TransformerSeq2SeqConfig,
};
use serde::Deserialize;
use thiserror::Error;

/// The width between the maps of a feed-forward, which the hyperparameters do not name.
const D_HIDDEN: usize = 512;
/// How many positions there are.
const POSITIONS: usize = 210;
/// How many residues there may be, so that there is a position for the chain and the end, too.
pub const MAX_RESIDUES: usize = POSITIONS - 2;

pub struct Numberer {
    model: TransformerSeq2Seq,
    residues: Vec<String>,
    numbers: Vec<String>,
    /// A sequence of which it is known what the original makes of it.
    pub example: String,
}

#[derive(Deserialize)]
struct Expected {
    input: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "UPPERCASE")]
struct Hyperparameters {
    heads: usize,
    hid_dim: usize,
    layers: usize,
}

#[derive(Deserialize)]
struct Description {
    hyperparameters: Hyperparameters,
    source_vocab: Vec<String>,
    target_vocab: Vec<String>,
    expected: Expected,
}

/// Why there are no numbers.
#[derive(Debug, Error)]
pub enum NumberError {
    #[error("{}: {source}", file.display())]
    Io { file: PathBuf, source: io::Error },
    #[error("{}: {source}", file.display())]
    Json {
        file: PathBuf,
        source: serde_json::Error,
    },
    #[error("`{residue}`, residue {} of `{sequence}`, is not an amino acid", at + 1)]
    Residue {
        residue: char,
        at: usize,
        sequence: String,
    },
    #[error("a sequence of {found} residues was given, the model reads at most {MAX_RESIDUES}")]
    TooLong { found: usize },
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

impl Numberer {
    /// Reads `anarcii-encoder-decoder.pt` and `.json` from a folder.
    pub fn load(folder: &Path, device: &Device) -> Result<Self, NumberError> {
        let file = folder.join("anarcii-encoder-decoder.json");
        let json = match fs::read(&file) {
            Ok(json) => json,
            Err(source) => return Err(NumberError::Io { file, source }),
        };
        let description: Description = match serde_json::from_slice(&json) {
            Ok(description) => description,
            Err(source) => return Err(NumberError::Json { file, source }),
        };
        let checkpoint = Checkpoint::read(folder.join("anarcii-encoder-decoder.pt"))?;
        Ok(Self {
            model: Weights {
                checkpoint,
                device,
                heads: description.hyperparameters.heads,
            }
            .model(&description)?,
            residues: description.source_vocab,
            numbers: description.target_vocab,
            example: description.expected.input,
        })
    }

    /// The kind of chain and then the number of each residue, of all sequences at once.
    pub fn number(&self, sequences: &[&str]) -> Result<Vec<Vec<&str>>, NumberError> {
        let sources: Vec<Vec<u32>> = sequences
            .iter()
            .map(|sequence| self.read(sequence))
            .collect::<Result<_, _>>()?;
        let sources: Vec<&[u32]> = sources.iter().map(Vec::as_slice).collect();
        let [begin, end] = ["<SOS>", "<EOS>"].map(|symbol| id(&self.numbers, symbol));
        let sampler = Sampler::greedy();
        let written = self
            .model
            .generate(&sources, begin, end, POSITIONS, sampler);
        let name = |&id: &u32| self.numbers[id as usize].as_str();
        let named = written.iter().zip(sequences).map(|(ids, sequence)| {
            // One for the chain; what follows the last residue is of no meaning.
            ids.iter()
                .take(sequence.chars().count() + 1)
                .map(name)
                .collect()
        });
        Ok(named.collect())
    }

    fn read(&self, sequence: &str) -> Result<Vec<u32>, NumberError> {
        let found = sequence.chars().count();
        if found > MAX_RESIDUES {
            return Err(NumberError::TooLong { found });
        }
        let mut ids = vec![id(&self.residues, "<SOS>")];
        for (at, residue) in sequence.chars().enumerate() {
            let letter = residue.to_ascii_uppercase();
            let known = self
                .residues
                .iter()
                .position(|known| known.chars().eq([letter]));
            ids.push(match (known, letter) {
                (Some(known), _) => known as u32,
                // Rare ones, and those that may be either of two.
                (None, 'B' | 'J' | 'O' | 'U' | 'Z') => id(&self.residues, "X"),
                _ => {
                    return Err(NumberError::Residue {
                        residue,
                        at,
                        sequence: sequence.to_owned(),
                    });
                }
            });
        }
        ids.push(id(&self.residues, "<EOS>"));
        Ok(ids)
    }
}

/// The id of a symbol; one that is unknown counts as padding.
fn id(symbols: &[String], symbol: &str) -> u32 {
    let id = symbols.iter().position(|known| known == symbol);
    id.unwrap_or_default() as u32
}

/// The state dict of the original, whose names are its own but for those within attention.
struct Weights<'a> {
    checkpoint: Checkpoint,
    device: &'a Device,
    heads: usize,
}

impl Weights<'_> {
    fn model(mut self, description: &Description) -> Result<TransformerSeq2Seq, CheckpointError> {
        let Hyperparameters {
            hid_dim, layers, ..
        } = description.hyperparameters;
        let attention = MultiHeadAttentionConfig::new(hid_dim, self.heads);
        let feed_forward =
            FeedForwardConfig::new(hid_dim, D_HIDDEN).with_activation(Activation::Relu);
        let encoder = TransformerBlockConfig::new(attention.clone(), feed_forward.clone().into())
            .with_norm_position(NormPosition::Post);
        let decoder = DecoderBlockConfig::new(attention.clone(), attention, feed_forward.into())
            .with_norm_position(NormPosition::Post);
        let positions = Some(PositionsConfig::learned(POSITIONS));
        let mut model = TransformerSeq2SeqConfig::new(
            description.source_vocab.len(),
            description.target_vocab.len(),
            EncoderConfig::new(layers, encoder),
            DecoderConfig::new(layers, decoder),
        )
        .with_source_positions(positions)
        .with_target_positions(positions)
        .init(self.device);

        let mut all = Parameters::new();
        let embedding = Stored::Matrix(&mut model.source_embedding.weight);
        all.push("encoder.tok_embedding.weight", embedding);
        if let Some(embedding) = &mut model.target_embedding {
            let embedding = Stored::Matrix(&mut embedding.weight);
            all.push("decoder.tok_embedding.weight", embedding);
        }
        let tables = [&mut model.source_positions, &mut model.target_positions];
        for (side, positions) in ["encoder", "decoder"].into_iter().zip(tables) {
            if let Some(table) = positions.as_mut().and_then(|p| p.weight.as_mut()) {
                all.push(
                    format!("{side}.pos_embedding.weight"),
                    Stored::Matrix(table),
                );
            }
        }
        for (layer, block) in model.encoder.blocks.iter_mut().enumerate() {
            let name = |part: &str| format!("encoder.layers.{layer}.{part}");
            self.attention(&name("self_attention"), &mut block.attention)?;
            all.norm(&name("self_attn_layer_norm"), &mut block.attention_norm);
            let feed_forward = &mut block.feed_forward;
            mlp(&mut all, &name("positionwise_feedforward"), feed_forward);
            all.norm(&name("ff_layer_norm"), &mut block.feed_forward_norm);
        }
        for (layer, block) in model.decoder.blocks.iter_mut().enumerate() {
            let name = |part: &str| format!("decoder.layers.{layer}.{part}");
            self.attention(&name("self_attention"), &mut block.attention)?;
            all.norm(&name("self_attn_layer_norm"), &mut block.attention_norm);
            self.attention(&name("encoder_attention"), &mut block.cross_attention)?;
            all.norm(&name("enc_attn_layer_norm"), &mut block.cross_norm);
            let feed_forward = &mut block.feed_forward;
            mlp(&mut all, &name("positionwise_feedforward"), feed_forward);
            all.norm(&name("ff_layer_norm"), &mut block.feed_forward_norm);
        }
        if let Some(head) = &mut model.head {
            all.linear("decoder.fc_out", head);
        }
        all.take(&mut self.checkpoint, self.device)?;
        self.checkpoint.finish()?;
        Ok(model)
    }

    fn attention(
        &mut self,
        name: &str,
        layer: &mut MultiHeadAttention,
    ) -> Result<(), CheckpointError> {
        let weights = self
            .checkpoint
            .split_off(&format!("{name}.multihead_attn"))?;
        let config = PyTorchConfig::new(self.heads);
        *layer = MultiHeadAttention::from_checkpoint(weights, &config, self.device)?;
        Ok(())
    }
}

fn mlp<'a>(all: &mut Parameters<'a>, name: &str, mlp: &'a mut Mlp) {
    if let Mlp::Dense(layer) = mlp {
        all.linear(&format!("{name}.fc_1"), &mut layer.input);
        all.linear(&format!("{name}.fc_2"), &mut layer.output);
    }
}
