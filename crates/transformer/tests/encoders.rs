//! Encoders out of folders, and folders that are not right.

use std::fs;
use std::path::Path;

use burn::tensor::{DType, Int, Tensor, TensorData};
use seq_core::checkpoint::{Checkpoint, write_safetensors};
use seq_transformer::{
    AttentionMask, CheckpointError, Lengths, Pooling, TransformerEncoder, TransformerEncoderConfig,
    load_pretrained_encoder,
};
use serde_json::{Value, json};

/// The weights and the configuration of a golden case.
fn write(folder: &Path, change: impl Fn(&mut Vec<(String, TensorData)>)) {
    let case = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/golden/encoder_bert_padding"
    );
    let text = fs::read_to_string(format!("{case}.json")).unwrap();
    let case_file: Value = serde_json::from_str(&text).unwrap();
    let fields = case_file["config"]["hf"].to_string();
    fs::write(folder.join("config.json"), fields).unwrap();
    let mut file = Checkpoint::read(format!("{case}.safetensors")).unwrap();
    let mut weights = file.split_off("weight").unwrap();
    let names: Vec<String> = weights.names().map(str::to_owned).collect();
    let device = seq_transformer::device();
    let options = (&device, DType::F32);
    let mut tensors = Vec::new();
    for name in names {
        let data = match *weights.shape(&name).unwrap() {
            [a] => weights.take(&name, [a], options).map(Tensor::into_data),
            [a, b] => weights.take(&name, [a, b], options).map(Tensor::into_data),
            ref shape => unreachable!("{shape:?}"),
        };
        tensors.push((name, data.unwrap()));
    }
    change(&mut tensors);
    write_safetensors(folder.join("model.safetensors"), tensors).unwrap();
}

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), |_| ());
    folder
}

fn load(
    folder: &tempfile::TempDir,
) -> Result<(TransformerEncoder, TransformerEncoderConfig), CheckpointError> {
    load_pretrained_encoder(folder.path(), &seq_transformer::device())
}

fn error(folder: &tempfile::TempDir) -> CheckpointError {
    load(folder).map(|_| ()).unwrap_err()
}

fn embed(encoder: &TransformerEncoder) -> Vec<f32> {
    let ids = Tensor::<2, Int>::from_data([[3, 1, 4], [1, 5, 9]], &seq_transformer::device());
    let vectors = encoder.embed(ids, Some(&Lengths::new([3, 2])));
    vectors.into_data().iter::<f32>().collect()
}

fn set(folder: &tempfile::TempDir, field: &str, value: Value) {
    let file = folder.path().join("config.json");
    let mut fields: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    fields[field] = value;
    fs::write(file, fields.to_string()).unwrap();
}

/// Tensors by name, as a file has them.
type Weights = Vec<(String, TensorData)>;

#[test]
fn a_mean_is_that_of_the_real_tokens() {
    let (encoder, _) = load(&folder()).unwrap();
    let device = seq_transformer::device();
    // The second row by itself, without padding.
    let ids = Tensor::<2, Int>::from_data([[1, 5]], &device);
    let hidden = encoder.forward(ids, None, &AttentionMask::default());
    let mean: Vec<f32> = hidden.mean_dim(1).into_data().iter::<f32>().collect();
    let found = embed(&encoder);
    for (found, expected) in found[mean.len()..].iter().zip(&mean) {
        // Sums of another order.
        assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    }
}

#[test]
fn below_bert_with_heads() {
    let plain = embed(&load(&folder()).unwrap().0);
    let other = tempfile::tempdir().unwrap();
    write(other.path(), |weights| {
        for (name, _) in weights.iter_mut() {
            *name = format!("bert.{name}");
        }
        let ones = || TensorData::from([1.0f32]);
        weights.push(("bert.embeddings.position_ids".to_string(), ones()));
        weights.push(("cls.predictions.bias".to_string(), ones()));
    });
    assert_eq!(embed(&load(&other).unwrap().0), plain);
}

