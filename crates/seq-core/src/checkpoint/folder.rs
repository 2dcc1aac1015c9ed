//! Folders as Hugging Face's tools write them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::reader::{Entry, corrupt, read_entries};
use super::{Checkpoint, CheckpointError};

/// The files that weights are in, the best first.
const FILES: [&str; 4] = [
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
];

impl Checkpoint {
    /// Opens the weights of a folder: `model.safetensors` or `pytorch_model.bin`, or the parts that
    /// `model.safetensors.index.json` or `pytorch_model.bin.index.json` names.
    ///
    /// # Errors
    ///
    /// When the folder has none of these files, an index names a part that is not there or lies elsewhere,
    /// or the parts are not what it says; or as [`read`](Self::read).
    pub fn read_folder(folder: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        let folder = folder.as_ref();
        let found = FILES.map(|name| folder.join(name));
        let file = found.into_iter().find(|file| file.exists());
        let file = file.ok_or_else(|| CheckpointError::NoWeights {
            folder: folder.to_path_buf(),
            looked_for: FILES.map(str::to_owned).to_vec(),
        })?;
        match file
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            true => read_parts(folder, &file),
            false => Self::read(file),
        }
    }
}

#[derive(Deserialize)]
struct Index {
    /// The part that each tensor is in.
    weight_map: BTreeMap<String, String>,
}

fn read_parts(folder: &Path, index: &Path) -> Result<Checkpoint, CheckpointError> {
    let text = fs::read(index).map_err(|source| CheckpointError::Io {
        file: index.to_path_buf(),
        source,
    })?;
    let Index { weight_map } =
        serde_json::from_slice(&text).map_err(|error| corrupt(index, error))?;
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for part in weight_map.values().collect::<BTreeSet<_>>() {
        if Path::new(part).file_name() != Some(part.as_ref()) {
            return Err(corrupt(
                index,
                format!("`{part}` is not a file of this folder"),
            ));
        }
        let file = folder.join(part);
        for (name, entry) in read_entries(&file)? {
            match weight_map.get(&name) {
                Some(expected) if expected == part => entries.insert(name, entry),
                Some(other) => {
                    let reason = format!("tensor `{name}` belongs into {other}");
                    return Err(corrupt(&file, reason));
                }
                None => {
                    let reason = format!("tensor `{name}` of {part} is not in the index");
                    return Err(corrupt(index, reason));
                }
            };
        }
    }
    match weight_map.keys().find(|name| !entries.contains_key(*name)) {
        Some(name) => Err(corrupt(
            index,
            format!("tensor `{name}` is not in {}", weight_map[name]),
        )),
        None => Ok(Checkpoint {
            file: index.to_path_buf(),
            prefix: String::new(),
            entries,
        }),
    }
}

/// The fields of a `config.json`, each to be taken once, so that [`finish`](Self::finish) can tell which
/// one nobody honours.
///
/// A field that is `null` counts as one that is not there.
///
/// ```
/// use seq_core::checkpoint::ConfigFile;
///
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("config.json"), r#"{"hidden_size": 64, "scale": Infinity}"#)?;
/// let mut config = ConfigFile::read_folder(&folder)?;
/// assert_eq!(config.take::<usize>("hidden_size")?, Some(64));
/// assert_eq!(config.take::<usize>("num_layers")?, None);
/// let error = config.finish().unwrap_err();
/// assert!(error.to_string().ends_with("fields that this library does not know: `scale`"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct ConfigFile {
    file: PathBuf,
    /// Where the fields are in the file, the last dot included.
    prefix: String,
    fields: Map<String, Value>,
}

impl ConfigFile {
    /// Reads the `config.json` of a folder. Numbers that JSON does not have, `Infinity` and `NaN`, are
    /// read too.
    ///
    /// # Errors
    ///
    /// When there is no such file, or it is not an object in JSON.
    pub fn read_folder(folder: impl AsRef<Path>) -> Result<Self, CheckpointError> {
        Self::read(folder.as_ref().join("config.json"))
    }

    fn read(file: PathBuf) -> Result<Self, CheckpointError> {
        let text = fs::read_to_string(&file).map_err(|source| CheckpointError::Io {
            file: file.clone(),
            source,
        })?;
        Self::parse(file, &text)
    }

