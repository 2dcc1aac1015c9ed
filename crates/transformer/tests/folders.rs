//! Models out of folders and back, and folders that are not right.

use std::fs;

use burn::tensor::{Device, Int, Tensor, TensorData};
use seq_core::checkpoint::{Checkpoint, write_safetensors};
use seq_transformer::{
    Activation, CheckpointError, FeedForwardConfig, MixtureOfExpertsConfig, MlpConfig,
    MultiHeadAttentionConfig, NormConfig, PositionsConfig, RotaryConfig, RotaryScaling,
    TransformerBlockConfig, TransformerConfig, TransformerLm, TransformerLmConfig, load_pretrained,
    save_pretrained,
};
use serde_json::{Map, Value, json};

fn logits(model: &TransformerLm, device: &Device) -> Vec<f32> {
    let ids = Tensor::<2, Int>::from_data([[1, 5, 9, 2]], device);
    model
        .forward(ids, None)
        .0
        .into_data()
        .iter::<f32>()
        .collect()
}

fn gpt2() -> TransformerLmConfig {
    let feed_forward = FeedForwardConfig::new(8, 12).with_activation(Activation::GeluTanh);
    let attention = MultiHeadAttentionConfig::new(8, 2);
    let block = TransformerBlockConfig::new(attention, feed_forward.into());
    let positions = Some(PositionsConfig::learned(16));
    let transformer = TransformerConfig::new(2, block).with_positions(positions);
    TransformerLmConfig::new(11, transformer)
}

fn gpt_neox() -> TransformerLmConfig {
    let rotary = RotaryConfig::new(4).with_d_rotary(Some(2));
    let attention = MultiHeadAttentionConfig::new(8, 2).with_rotary(Some(rotary));
    let feed_forward = FeedForwardConfig::new(8, 12);
    let block = TransformerBlockConfig::new(attention, feed_forward.into()).with_parallel(true);
    TransformerLmConfig::new(11, TransformerConfig::new(2, block)).with_tied_embeddings(false)
}

fn llama(change: fn(&mut TransformerBlockConfig)) -> TransformerLmConfig {
    let attention = MultiHeadAttentionConfig::new(8, 2)
        .with_num_kv_heads(Some(1))
        .with_bias(false)
        .with_output_bias(false)
        .with_rotary(Some(RotaryConfig::new(4)));
    let feed_forward = FeedForwardConfig::new(8, 12)
        .with_activation(Activation::Silu)
        .with_gated(true)
        .with_bias(false);
    let mut block = TransformerBlockConfig::new(attention, feed_forward.into())
        .with_norm(NormConfig::Rms { epsilon: 1e-6 });
    change(&mut block);
    TransformerLmConfig::new(11, TransformerConfig::new(2, block)).with_tied_embeddings(false)
}

fn scaled(scaling: RotaryScaling) -> TransformerLmConfig {
    let mut config = llama(|_| ());
    let rotary = config.transformer.block.attention.rotary.as_mut();
    rotary.expect("rotary positions").scaling = Some(scaling);
    config
}

fn mixtral() -> TransformerLmConfig {
    llama(|block| block.feed_forward = MlpConfig::from(MixtureOfExpertsConfig::new(8, 6, 3)))
}

fn all() -> Vec<(&'static str, TransformerLmConfig)> {
    vec![
        ("gpt2", gpt2()),
        ("gpt_neox", gpt_neox()),
        ("llama", llama(|_| ())),
        (
            "llama",
            llama(|block| {
                block.attention.bias = true;
                block.attention.output_bias = true;
            }),
        ),
        ("llama", scaled(RotaryScaling::Linear { factor: 2.0 })),
        (
            "llama",
            scaled(RotaryScaling::DynamicNtk {
                factor: 2.0,
                max_positions: 8,
            }),
        ),
        ("llama", scaled(RotaryScaling::yarn(4.0, 8))),
        (
            "llama",
            scaled(RotaryScaling::Llama3 {
                factor: 8.0,
                low_freq_factor: 1.0,
                high_freq_factor: 4.0,
                original_max_positions: 8,
            }),
        ),
        ("mistral", llama(|block| block.attention.window = Some(2))),
        ("mixtral", mixtral()),
        ("qwen2", llama(|block| block.attention.bias = true)),
        (
            "qwen2",
            llama(|block| {
                block.attention.bias = true;
                block.attention.window = Some(3);
            }),
        ),
        (
            "qwen3",
            llama(|block| block.attention.qk_norm = Some(block.norm)),
        ),
    ]
}

