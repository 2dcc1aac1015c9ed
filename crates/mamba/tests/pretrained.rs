//! Models out of folders and back, and folders that are not right.

use std::fs;
use std::path::Path;

use burn::module::Param;
use burn::tensor::{Device, Int, Tensor, TensorData};
use seq_core::checkpoint::{Checkpoint, write_safetensors};
use seq_core::models::Sampler;
use seq_mamba::{
    CheckpointError, Mamba2Config, Mamba3, Mamba3Config, MambaConfig, MambaLm, MambaLmConfig,
    Mixer, MixerConfig, load_pretrained, save_pretrained,
};
use serde::Deserialize;
use serde_json::{Value, json};

/// What another implementation answers: the logits after the last of the ids, and what it writes on.
#[derive(Deserialize)]
struct Expected {
    ids: Vec<u32>,
    logits: Vec<f32>,
    tokens: Vec<u32>,
}

fn last_logits(model: &MambaLm, ids: &[u32], device: &Device) -> Vec<f32> {
    let data = TensorData::new(ids.to_vec(), [1, ids.len()]);
    let (logits, _) = model.forward(Tensor::<2, Int>::from_data(data, device), None);
    let last = logits.narrow(1, ids.len() - 1, 1);
    last.into_data().iter::<f32>().collect()
}

fn check(folder: &Path) {
    let text = fs::read_to_string(folder.join("expected.json")).expect("what is expected");
    let expected: Expected = serde_json::from_str(&text).expect("in JSON");
    let device = seq_mamba::device();
    let (model, _) = load_pretrained(folder, &device).unwrap_or_else(|error| panic!("{error}"));
    let found = last_logits(&model, &expected.ids, &device);
    assert_eq!(found.len(), expected.logits.len());
    for (found, expected) in found.iter().zip(&expected.logits) {
        // Measured: 3e-7.
        assert!(
            (found - expected).abs() < 3e-6 * (1.0 + expected.abs()),
            "{found} {expected}"
        );
    }
    let written = model.generate(&expected.ids, Sampler::greedy());
    let written: Vec<u32> = written.take(expected.tokens.len()).collect();
    assert_eq!(written, expected.tokens);
}

/// The bundled folders, or those in the one that `SEQ_PRETRAINED_DIR` names, each with an `expected.json`.
#[test]
fn what_transformers_answers() {
    let bundled = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pretrained");
    let folder = std::env::var("SEQ_PRETRAINED_DIR").unwrap_or_else(|_| bundled.to_string());
    let folders = fs::read_dir(&folder).expect("a folder of folders");
    let mut count = 0;
    for folder in folders.map(|entry| entry.expect("an entry").path()) {
        if folder.is_dir() {
            println!("{}", folder.display());
            check(&folder);
            count += 1;
        }
    }
    assert!(count > 0, "{folder} has no folder");
}

fn mamba() -> MambaLmConfig {
    let mixer = MambaConfig::new(6).with_d_state(3).with_bias(true);
    MambaLmConfig::new(11, 2, mixer.into())
}

fn mamba2() -> MambaLmConfig {
    let mixer = Mamba2Config::new(6)
        .with_d_state(3)
        .with_head_dim(3)
        .with_n_groups(2)
        .with_dt_limit(Some([0.0, f64::INFINITY]));
    MambaLmConfig::new(11, 2, mixer.into()).with_tied_embeddings(false)
}

#[test]
fn what_is_saved_is_loaded() {
    let device = seq_mamba::device();
    let falcon = MixerConfig::Mamba(MambaConfig::new(6).with_dt_b_c_norm_eps(Some(1e-6)));
    for config in [mamba(), mamba2(), MambaLmConfig::new(11, 1, falcon)] {
        let folder = tempfile::tempdir().unwrap();
        let model = config.init(&device);
        save_pretrained(&model, &config, folder.path()).unwrap();
        let (loaded, read) = load_pretrained(folder.path(), &device).unwrap();
        assert_eq!(read.tied_embeddings, config.tied_embeddings);
        let [found, expected] =
            [loaded, model].map(|model| last_logits(&model, &[1, 5, 9, 2], &device));
        assert_eq!(found, expected);
    }
}