    /// Reads the text of such a file, which errors call `file`.
    ///
    /// # Errors
    ///
    /// When it is not an object in JSON.
    pub fn parse(file: impl Into<PathBuf>, text: &str) -> Result<Self, CheckpointError> {
        let file = file.into();
        let fields =
            serde_json::from_str(&quote_constants(text)).map_err(|error| corrupt(&file, error))?;
        Ok(Self {
            file,
            prefix: String::new(),
            fields,
        })
    }

    /// Whether there is such a field, be it `null`.
    pub fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    /// The object in a field, as a file of its own whose errors name the field too.
    ///
    /// # Errors
    ///
    /// When the field is no object.
    pub fn split_off(&mut self, field: &str) -> Result<Option<Self>, CheckpointError> {
        let fields: Option<Map<String, Value>> = self.take(field)?;
        Ok(fields.map(|fields| Self {
            file: self.file.clone(),
            prefix: format!("{}{field}.", self.prefix),
            fields,
        }))
    }

    /// The value of a field, or `None` if there is none.
    ///
    /// # Errors
    ///
    /// When the field holds something else.
    pub fn take<T: DeserializeOwned>(&mut self, field: &str) -> Result<Option<T>, CheckpointError> {
        match self.fields.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| self.wrong(field, error)),
        }
    }

    /// The value of a field that has to be there.
    ///
    /// # Errors
    ///
    /// When the field is not there, or holds something else.
    pub fn require<T: DeserializeOwned>(&mut self, field: &str) -> Result<T, CheckpointError> {
        let value = self.take(field)?;
        value.ok_or_else(|| self.wrong(field, "it is not there"))
    }

    /// The bounds in a field, of which one may be infinite.
    ///
    /// # Errors
    ///
    /// When the field holds something else.
    pub fn take_bounds(&mut self, field: &str) -> Result<Option<[f64; 2]>, CheckpointError> {
        let Some(bounds) = self.take::<[Value; 2]>(field)? else {
            return Ok(None);
        };
        let [low, high] = bounds.map(|bound| number(&bound));
        match (low, high) {
            (Some(low), Some(high)) => Ok(Some([low, high])),
            _ => Err(self.wrong(field, "two numbers were expected")),
        }
    }

    /// Makes sure that a field, if it is there, has one of the values that are honoured.
    ///
    /// # Errors
    ///
    /// When it has another.
    pub fn expect(&mut self, field: &str, known: &[Value]) -> Result<(), CheckpointError> {
        match self.take::<Value>(field)? {
            Some(found) if !known.contains(&found) => {
                let known: Vec<String> = known.iter().map(Value::to_string).collect();
                let reason = format!("it is {found}, known is {}", known.join(", "));
                Err(self.wrong(field, reason))
            }
            _ => Ok(()),
        }
    }

    /// Drops fields that make no difference to what the model computes.
    pub fn discard(&mut self, fields: &[&str]) {
        fields.iter().for_each(|field| {
            self.fields.remove(*field);
        });
    }

    /// Ends the reading.
    ///
    /// # Errors
    ///
    /// [`UnknownFields`](CheckpointError::UnknownFields) if a field was neither taken nor discarded.
    pub fn finish(mut self) -> Result<(), CheckpointError> {
        self.fields.retain(|_, value| !value.is_null());
        match self.fields.is_empty() {
            true => Ok(()),
            false => Err(CheckpointError::UnknownFields {
                file: self.file,
                fields: (self.fields.keys())
                    .map(|name| format!("{}{name}", self.prefix))
                    .collect(),
            }),
        }
    }

    /// The error for a field with a value that cannot be used.
    pub fn wrong(&self, field: &str, reason: impl ToString) -> CheckpointError {
        CheckpointError::WrongField {
            file: self.file.clone(),
            field: format!("{}{field}", self.prefix),
            reason: reason.to_string(),
        }
    }
}

