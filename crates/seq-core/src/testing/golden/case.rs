use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, TensorData};
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;
use serde_json::{Map, Value};

/// The json file of a case.
#[derive(Deserialize)]
pub(super) struct Header {
    format: u32,
    pub architecture: String,
    pub kind: String,
    config: Map<String, Value>,
    tolerance: Tolerances,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tolerances {
    f32: Option<Tolerance>,
    f64: Option<Tolerance>,
}

/// Relative and absolute: a value `a` passes against `b` when `|a - b| <= atol + rtol |b|`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Tolerance {
    pub output: [f64; 2],
    pub gradient: Option<[f64; 2]>,
}

/// A golden case, read from its two files.
pub(super) struct Case {
    file: PathBuf,
    header: Header,
    tensors: BTreeMap<String, TensorData>,
}

impl Header {
    pub fn read(json: &Path) -> Result<Self, String> {
        let text = std::fs::read_to_string(json).map_err(|error| error.to_string())?;
        let header: Self = serde_json::from_str(&text).map_err(|error| error.to_string())?;
        match header.format {
            1 => Ok(header),
            format => Err(format!("format {format}, expected 1")),
        }
    }
}

impl Case {
    /// Reads the tensors beside `json`, and takes what is not the architecture's out of the config.
    pub fn read(json: &Path, mut header: Header) -> Result<Self, String> {
        let file = json.with_extension("safetensors");
        let tensors =
            read_tensors(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        header.config.remove("greedy_margin");
        let zeros = header.config.remove("expected_zero_gradients");
        let zeros: Vec<String> = serde_json::from_value(zeros.unwrap_or(Value::Array(Vec::new())))
            .map_err(|error| format!("expected_zero_gradients: {error}"))?;
        for name in zeros {
            match tensors.get(&format!("gradient.{name}")) {
                Some(gradient) if gradient.iter::<f64>().all(|value| value == 0.0) => {}
                Some(_) => return Err(format!("the gradient of `{name}` is not stored as zeros")),
                None => return Err(format!("no gradient of `{name}`, which is to be zero")),
            }
        }
        Ok(Self {
            file,
            header,
            tensors,
        })
    }

    /// Its file's name without the extension, after the architecture's.
    pub fn name(&self) -> String {
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
        format!("{}/{stem}", self.header.architecture)
    }

    /// The safetensors file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn config(&self) -> Value {
        Value::Object(self.header.config.clone())
    }

    /// None where the reference did not run in this type.
    pub fn tolerance(&self, dtype: DType) -> Option<&Tolerance> {
        match dtype {
            DType::F64 => self.header.tolerance.f64.as_ref(),
            _ => self.header.tolerance.f32.as_ref(),
        }
    }

    pub fn has_gradients(&self) -> bool {
        self.names("probe.").next().is_some()
    }

    pub fn tensor(&self, name: &str) -> Option<&TensorData> {
        self.tensors.get(name)
    }

    /// The names that begin with `prefix`.
    pub fn names<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a str> {
        self.tensors
            .keys()
            .map(String::as_str)
            .filter(move |name| name.starts_with(prefix))
    }
}

fn read_tensors(file: &Path) -> Result<BTreeMap<String, TensorData>, String> {
    let content = std::fs::read(file).map_err(|error| error.to_string())?;
    let file = SafeTensors::deserialize(&content).map_err(|error| error.to_string())?;
    let tensor = |(name, view): (String, safetensors::tensor::TensorView)| {
        let dtype = match view.dtype() {
            Dtype::F64 => DType::F64,
            Dtype::F32 => DType::F32,
            Dtype::I64 => DType::I64,
            other => return Err(format!("tensor `{name}` is of type {other:?}")),
        };
        let data = TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
        Ok((name, data))
    };
    file.tensors().into_iter().map(tensor).collect()
}