#[test]
fn what_hugging_face_has_not_is_not_saved() {
    let config = mamba();
    let MixerConfig::Mamba(mixer) = config.mixer.clone() else {
        unreachable!("a model of Mamba layers")
    };
    let config = MambaLmConfig {
        mixer: mixer.with_dt_limit(Some([0.01, 0.1])).into(),
        ..config
    };
    let folder = tempfile::tempdir().unwrap();
    let model = config.init(&seq_mamba::device());
    let error = save_pretrained(&model, &config, folder.path()).unwrap_err();
    let CheckpointError::WrongField { field, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(field, "dt_limit");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

/// A folder with a saved model whose files a test spoils.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(config: &MambaLmConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = config.init(&seq_mamba::device());
        save_pretrained(&model, config, folder.path()).unwrap();
        Self(folder)
    }

    fn config(&self, change: impl FnOnce(&mut serde_json::Map<String, Value>)) {
        let file = self.0.path().join("config.json");
        let mut fields = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        change(&mut fields);
        fs::write(file, serde_json::to_string(&fields).unwrap()).unwrap();
    }

    fn weights(&self) -> Vec<(String, TensorData)> {
        let mut file = Checkpoint::read(self.0.path().join("model.safetensors")).unwrap();
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let device = seq_mamba::device();
        let names = names.into_iter();
        names
            .map(|name| {
                let shape = file.shape(&name).unwrap().to_vec();
                let data = match *shape {
                    [a] => file.take(&name, [a], &device).map(Tensor::into_data),
                    [a, b] => file.take(&name, [a, b], &device).map(Tensor::into_data),
                    [a, b, c] => file.take(&name, [a, b, c], &device).map(Tensor::into_data),
                    _ => unreachable!("{shape:?}"),
                };
                (name, data.unwrap())
            })
            .collect()
    }

    /// The weights in two parts instead of one file, and what the index says of each name.
    fn split(&self, part: impl Fn(usize, &str) -> Option<String>) {
        let weights = self.weights();
        fs::remove_file(self.0.path().join("model.safetensors")).unwrap();
        let mut map = serde_json::Map::new();
        for (i, (name, _)) in weights.iter().enumerate() {
            if let Some(part) = part(i, name) {
                map.insert(name.clone(), Value::String(part));
            }
        }
        for (file, rest) in [("a.safetensors", 0), ("b.safetensors", 1)] {
            let some = weights.iter().enumerate().filter(|(i, _)| i % 2 == rest);
            let some: Vec<_> = some.map(|(_, weight)| weight.clone()).collect();
            write_safetensors(self.0.path().join(file), some).unwrap();
        }
        let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
        let file = self.0.path().join("model.safetensors.index.json");
        fs::write(file, index.to_string()).unwrap();
    }

    fn load(&self) -> Result<(MambaLm, MambaLmConfig), CheckpointError> {
        load_pretrained(self.0.path(), &seq_mamba::device())
    }

    fn error(&self) -> String {
        self.load().map(|_| ()).unwrap_err().to_string()
    }
}

fn alternating(i: usize, _: &str) -> Option<String> {
    Some(["a.safetensors", "b.safetensors"][i % 2].to_string())
}

#[test]
fn weights_in_parts() {
    let folder = Folder::new(&mamba());
    let device = seq_mamba::device();
    let (whole, _) = folder.load().unwrap();
    folder.split(alternating);
    let (parts, _) = folder.load().unwrap();
    let [found, expected] = [parts, whole].map(|model| last_logits(&model, &[3, 1], &device));
    assert_eq!(found, expected);
}

#[test]
fn parts_that_do_not_fit_their_index_are_refused() {
    let folder = Folder::new(&mamba());
    folder.split(alternating);
    fs::remove_file(folder.0.path().join("b.safetensors")).unwrap();
    assert!(
        folder.error().contains("b.safetensors"),
        "{}",
        folder.error()
    );

    let folder = Folder::new(&mamba());
    folder.split(|i, _| alternating(i + usize::from(i == 3), ""));
    assert!(
        folder.error().contains("belongs into"),
        "{}",
        folder.error()
    );

    let folder = Folder::new(&mamba());
    folder.split(|i, name| (i != 3).then(|| alternating(i, name)).flatten());
    assert!(
        folder.error().contains("is not in the index"),
        "{}",
        folder.error()
    );

    let folder = Folder::new(&mamba());
    folder.split(|_, _| Some("../a.safetensors".to_string()));
    assert!(
        folder.error().contains("is not a file of this folder"),
        "{}",
        folder.error()
    );
}