/// The symbols at which a model of a folder ends a text: `eos_token_id`, one or several, of
/// `generation_config.json` or, where that is not there or does not say, of `config.json`. None where neither does.
///
/// ```
/// use seq_core::checkpoint::eos_token_ids;
///
/// let folder = tempfile::tempdir()?;
/// std::fs::write(folder.path().join("config.json"), r#"{"eos_token_id": 2}"#)?;
/// assert_eq!(eos_token_ids(&folder)?, [2]);
/// std::fs::write(folder.path().join("generation_config.json"), r#"{"eos_token_id": [2, 7]}"#)?;
/// assert_eq!(eos_token_ids(&folder)?, [2, 7]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// When `config.json` is missing, a file is no object in JSON, or its field holds something else, naming both.
pub fn eos_token_ids(folder: impl AsRef<Path>) -> Result<Vec<u32>, CheckpointError> {
    let folder = folder.as_ref();
    let generation = folder.join("generation_config.json");
    if generation.exists()
        && let Some(ids) = take_ids(ConfigFile::read(generation)?, "eos_token_id")?
    {
        return Ok(ids);
    }
    let ids = take_ids(ConfigFile::read_folder(folder)?, "eos_token_id")?;
    Ok(ids.unwrap_or_default())
}

/// One symbol, or a list of them.
fn take_ids(mut file: ConfigFile, field: &str) -> Result<Option<Vec<u32>>, CheckpointError> {
    let ids = match file.take(field)? {
        None => return Ok(None),
        Some(Value::Array(ids)) => ids,
        Some(id) => vec![id],
    };
    let ids = ids.into_iter().map(serde_json::from_value);
    let ids: Result<Vec<u32>, _> = ids.collect();
    ids.map(Some).map_err(|error| file.wrong(field, error))
}

/// What Python's writers make of infinity: the bare word, and of late an object.
fn number(value: &Value) -> Option<f64> {
    let word = match value {
        Value::Object(object) => object.get("__float__")?,
        Value::String(_) => value,
        _ => return value.as_f64(),
    };
    match word.as_str()? {
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// The text with quotes around bare constants.
fn quote_constants(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, piece) in text.split('"').enumerate() {
        if i > 0 {
            out.push('"');
        }
        // Between quotes are strings; a quote in a string is odd enough to leave such a text alone.
        match i % 2 == 0 && !text.contains("\\\"") {
            true => {
                let piece = piece.replace("-Infinity", "\u{1}");
                let piece = piece.replace("Infinity", "\"Infinity\"");
                let piece = piece.replace("NaN", "\"NaN\"");
                out.push_str(&piece.replace('\u{1}', "\"-Infinity\""));
            }
            false => out.push_str(piece),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a folder with these files says, of which the second need not be there.
    fn ends(config: &str, generation: Option<&str>) -> Result<Vec<u32>, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name, text| fs::write(folder.path().join(name), text).expect("a file");
        write("config.json", config);
        if let Some(text) = generation {
            write("generation_config.json", text);
        }
        eos_token_ids(&folder).map_err(|error| {
            let folder = format!("{}/", folder.path().display());
            error.to_string().replace(&folder, "")
        })
    }

    #[test]
    fn a_text_ends_at_one_symbol_at_several_or_never() {
        assert_eq!(ends(r#"{"vocab_size": 9}"#, None), Ok(vec![]));
        assert_eq!(ends(r#"{"eos_token_id": null}"#, None), Ok(vec![]));
        assert_eq!(ends(r#"{"eos_token_id": 0}"#, None), Ok(vec![0]));
        assert_eq!(ends(r#"{"eos_token_id": [5, 3]}"#, None), Ok(vec![5, 3]));
    }

    #[test]
    fn the_file_for_generation_comes_first() {
        let config = r#"{"eos_token_id": 1}"#;
        assert_eq!(
            ends(config, Some(r#"{"eos_token_id": [2, 3]}"#)),
            Ok(vec![2, 3])
        );
        assert_eq!(ends(config, Some(r#"{"temperature": 0.6}"#)), Ok(vec![1]));
        assert_eq!(ends("{}", Some(r#"{"eos_token_id": 2}"#)), Ok(vec![2]));
    }

    #[test]
    fn what_is_no_symbol_is_named() {
        for value in [
            "-1",
            "4294967296",
            "1.5",
            "\"</s>\"",
            "true",
            "{}",
            "[1, [2]]",
        ] {
            let text = format!("{{\"eos_token_id\": {value}}}");
            let error = ends(&text, None).unwrap_err();
            let names = "config.json: field `eos_token_id`: ";
            assert!(error.starts_with(names), "{value}: {error}");
            let error = ends("{}", Some(&text)).unwrap_err();
            assert!(
                error.starts_with(&format!("generation_{names}")),
                "{value}: {error}"
            );
        }
        let error = ends("{}", Some("[1]")).unwrap_err();
        assert!(
            error.starts_with("generation_config.json: damaged"),
            "{error}"
        );
    }
}
