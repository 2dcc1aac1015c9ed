//! Whole encoders out of folders.

use std::path::{Path, PathBuf};

use burn::tensor::TensorCreationOptions;
use seq_core::checkpoint::{Checkpoint, CheckpointError, ConfigFile, Parameters, Stored};
use serde_json::{Value, json};

use super::{Pooling, TransformerEncoder, TransformerEncoderConfig};
use crate::lm::{OF_NO_EFFECT, activation};
use crate::{
    Activation, FeedForwardConfig, Mlp, MultiHeadAttentionConfig, NormConfig, NormPosition,
    PositionsConfig, TransformerBlockConfig,
};

/// Of training, of other heads, or of a pooler that the reference code has not either.
const OF_NO_EFFECT_IN_BERT: &[&str] = &[
    "attention_probs_dropout_prob",
    "classifier_dropout",
    "directionality",
    "gradient_checkpointing",
    "hidden_dropout_prob",
    "id2label",
    "label2id",
    "pooler_fc_size",
    "pooler_num_attention_heads",
    "pooler_num_fc_layers",
    "pooler_size_per_head",
    "pooler_type",
    "tie_word_embeddings",
];

/// Loads a published encoder: a folder of Hugging Face with a `config.json` of `model_type` `bert` and weights,
/// in one file or in parts, safetensors or `.bin`, of BERT alone or below `bert.` with heads, which are left
/// out.
///
/// With a `modules.json` it is a folder of sentence-transformers, whose pooling, by mean or first token, and
/// normalisation are those of [`TransformerEncoder::embed`].
///
/// `options` is a `&Device`, or `(&device, dtype)` for a float type other than the device's default. Also gives
/// what the encoder was made of. Nothing is dropped until the caller asks for it.
///
/// # Errors
///
/// When a file is missing or damaged, a configuration has a field that would not be honoured, or a tensor is
/// missing, left over or of a wrong shape; every error names the file, and the field or tensor at fault.
///
/// ```no_run
/// let device = seq_transformer::device();
/// let (encoder, config) = seq_transformer::load_pretrained_encoder("all-MiniLM-L6-v2", &device)?;
/// println!("vectors of {}", config.d_model());
/// # Ok::<(), seq_transformer::CheckpointError>(())
/// ```
pub fn load_pretrained_encoder(
    folder: impl AsRef<Path>,
    options: impl Into<TensorCreationOptions>,
) -> Result<(TransformerEncoder, TransformerEncoderConfig), CheckpointError> {
    let (folder, options) = (folder.as_ref(), options.into());
    let modules = Modules::read(folder)?;
    let mut checkpoint = Checkpoint::read_folder(&modules.transformer)?;
    let prefix = checkpoint.find_prefix("embeddings.word_embeddings.weight")?;
    // Heads of its training, for masked words and following sentences.
    let heads: Vec<String> = (checkpoint.names())
        .filter(|name| name.starts_with("cls."))
        .map(str::to_owned)
        .collect();
    for name in heads {
        checkpoint.discard(&name);
    }
    let mut weights = checkpoint.split_off(&prefix)?;
    checkpoint.finish()?;
    // The numbers from 0 on.
    weights.discard("embeddings.position_ids");
    let config = read(ConfigFile::read_folder(&modules.transformer)?)?
        .with_pooler(weights.shape("pooler.dense.weight").is_some())
        .with_pooling(modules.pooling)
        .with_normalise(modules.normalise);
    let mut encoder = config.init(&options.device);
    named(&mut encoder).take(&mut weights, options)?;
    weights.finish()?;
    Ok((encoder, config))
}

fn read(mut file: ConfigFile) -> Result<TransformerEncoderConfig, CheckpointError> {
    file.discard(OF_NO_EFFECT);
    file.discard(OF_NO_EFFECT_IN_BERT);
    file.expect("model_type", &[json!("bert")])?;
    file.expect("position_embedding_type", &[json!("absolute")])?;
    file.expect("is_decoder", &[json!(false)])?;
    file.expect("add_cross_attention", &[json!(false)])?;
    let d_model = file.require("hidden_size")?;
    let attention = MultiHeadAttentionConfig::new(d_model, file.require("num_attention_heads")?);
    let feed_forward = FeedForwardConfig::new(d_model, file.require("intermediate_size")?)
        .with_activation(activation(&mut file, "hidden_act", Activation::Gelu)?);
    let epsilon = file.take("layer_norm_eps")?.unwrap_or(1e-12);
    let block = TransformerBlockConfig::new(attention, feed_forward.into())
        .with_norm(NormConfig::Layer { epsilon })
        .with_norm_position(NormPosition::Post);
    let positions = file.take("max_position_embeddings")?.unwrap_or(512);
    let layers = file.require("num_hidden_layers")?;
    let config = TransformerEncoderConfig::new(file.require("vocab_size")?, layers, block)
        .with_positions(Some(PositionsConfig::learned(positions)))
        .with_num_token_types(file.take("type_vocab_size")?.unwrap_or(2))
        .with_embedding_norm(true);
    let valid = config.validate();
    valid.map_err(|error| file.wrong(error.option, &error))?;
    file.finish()?;
    Ok(config)
}