#[test]
fn what_is_saved_is_loaded() {
    let device = seq_transformer::device();
    for (family, config) in all() {
        let folder = Folder::new(&config);
        assert_eq!(folder.fields()["model_type"], family);
        let [found, expected] =
            [folder.load().unwrap().0, folder.model.clone()].map(|model| logits(&model, &device));
        assert_eq!(found, expected, "{family}");
    }
}

#[test]
fn what_no_family_has_is_not_saved() {
    let device = seq_transformer::device();
    let factors = vec![1.0, 2.0];
    let cases: [(&str, TransformerLmConfig); 6] = [
        (
            "softcap",
            llama(|block| block.attention.softcap = Some(1.0)),
        ),
        ("alibi", llama(|block| block.attention.alibi = true)),
        ("scale", llama(|block| block.attention.scale = Some(0.3))),
        (
            "interleaved",
            llama(|block| {
                let rotary = block.attention.rotary.as_mut();
                rotary.expect("rotary positions").interleaved = true;
            }),
        ),
        ("rotary", llama(|block| block.attention.rotary = None)),
        ("scaling", scaled(RotaryScaling::Factors { factors })),
    ];
    for (option, config) in cases {
        let folder = tempfile::tempdir().unwrap();
        let error = save_pretrained(&config.init(&device), &config, folder.path()).unwrap_err();
        let CheckpointError::WrongField { field, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(field, option);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}

/// A folder with a saved model whose files a test spoils.
struct Folder {
    folder: tempfile::TempDir,
    model: TransformerLm,
}

impl Folder {
    fn new(config: &TransformerLmConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = config.init(&seq_transformer::device());
        save_pretrained(&model, config, folder.path()).unwrap_or_else(|error| panic!("{error}"));
        Self { folder, model }
    }

    fn fields(&self) -> Map<String, Value> {
        let text = fs::read_to_string(self.folder.path().join("config.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn config(&self, change: impl FnOnce(&mut Map<String, Value>)) {
        let mut fields = self.fields();
        change(&mut fields);
        let text = Value::Object(fields).to_string();
        fs::write(self.folder.path().join("config.json"), text).unwrap();
    }

    fn weights(&self) -> Vec<(String, TensorData)> {
        let file = self.folder.path().join("model.safetensors");
        let mut file = Checkpoint::read(file).unwrap();
        let names: Vec<String> = file.names().map(str::to_owned).collect();
        let device = seq_transformer::device();
        let names = names.into_iter();
        names
            .map(|name| {
                let shape = file.shape(&name).unwrap().to_vec();
                let data = match *shape {
                    [a] => file.take(&name, [a], &device).map(Tensor::into_data),
                    [a, b] => file.take(&name, [a, b], &device).map(Tensor::into_data),
                    _ => unreachable!("{shape:?}"),
                };
                (name, data.unwrap())
            })
            .collect()
    }

    fn change(&self, change: impl FnOnce(&mut Vec<(String, TensorData)>)) {
        let mut weights = self.weights();
        change(&mut weights);
        write_safetensors(self.folder.path().join("model.safetensors"), weights).unwrap();
    }

    fn load(&self) -> Result<(TransformerLm, TransformerLmConfig), CheckpointError> {
        load_pretrained(self.folder.path(), &seq_transformer::device())
    }

    fn error(&self) -> CheckpointError {
        self.load().map(|_| ()).unwrap_err()
    }

    fn check(&self) {
        let device = seq_transformer::device();
        let (loaded, _) = self.load().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(logits(&loaded, &device), logits(&self.model, &device));
    }
}

#[test]
fn weights_in_parts() {
    let folder = Folder::new(&llama(|_| ()));
    let path = folder.folder.path();
    let weights = folder.weights();
    fs::remove_file(path.join("model.safetensors")).unwrap();
    let (first, second) = weights.split_at(4);
    let mut map = Map::new();
    for (file, part) in [("a.safetensors", first), ("b.safetensors", second)] {
        map.extend(part.iter().map(|(name, _)| (name.clone(), json!(file))));
        write_safetensors(path.join(file), part.to_vec()).unwrap();
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(path.join("model.safetensors.index.json"), index.to_string()).unwrap();
    folder.check();
}

#[test]
fn a_tensor_too_few_too_many_or_of_another_shape() {
    for (family, config) in all() {
        let folder = Folder::new(&config);
        let (name, data) = folder.weights().remove(3);
        folder.change(|weights| {
            weights.remove(3);
        });
        let error = folder.error();
        assert!(
            matches!(&error, CheckpointError::MissingTensor { name: found, .. } if *found == name),
            "{family}: {error}"
        );
        folder.change(|weights| weights.push((name.clone(), TensorData::from([1.0f32; 5]))));
        let error = folder.error();
        assert!(
            matches!(&error, CheckpointError::WrongShape { name: found, .. } if *found == name),
            "{family}: {error}"
        );
        folder.change(|weights| {
            weights.retain(|(found, _)| *found != name);
            weights.push((name.clone(), data));
            weights.push(("more".to_string(), TensorData::from([1.0f32])));
        });
        let error = folder.error();
        assert!(
            matches!(&error, CheckpointError::UnexpectedTensors { names, .. } if names == &["more"]),
            "{family}: {error}"
        );
    }
}

#[test]
fn a_field_that_is_not_honoured_is_named() {
    for (family, config) in all() {
        let folder = Folder::new(&config);
        folder.config(|fields| {
            fields.insert("logit_scale".to_string(), json!(2.0));
        });
        let error = folder.error();
        assert!(
            matches!(&error, CheckpointError::UnknownFields { fields, .. } if fields == &["logit_scale"]),
            "{family}: {error}"
        );
    }
    for (config, field, value) in [
        (gpt2(), "scale_attn_by_inverse_layer_idx", json!(true)),
        (gpt2(), "add_cross_attention", json!(true)),
        (gpt2(), "activation_function", json!("mish")),
        (gpt2(), "model_type", json!("bert")),
        (gpt2(), "n_embd", json!("wide")),
        (gpt2(), "n_layer", json!(0)),
        (gpt_neox(), "hidden_act", json!(3)),
        (llama(|_| ()), "hidden_act", json!("quick_gelu")),
        (llama(|_| ()), "num_key_value_heads", json!(3)),
        (
            llama(|block| block.attention.bias = true),
            "layer_types",
            json!(["full_attention", "sliding_attention"]),
        ),
    ] {
        let folder = Folder::new(&config);
        folder.config(|fields| {
            fields.insert(field.to_string(), value);
        });
        let error = folder.error();
        assert!(
            matches!(error, CheckpointError::WrongField { .. }),
            "{field}: {error}"
        );
    }
    let folder = Folder::new(&llama(|_| ()));
    folder.config(|fields| {
        fields.insert("rope_parameters".into(), json!({"rope_type": "longrope"}));
    });
    let error = folder.error().to_string();
    assert!(error.contains("`rope_parameters.rope_type`"), "{error}");
    folder.config(|fields| {
        fields.remove("vocab_size");
        fields.remove("rope_parameters");
    });
    let error = folder.error().to_string();
    assert!(
        error.contains("field `vocab_size`: it is not there"),
        "{error}"
    );
}

#[test]
fn names_without_a_prefix_and_buffers() {
    let buffer = || TensorData::from([1.0f32]);
    for (config, prefix, buffers) in [
        (
            gpt2(),
            "transformer.",
            ["h.0.attn.bias", "h.1.attn.masked_bias"],
        ),
        (
            gpt_neox(),
            "gpt_neox.",
            [
                "layers.0.attention.bias",
                "layers.1.attention.rotary_emb.inv_freq",
            ],
        ),
        (
            llama(|_| ()),
            "model.",
            [
                "layers.0.self_attn.rotary_emb.inv_freq",
                "layers.1.self_attn.rotary_emb.inv_freq",
            ],
        ),
    ] {
        let folder = Folder::new(&config);
        folder.change(|weights| {
            weights.extend(buffers.map(|name| (format!("{prefix}{name}"), buffer())));
        });
        folder.check();
        folder.change(|weights| {
            for (name, _) in weights {
                if let Some(bare) = name.strip_prefix(prefix) {
                    *name = bare.to_string();
                }
            }
        });
        folder.check();
    }
}

#[test]
fn both_forms_of_rotary_positions() {
    let config = scaled(RotaryScaling::Linear { factor: 3.0 });
    for other in ["rope_parameters", "rope_scaling"] {
        let folder = Folder::new(&config);
        folder.config(|fields| {
            fields.remove(other);
        });
        folder.check();
    }
}