#[test]
fn without_a_pooler() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), |weights| {
        weights.retain(|(name, _)| !name.starts_with("pooler."));
    });
    let (encoder, config) = load(&folder).unwrap();
    assert!(!config.pooler);
    let hidden = Tensor::zeros([1, 2, config.d_model()], &seq_transformer::device());
    assert!(encoder.pool(hidden).is_none());
}

fn sentence_transformers(pooling: Value, last: &str) -> tempfile::TempDir {
    let folder = folder();
    let modules = json!([
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        {"idx": 2, "name": "2", "path": "2", "type": format!("sentence_transformers.models.{last}")},
    ]);
    fs::write(folder.path().join("modules.json"), modules.to_string()).unwrap();
    fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    let file = folder.path().join("1_Pooling/config.json");
    fs::write(file, pooling.to_string()).unwrap();
    folder
}

#[test]
fn what_sentence_transformers_says() {
    let first = json!({
        "word_embedding_dimension": 24, "pooling_mode_cls_token": true,
        "pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": false,
        "pooling_mode_mean_sqrt_len_tokens": false,
    });
    let folder = sentence_transformers(first, "Normalize");
    let (encoder, config) = load(&folder).unwrap();
    assert_eq!((config.pooling, config.normalise), (Pooling::First, true));
    for vector in embed(&encoder).chunks(config.d_model()) {
        let length: f32 = vector.iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }

    let mean = json!({"pooling_mode_mean_tokens": true});
    let folder = sentence_transformers(mean.clone(), "Normalize");
    assert_eq!(load(&folder).unwrap().1.pooling, Pooling::Mean);

    let folder = sentence_transformers(mean, "Dense");
    let error_of = error(&folder).to_string();
    assert!(error_of.contains("models.Dense"), "{error_of}");

    let both = json!({"pooling_mode_mean_tokens": true, "pooling_mode_cls_token": true});
    let error_of = error(&sentence_transformers(both, "Normalize")).to_string();
    assert!(error_of.contains("`pooling_mode`"), "{error_of}");

    let max = json!({"pooling_mode_mean_tokens": false, "pooling_mode_max_tokens": true});
    let error_of = error(&sentence_transformers(max, "Normalize")).to_string();
    assert!(error_of.contains("`pooling_mode_max_tokens`"), "{error_of}");
}

#[test]
fn a_field_that_is_not_honoured_is_named() {
    for (field, value) in [
        ("position_embedding_type", json!("relative_key")),
        ("is_decoder", json!(true)),
        ("model_type", json!("roberta")),
        ("hidden_act", json!("mish")),
        ("num_attention_heads", json!(5)),
    ] {
        let folder = folder();
        set(&folder, field, value);
        let error = error(&folder);
        assert!(
            matches!(error, CheckpointError::WrongField { .. }),
            "{error}"
        );
    }
    let folder = folder();
    set(&folder, "embedding_size", json!(8));
    let error = error(&folder);
    assert!(
        matches!(&error, CheckpointError::UnknownFields { fields, .. } if fields == &["embedding_size"]),
        "{error}"
    );
}

#[test]
fn a_tensor_too_few_too_many_or_of_another_shape() {
    let name = "encoder.layer.1.output.dense.bias";
    let of = |change: &dyn Fn(&mut Weights)| {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), change);
        error(&folder)
    };
    let error = of(&|weights| weights.retain(|(found, _)| found != name));
    assert!(
        matches!(&error, CheckpointError::MissingTensor { name: found, .. } if found == name),
        "{error}"
    );
    let short = || TensorData::from([1.0f32, 2.0]);
    let error = of(&|weights| {
        weights.retain(|(found, _)| found != name);
        weights.push((name.to_string(), short()));
    });
    assert!(
        matches!(&error, CheckpointError::WrongShape { name: found, .. } if found == name),
        "{error}"
    );
    let error = of(&|weights| weights.push(("encoder.more".to_string(), short())));
    assert!(
        matches!(&error, CheckpointError::UnexpectedTensors { names, .. } if names == &["encoder.more"]),
        "{error}"
    );
}
