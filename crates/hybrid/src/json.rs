//! Configurations in JSON, in which defaults are left out and nothing unknown is passed over.

use std::fs;
use std::path::Path;

use seq_core::checkpoint::CheckpointError;
use seq_gru::GruConfig;
use seq_lstm::LstmConfig;
use seq_mamba::{Mamba2Config, Mamba3Config, MambaConfig};
use seq_rnn::RnnConfig;
use seq_ssm::{S4Config, S4dConfig, S5Config};
use seq_transformer::{
    FeedForwardConfig, MixtureOfExpertsConfig, MultiHeadAttentionConfig, TransformerBlockConfig,
};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::{BlockConfig, HybridConfig, HybridConfigError, HybridLmConfig};

/// What is wrong with a field.
#[derive(Debug, Error)]
pub(crate) enum FieldError {
    #[error("unknown field `{0}`")]
    Unknown(String),
    #[error("field `{field}`: {reason}")]
    Wrong { field: String, reason: String },
}

impl FieldError {
    fn wrong(field: impl Into<String>, reason: impl ToString) -> Self {
        let (field, reason) = (field.into(), reason.to_string());
        Self::Wrong { field, reason }
    }

    /// The same of a file.
    pub fn in_file(self, file: &Path) -> CheckpointError {
        let file = file.to_path_buf();
        match self {
            Self::Unknown(field) => CheckpointError::UnknownFields {
                file,
                fields: vec![field],
            },
            Self::Wrong { field, reason } => CheckpointError::WrongField {
                file,
                field,
                reason,
            },
        }
    }
}

/// What is read from JSON.
pub(crate) trait FromJson: Sized {
    /// `path` is where the value stands, with a dot at its end unless it is the whole.
    fn from_json(value: Value, path: &str) -> Result<Self, FieldError>;

    /// Validates what stands there.
    fn check(&self, path: &str) -> Result<(), FieldError>;
}

/// A valid configuration out of a file.
pub(crate) fn read<T: FromJson>(file: &Path) -> Result<T, CheckpointError> {
    let text = fs::read(file).map_err(|source| CheckpointError::Io {
        file: file.to_path_buf(),
        source,
    })?;
    let value = serde_json::from_slice(&text).map_err(|error| CheckpointError::Corrupt {
        file: file.to_path_buf(),
        reason: error.to_string(),
    })?;
    let config = T::from_json(value, "").map_err(|error| error.in_file(file))?;
    config.check("").map_err(|error| error.in_file(file))?;
    Ok(config)
}

impl FromJson for HybridLmConfig {
    fn from_json(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let hybrid = fields.require("hybrid")?;
        let hybrid = HybridConfig::from_json(hybrid, &format!("{path}hybrid."))?;
        let mut config = Self::new(fields.require("vocab_size")?, hybrid);
        fields.take("tied_embeddings", &mut config.tied_embeddings)?;
        fields.finish()?;
        Ok(config)
    }

    fn check(&self, path: &str) -> Result<(), FieldError> {
        self.hybrid.check(&format!("{path}hybrid."))?;
        self.validate().map_err(|error| invalid(error, path))
    }
}

impl FromJson for HybridConfig {
    fn from_json(value: Value, path: &str) -> Result<Self, FieldError> {
        let mut fields = Fields::new(value, path)?;
        let d_model = fields.require("d_model")?;
        let blocks: Vec<Value> = fields.require("blocks")?;
        let blocks = blocks.into_iter().enumerate();
        let block = |(index, value)| block(value, d_model, &format!("{path}blocks[{index}]"));
        let mut config = Self::new(d_model, blocks.map(block).collect::<Result<_, _>>()?);
        fields.take("repeat", &mut config.repeat)?;
        fields.take("norm_eps", &mut config.norm_eps)?;
        fields.finish()?;
        Ok(config)
    }

    fn check(&self, path: &str) -> Result<(), FieldError> {
        self.validate().map_err(|error| invalid(error, path))
    }
}

fn invalid(error: HybridConfigError, path: &str) -> FieldError {
    match error {
        HybridConfigError::Option(error) => {
            FieldError::wrong(format!("{path}{}", error.option), error)
        }
        HybridConfigError::Block { index, kind, error } => {
            let field = format!("{path}blocks[{index}].{kind}.{}", error.option);
            FieldError::wrong(field, error)
        }
    }
}

impl<'de> Deserialize<'de> for HybridConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(Value::deserialize(deserializer)?, "").map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for HybridLmConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::from_json(Value::deserialize(deserializer)?, "").map_err(D::Error::custom)
    }
}

/// The fields of an object, each to be taken once.
struct Fields<'a> {
    path: &'a str,
    fields: Map<String, Value>,
}

impl<'a> Fields<'a> {
    fn new(value: Value, path: &'a str) -> Result<Self, FieldError> {
        match value {
            Value::Object(fields) => Ok(Self { path, fields }),
            other => {
                let field = path.trim_end_matches('.');
                Err(FieldError::wrong(
                    field,
                    format!("it is {other}, an object was expected"),
                ))
            }
        }
    }

    fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, FieldError> {
        let value = self.fields.remove(name);
        let field = format!("{}{name}", self.path);
        let value = value.ok_or_else(|| FieldError::wrong(&field, "it is not there"))?;
        serde_json::from_value(value).map_err(|error| FieldError::wrong(field, error))
    }

    /// Replaces a default.
    fn take<T: DeserializeOwned>(&mut self, name: &str, into: &mut T) -> Result<(), FieldError> {
        if self.fields.contains_key(name) {
            *into = self.require(name)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), FieldError> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(FieldError::Unknown(format!("{}{name}", self.path))),
        }
    }
}

/// Every kind of block with the defaults of its options, and the options that have none.
fn defaults(d_model: usize) -> [(BlockConfig, Option<&'static str>); 13] {
    let attention = MultiHeadAttentionConfig::new(d_model, 1);
    let d_hidden = d_model.saturating_mul(4);
    let feed_forward = FeedForwardConfig::new(d_model, d_hidden);
    let transformer = TransformerBlockConfig::new(attention.clone(), feed_forward.clone().into());
    [
        (MambaConfig::new(d_model).into(), None),
        (Mamba2Config::new(d_model).into(), None),
        (Mamba3Config::new(d_model).into(), None),
        (S4Config::new(d_model).into(), None),
        (S4dConfig::new(d_model).into(), None),
        (S5Config::new(d_model).into(), None),
        (RnnConfig::new(d_model, d_model).into(), None),
        (LstmConfig::new(d_model, d_model).into(), None),
        (GruConfig::new(d_model, d_model).into(), None),
        (attention.into(), Some("num_heads")),
        (transformer.into(), Some("attention.num_heads")),
        (feed_forward.into(), None),
        (
            MixtureOfExpertsConfig::new(d_model, d_hidden, 1).into(),
            Some("num_experts"),
        ),
    ]
}

/// `path` is where the value stands.
fn block(value: Value, d_model: usize, path: &str) -> Result<BlockConfig, FieldError> {
    let (kind, given) = match value {
        Value::Object(fields) if fields.len() == 1 => fields.into_iter().next(),
        _ => None,
    }
    .ok_or_else(|| {
        let reason = "an object with one field, the kind of the block, was expected";
        FieldError::wrong(path, reason)
    })?;
    let path = format!("{path}.{kind}");
    let known = defaults(d_model).into_iter();
    let Some((default, required)) = known.into_iter().find(|(block, _)| block.kind() == kind)
    else {
        return Err(FieldError::Unknown(path));
    };
    if !given.is_object() {
        let reason = format!("it is {given}, an object was expected");
        return Err(FieldError::wrong(path, reason));
    }
    if let Some(name) = required
        && given
            .pointer(&format!("/{}", name.replace('.', "/")))
            .is_none()
    {
        return Err(FieldError::wrong(
            format!("{path}.{name}"),
            "it is not there",
        ));
    }
    let plain = |block: &BlockConfig| -> Result<Value, FieldError> {
        let value = serde_json::to_value(block);
        let mut value = value.map_err(|error| FieldError::wrong(&path, error))?;
        Ok(value[block.kind()].take())
    };
    let mut whole = plain(&default)?;
    if let Some(name) = unknown(&given, &whole, false) {
        return Err(FieldError::Unknown(format!("{path}.{name}")));
    }
    replace(&mut whole, given.clone());
    let block: BlockConfig = serde_json::from_value(json!({ kind: whole }))
        .map_err(|error| FieldError::wrong(&path, error))?;
    // Where a value was replaced as a whole, serde passes over fields that it does not know.
    match unknown(&given, &plain(&block)?, true) {
        Some(name) => Err(FieldError::Unknown(format!("{path}.{name}"))),
        None => Ok(block),
    }
}

/// The first field of an object that another does not have, inside it too if `deep`.
fn unknown(given: &Value, known: &Value, deep: bool) -> Option<String> {
    let (Value::Object(given), Value::Object(known)) = (given, known) else {
        return None;
    };
    given
        .iter()
        .find_map(|(name, given)| match known.get(name) {
            None => Some(name.clone()),
            Some(known) if deep => {
                let inside = unknown(given, known, deep)?;
                Some(format!("{name}.{inside}"))
            }
            Some(_) => None,
        })
}

/// Puts given values in the place of defaults, field by field where the fields are those of the default: another
/// variant of an enum is given whole.
fn replace(default: &mut Value, given: Value) {
    match (default, given) {
        (Value::Object(default), Value::Object(given))
            if given.keys().all(|name| default.contains_key(name)) =>
        {
            for (name, given) in given {
                replace(&mut default[&name], given);
            }
        }
        (default, given) => *default = given,
    }
}