/// All parameters by the names of `BertModel`.
fn named(encoder: &mut TransformerEncoder) -> Parameters<'_> {
    let mut all = Parameters::new();
    let positions = encoder.positions.as_mut();
    let tables = [
        ("word", Some(&mut encoder.embedding.weight)),
        (
            "position",
            positions.and_then(|positions| positions.weight.as_mut()),
        ),
        (
            "token_type",
            encoder.token_types.as_mut().map(|types| &mut types.weight),
        ),
    ];
    for (name, table) in tables {
        if let Some(table) = table {
            let name = format!("embeddings.{name}_embeddings.weight");
            all.push(name, Stored::Matrix(table));
        }
    }
    if let Some(of_sum) = &mut encoder.embedding_norm {
        all.norm("embeddings.LayerNorm", of_sum);
    }
    for (i, block) in encoder.blocks.iter_mut().enumerate() {
        let name = |rest: &str| format!("encoder.layer.{i}.{rest}");
        let attention = &mut block.attention;
        all.linear(&name("attention.self.query"), &mut attention.query);
        all.linear(&name("attention.self.key"), &mut attention.key);
        all.linear(&name("attention.self.value"), &mut attention.value);
        let output = &mut attention.output;
        all.linear(&name("attention.output.dense"), output);
        let after = name("attention.output.LayerNorm");
        all.norm(&after, &mut block.attention_norm);
        if let Mlp::Dense(layer) = &mut block.feed_forward {
            all.linear(&name("intermediate.dense"), &mut layer.input);
            all.linear(&name("output.dense"), &mut layer.output);
        }
        let after = name("output.LayerNorm");
        all.norm(&after, &mut block.feed_forward_norm);
    }
    if let Some(pooler) = &mut encoder.pooler {
        all.linear("pooler.dense", pooler);
    }
    all
}

/// What `modules.json` of sentence-transformers says.
struct Modules {
    /// Where the model itself lies.
    transformer: PathBuf,
    pooling: Pooling,
    normalise: bool,
}

impl Modules {
    fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let mut found = Self {
            transformer: folder.to_path_buf(),
            pooling: Pooling::Mean,
            normalise: false,
        };
        let file = folder.join("modules.json");
        if !file.exists() {
            return Ok(found);
        }
        let text = std::fs::read_to_string(&file).map_err(|source| CheckpointError::Io {
            file: file.clone(),
            source,
        })?;
        let corrupt = |reason: String| CheckpointError::Corrupt {
            file: file.clone(),
            reason,
        };
        let modules: Vec<Value> =
            serde_json::from_str(&text).map_err(|error| corrupt(error.to_string()))?;
        for module in modules {
            let word = |field: &str| module[field].as_str().unwrap_or_default();
            let path = Path::new(word("path"));
            let inside = path
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)));
            if !inside {
                let path = path.display();
                return Err(corrupt(format!("`{path}` is not a folder of this folder")));
            }
            match word("type").rsplit('.').next() {
                Some("Transformer") => found.transformer = folder.join(path),
                Some("Pooling") => {
                    found.pooling = pooling(ConfigFile::read_folder(folder.join(path))?)?;
                }
                Some("Normalize") => found.normalise = true,
                _ => {
                    return Err(CheckpointError::WrongField {
                        file,
                        field: "type".to_string(),
                        reason: format!(
                            "it is {}, known are Transformer, Pooling and Normalize",
                            module["type"]
                        ),
                    });
                }
            }
        }
        Ok(found)
    }
}

fn pooling(mut file: ConfigFile) -> Result<Pooling, CheckpointError> {
    file.discard(&["word_embedding_dimension", "embedding_dimension"]);
    file.expect("include_prompt", &[json!(true)])?;
    for other in [
        "max_tokens",
        "mean_sqrt_len_tokens",
        "weightedmean_tokens",
        "lasttoken",
    ] {
        file.expect(&format!("pooling_mode_{other}"), &[json!(false)])?;
    }
    let first: Option<bool> = file.take("pooling_mode_cls_token")?;
    let mean: Option<bool> = file.take("pooling_mode_mean_tokens")?;
    let name: Option<String> = file.take("pooling_mode")?;
    let pooling = match (name.as_deref(), first.unwrap_or(false), mean) {
        (Some("mean"), ..) | (None, false, None | Some(true)) => Pooling::Mean,
        (Some("cls"), ..) | (None, true, None | Some(false)) => Pooling::First,
        _ => {
            let reason = "either the mean or the first token is known here, and not both";
            return Err(file.wrong("pooling_mode", reason));
        }
    };
    file.finish()?;
    Ok(pooling)
}