#[test]
fn the_original_format() {
    let device = seq_mamba::device();
    for (config, ssm) in [
        (mamba(), json!({"d_state": 3, "bias": true})),
        (
            mamba2(),
            json!({"layer": "Mamba2", "d_state": 3, "headdim": 3, "ngroups": 2, "chunk_size": 16}),
        ),
    ] {
        let folder = Folder::new(&config);
        let (model, _) = folder.load().unwrap();
        let rename = |(name, data): (String, TensorData)| {
            (
                name.replace("backbone.embeddings", "backbone.embedding"),
                data,
            )
        };
        let weights: Vec<_> = folder.weights().into_iter().map(rename).collect();
        write_safetensors(folder.0.path().join("model.safetensors"), weights).unwrap();
        let fields = json!({
            "d_model": 6, "n_layer": 2, "vocab_size": 10, "ssm_cfg": ssm, "rms_norm": true,
            "residual_in_fp32": true, "fused_add_norm": true, "pad_vocab_size_multiple": 11,
            "tie_embeddings": config.tied_embeddings, "attn_layer_idx": [], "attn_cfg": {}, "d_intermediate": 0,
        });
        fs::write(folder.0.path().join("config.json"), fields.to_string()).unwrap();
        let (original, _) = folder.load().unwrap_or_else(|error| panic!("{error}"));
        let [found, expected] =
            [original, model].map(|model| last_logits(&model, &[3, 1], &device));
        assert_eq!(found, expected);
    }
}

/// The names and shapes of the reference code's parameters.
fn weights_of_mamba3(layer: &Mamba3) -> Vec<(&'static str, TensorData)> {
    let vector = |x: &Param<Tensor<1>>| x.val().into_data();
    let head = |x: &Param<Tensor<2>>| x.val().unsqueeze_dim::<3>(1).into_data();
    let turned = |x: &Param<Tensor<2>>| x.val().transpose().into_data();
    let norm = layer.norm_weight.as_ref().expect("a norm");
    vec![
        ("in_proj.weight", turned(&layer.in_proj.weight)),
        ("dt_bias", vector(&layer.dt_bias)),
        ("B_bias", head(&layer.b_bias)),
        ("C_bias", head(&layer.c_bias)),
        ("B_norm.weight", vector(&layer.b_norm_weight)),
        ("C_norm.weight", vector(&layer.c_norm_weight)),
        ("D", vector(&layer.d)),
        ("norm.weight", vector(norm)),
        ("out_proj.weight", turned(&layer.out_proj.weight)),
    ]
}

#[test]
fn the_original_format_of_mamba3() {
    let device = seq_mamba::device();
    let mixer = Mamba3Config::new(6)
        .with_d_state(4)
        .with_head_dim(3)
        .with_n_groups(2)
        .with_out_proj_norm(true)
        .with_rope_fraction(1.0);
    let config = MambaLmConfig::new(16, 1, mixer.into());
    let model = config.init(&device);
    let block = &model.layer.layers[0];
    let Mixer::Mamba3(layer) = &block.layer else {
        panic!("a layer of another kind")
    };
    let mut weights: Vec<(String, TensorData)> = weights_of_mamba3(layer)
        .into_iter()
        .map(|(name, data)| (format!("backbone.layers.0.mixer.{name}"), data))
        .collect();
    let ones = TensorData::from([1.0f32; 6]);
    weights.extend([
        ("backbone.layers.0.norm.weight".to_string(), ones.clone()),
        ("backbone.norm_f.weight".to_string(), ones),
        (
            "backbone.embedding.weight".to_string(),
            model.embedding.weight.val().into_data(),
        ),
    ]);
    let folder = tempfile::tempdir().unwrap();
    write_safetensors(folder.path().join("model.safetensors"), weights).unwrap();
    let load = |is_mimo: bool| {
        let fields = json!({
            "d_model": 6, "n_layer": 1, "vocab_size": 16, "ssm_cfg": {
                "layer": "Mamba3", "d_state": 4, "headdim": 3, "ngroups": 2, "rope_fraction": 1.0,
                "is_outproj_norm": true, "is_mimo": is_mimo,
            },
        });
        fs::write(folder.path().join("config.json"), fields.to_string()).unwrap();
        load_pretrained(folder.path(), &device)
    };
    let (loaded, read) = load(false).unwrap_or_else(|error| panic!("{error}"));
    let [found, expected] =
        [&loaded, &model].map(|model| last_logits(model, &[1, 5, 9, 2], &device));
    assert_eq!(found, expected);
    let [found, expected] = [loaded, model].map(|model| {
        let written = model.generate(&[3, 1], Sampler::greedy()).take(5);
        written.collect::<Vec<u32>>()
    });
    assert_eq!(found, expected);
    let error = load(true).unwrap_err().to_string();
    assert!(error.contains("`ssm_cfg.is_mimo`"), "{error}");
    let error = save_pretrained(&config.init(&device), &read, folder.path()).unwrap_err();
    assert!(error.to_string().contains("`mixer`"), "{error}");
}

#[test]
fn a_field_that_is_not_honoured_is_named() {
    let folder = Folder::new(&mamba());
    folder.config(|fields| {
        fields.insert("rope_scaling".to_string(), json!({"type": "linear"}));
    });
    assert!(
        folder
            .error()
            .ends_with("config.json: fields that this library does not know: `rope_scaling`"),
        "{}",
        folder.error()
    );
    let folder = Folder::new(&mamba());
    for (field, value) in [
        ("hidden_act", json!("gelu")),
        ("model_type", json!("bert")),
        ("hidden_size", json!("wide")),
        ("num_hidden_layers", json!(0)),
        ("time_step_rank", json!([1])),
    ] {
        let folder = Folder::new(&mamba());
        folder.config(|fields| {
            fields.insert(field.to_string(), value);
        });
        let error = folder.load().map(|_| ()).unwrap_err();
        assert!(
            matches!(error, CheckpointError::WrongField { .. }),
            "{error}"
        );
    }
    folder.config(|fields| {
        fields.remove("vocab_size");
    });
    assert!(
        folder
            .error()
            .contains("field `vocab_size`: it is not there")
    );
}

#[test]
fn a_field_of_a_nested_object_is_named_with_it() {
    let folder = Folder::new(&mamba());
    let original = |ssm: Value| {
        let fields = json!({"d_model": 6, "n_layer": 2, "vocab_size": 11, "ssm_cfg": ssm});
        fs::write(folder.0.path().join("config.json"), fields.to_string()).unwrap();
        folder.error()
    };
    let error = original(json!({"d_state": "three"}));
    assert!(error.contains("field `ssm_cfg.d_state`"), "{error}");
    let error = original(json!({"d_ssm": 4}));
    assert!(error.ends_with("`ssm_cfg.d_ssm`"), "{error}");
}

#[test]
fn infinity_is_read_as_python_writes_it() {
    let folder = Folder::new(&mamba2());
    let file = folder.0.path().join("config.json");
    let text = fs::read_to_string(&file).unwrap();
    let bare = text.replace(r#"{"__float__":"Infinity"}"#, "Infinity");
    assert_ne!(bare, text);
    fs::write(file, bare).unwrap();
    let (_, config) = folder.load().unwrap_or_else(|error| panic!("{error}"));
    let MixerConfig::Mamba2(mixer) = config.mixer else {
        panic!("another mixer");
    };
    assert_eq!(mixer.dt_limit, Some([0.0, f64::INFINITY]));
}

#[test]
fn weights_that_are_missing_left_over_or_of_another_shape_are_named() {
    let folder = Folder::new(&mamba());
    let file = folder.0.path().join("model.safetensors");
    let weights = folder.weights();
    let name = "backbone.layers.1.mixer.A_log";
    let without = weights
        .clone()
        .into_iter()
        .filter(|(other, _)| other != name);
    write_safetensors(&file, without).unwrap();
    assert!(folder.error().contains(&format!("no tensor `{name}`")));

    let more = (
        "backbone.layers.2.norm.weight".to_string(),
        weights[0].1.clone(),
    );
    write_safetensors(&file, weights.clone().into_iter().chain([more])).unwrap();
    assert!(folder.error().contains("backbone.layers.2.norm.weight"));

    folder.config(|fields| {
        fields.insert("state_size".to_string(), json!(4));
    });
    write_safetensors(&file, weights).unwrap();
    let error = folder.load().map(|_| ()).unwrap_err();
    assert!(
        matches!(error, CheckpointError::WrongShape { .. }),
        "{error}"
    );

    fs::remove_file(file).unwrap();
    let error = folder.load().map(|_| ()).unwrap_err();
    assert!(
        matches!(error, CheckpointError::NoWeights { .. }),
        "{error}"
    );
    fs::write(folder.0.path().join("config.json"), "{").unwrap();
    let error = folder.load().map(|_| ()).unwrap_err();
    assert!(matches!(error, CheckpointError::Corrupt { .. }), "{error}");
}
