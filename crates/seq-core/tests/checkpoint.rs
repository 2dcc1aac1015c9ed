//! Weight files: real ones from PyTorch, our own, and damaged ones.

use std::fs;
use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor, TensorData, bf16, f16};
use seq_core::checkpoint::{Checkpoint, CheckpointError, write_safetensors};
use tempfile::TempDir;

/// The tensors of an LSTM with three inputs and two hidden units, as PyTorch names them.
const MATRICES: [(&str, [usize; 2]); 2] = [("weight_ih_l0", [8, 3]), ("weight_hh_l0", [8, 2])];
const VECTORS: [(&str, [usize; 1]); 2] = [("bias_ih_l0", [8]), ("bias_hh_l0", [8])];

/// A file that PyTorch wrote; `checkpoint/gen.py` says how.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/checkpoint")
        .join(name)
}

/// The weights that `gen.py` gives to a tensor of `n` elements.
fn expected(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 - (n / 2) as f32) / 8.0).collect()
}

fn data<const D: usize>(shape: [usize; D]) -> TensorData {
    TensorData::new(expected(shape.iter().product()), shape)
}

fn lstm_tensors() -> Vec<(String, TensorData)> {
    let matrices = MATRICES.map(|(name, shape)| (name.to_string(), data(shape)));
    let vectors = VECTORS.map(|(name, shape)| (name.to_string(), data(shape)));
    matrices.into_iter().chain(vectors).collect()
}

/// All there is in an LSTM, and nothing else.
fn take_lstm(mut lstm: Checkpoint) -> Result<Vec<TensorData>, CheckpointError> {
    let device = Device::default();
    let mut tensors = Vec::new();
    for (name, shape) in MATRICES {
        tensors.push(lstm.take(name, shape, &device)?.into_data());
    }
    for (name, shape) in VECTORS {
        tensors.push(lstm.take(name, shape, &device)?.into_data());
    }
    lstm.finish()?;
    Ok(tensors)
}

fn read_lstm(file: &Path) -> Result<Vec<TensorData>, CheckpointError> {
    take_lstm(Checkpoint::read(file)?)
}

fn lstm_values() -> Vec<TensorData> {
    lstm_tensors().into_iter().map(|(_, data)| data).collect()
}

/// A file of the given tensors, in a folder that lives as long as the test.
fn safetensors<const N: usize>(tensors: [(&str, TensorData); N]) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    write_safetensors(&file, tensors.map(|(name, data)| (name.to_string(), data))).unwrap();
    (folder, file)
}

#[test]
fn pytorch_files_hold_what_pytorch_wrote() {
    for name in ["lstm.pt", "lstm_float16.pt", "lstm_legacy.pt"] {
        assert_eq!(read_lstm(&fixture(name)).unwrap(), lstm_values(), "{name}");
    }
}

#[test]
fn training_checkpoint_gives_its_state_dict() {
    let mut checkpoint = Checkpoint::read(fixture("lstm_nested.pt")).unwrap();
    let prefix = checkpoint.find_prefix("weight_ih_l0").unwrap();
    assert_eq!(prefix, "encoder.rnn");
    let lstm = checkpoint.split_off(&prefix).unwrap();
    assert_eq!(take_lstm(lstm).unwrap(), lstm_values());

    let names = ["encoder.norm.num_batches_tracked", "head.weight"];
    assert!(checkpoint.names().eq(names));
    assert_eq!(checkpoint.shape("head.weight"), Some([3, 2].as_slice()));
    let head: Tensor<2> = checkpoint
        .take("head.weight", [3, 2], &Device::default())
        .unwrap();
    assert_eq!(
        head.into_data(),
        data([3, 2]),
        "a transposed window of a storage"
    );
    assert!(checkpoint.discard("encoder.norm.num_batches_tracked"));
    assert!(!checkpoint.discard("encoder.norm.num_batches_tracked"));
    checkpoint.finish().unwrap();
}

#[test]
fn content_decides_on_the_format() {
    let folder = tempfile::tempdir().unwrap();
    let pickle = folder.path().join("pytorch.safetensors");
    fs::copy(fixture("lstm.pt"), &pickle).unwrap();
    assert_eq!(read_lstm(&pickle).unwrap(), lstm_values());

    let json = folder.path().join("safetensors.pt");
    write_safetensors(&json, lstm_tensors()).unwrap();
    assert_eq!(read_lstm(&json).unwrap(), lstm_values());
}

#[test]
fn every_element_type_comes_back_to_the_bit() {
    let double = vec![
        f64::NAN,
        -0.0,
        f64::MIN_POSITIVE,
        f64::INFINITY,
        1.0 / 3.0,
        -1e300,
    ];
    let single = vec![f32::from_bits(0x7fc0_1234), -0.0, f32::MIN_POSITIVE / 2.0];
    let half = vec![f16::from_bits(0x7e01), f16::MAX, f16::from_f32(-0.1)];
    let brain = vec![bf16::from_bits(0x7fc1), bf16::MIN, bf16::from_f32(0.1)];
    let (_folder, file) = safetensors([
        ("f64", TensorData::new(double.clone(), [3, 2])),
        ("f32", TensorData::new(single.clone(), [1, 3])),
        ("f16", TensorData::new(half.clone(), [3])),
        ("bf16", TensorData::new(brain.clone(), [3])),
        ("empty", TensorData::new(Vec::<f32>::new(), [0, 4])),
    ]);
    let mut checkpoint = Checkpoint::read(&file).unwrap();
    let device = Device::default();

    let found: Tensor<2> = checkpoint
        .take("f64", [3, 2], (&device, DType::F64))
        .unwrap();
    let bits = found
        .into_data()
        .iter::<f64>()
        .map(f64::to_bits)
        .collect::<Vec<_>>();
    assert_eq!(bits, double.iter().map(|x| x.to_bits()).collect::<Vec<_>>());

    let found: Tensor<2> = checkpoint
        .take("f32", [1, 3], (&device, DType::F32))
        .unwrap();
    let bits = found
        .into_data()
        .iter::<f32>()
        .map(f32::to_bits)
        .collect::<Vec<_>>();
    assert_eq!(bits, single.iter().map(|x| x.to_bits()).collect::<Vec<_>>());

    // Widening is exact.
    let mut widened = |name| -> Vec<u32> {
        let found: Tensor<1> = checkpoint.take(name, [3], (&device, DType::F32)).unwrap();
        found.into_data().iter::<f32>().map(f32::to_bits).collect()
    };
    assert_eq!(
        widened("f16"),
        half.iter()
            .map(|x| x.to_f32().to_bits())
            .collect::<Vec<_>>()
    );
    assert_eq!(
        widened("bf16"),
        brain
            .iter()
            .map(|x| x.to_f32().to_bits())
            .collect::<Vec<_>>()
    );

    let found: Tensor<2> = checkpoint.take("empty", [0, 4], &device).unwrap();
    assert_eq!(found.dims(), [0, 4]);
    checkpoint.finish().unwrap();
}

#[test]
fn narrowing_rounds_to_nearest() {
    let (_folder, file) = safetensors([("w", TensorData::from([1.0f64 / 3.0, 1.0 + 1e-9]))]);
    let mut checkpoint = Checkpoint::read(&file).unwrap();
    let found: Tensor<1> = checkpoint
        .take("w", [2], (&Device::default(), DType::F32))
        .unwrap();
    assert_eq!(found.into_data(), TensorData::from([1.0f32 / 3.0, 1.0]));
}

#[test]
fn missing_tensor_names_the_similar_ones() {
    let mut checkpoint = Checkpoint::read(fixture("lstm.pt")).unwrap();
    let device = Device::default();
    let error = checkpoint
        .take("weight_ih_l1", [8, 3], &device)
        .unwrap_err();
    let CheckpointError::MissingTensor { name, similar, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(name, "weight_ih_l1");
    assert_eq!(similar[..2], ["weight_ih_l0", "weight_hh_l0"]);
    let file = fixture("lstm.pt").display().to_string();
    assert!(error.to_string().starts_with(&format!(
        "{file}: no tensor `weight_ih_l1`; the most similar: `weight_ih_l0`, `weight_hh_l0`, "
    )));

    // A tensor can be taken once.
    checkpoint.take("bias_ih_l0", [8], &device).unwrap();
    let error = checkpoint.take("bias_ih_l0", [8], &device).unwrap_err();
    assert!(
        matches!(error, CheckpointError::MissingTensor { .. }),
        "{error}"
    );
}

#[test]
fn wrong_shape_is_told_and_takes_nothing() {
    let mut checkpoint = Checkpoint::read(fixture("lstm_nested.pt")).unwrap();
    let mut lstm = checkpoint
        .split_off("encoder")
        .unwrap()
        .split_off("rnn")
        .unwrap();
    let device = Device::default();
    let error = lstm
        .take("weight_ih_l0", [3, 8], &device)
        .unwrap_err()
        .to_string();
    let told = "tensor `encoder.rnn.weight_ih_l0` has shape [8, 3], expected [3, 8]";
    assert!(error.ends_with(told), "{error}");
    assert!(
        lstm.take("weight_ih_l0", [24], &device).is_err(),
        "another rank"
    );
    assert!(lstm.take("weight_ih_l0", [8, 3], &device).is_ok());
}

#[test]
fn wrong_dtype_is_told() {
    let (_folder, file) = safetensors([
        ("counts", TensorData::from([1i32, 2])),
        ("mask", TensorData::from([true, false])),
    ]);
    let mut checkpoint = Checkpoint::read(&file).unwrap();
    for (name, dtype) in [("counts", "I32"), ("mask", "BOOL")] {
        let error = checkpoint.take(name, [2], &Device::default()).unwrap_err();
        let CheckpointError::WrongDtype { found, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(found, dtype);
    }
    let mut checkpoint = Checkpoint::read(fixture("lstm_nested.pt")).unwrap();
    let counter = "encoder.norm.num_batches_tracked";
    checkpoint.discard("head.weight");
    assert_eq!(checkpoint.shape(counter), Some([].as_slice()));
    let error = checkpoint
        .take(counter, [1], &Device::default())
        .unwrap_err();
    assert!(
        matches!(error, CheckpointError::WrongShape { .. }),
        "{error}"
    );
}

#[test]
fn prefixes_are_found_or_listed() {
    let one = || TensorData::from([1.0f32]);
    let (_folder, file) = safetensors([
        ("encoder.rnn.bias_ih_l0", one()),
        ("decoder.rnn.bias_ih_l0", one()),
        ("decoder.rnn.bias_ih_l0_reverse", one()),
        ("decoder.rnn.other_bias_hh_l0", one()),
        ("bias_ih_l0", one()),
    ]);
    let mut checkpoint = Checkpoint::read(&file).unwrap();

    let error = checkpoint.find_prefix("bias_ih_l0").unwrap_err();
    let CheckpointError::AmbiguousPrefix { prefixes, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*prefixes, ["", "decoder.rnn", "encoder.rnn"]);
    assert!(
        error
            .to_string()
            .contains("`` (top level), `decoder.rnn`, `encoder.rnn`")
    );
    assert_eq!(
        checkpoint.find_prefix("bias_ih_l0_reverse").unwrap(),
        "decoder.rnn"
    );
    let error = checkpoint.find_prefix("bias_hh_l0").unwrap_err();
    assert!(
        matches!(error, CheckpointError::MissingTensor { .. }),
        "not a part of a name: {error}"
    );

    let error = checkpoint.split_off("encoder.rn").unwrap_err();
    let CheckpointError::UnknownPrefix { known, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(*known, ["decoder", "decoder.rnn", "encoder", "encoder.rnn"]);

    let decoder = checkpoint.split_off("decoder").unwrap();
    assert_eq!(decoder.find_prefix("bias_ih_l0").unwrap(), "rnn");
    let error = decoder.finish().unwrap_err();
    let CheckpointError::UnexpectedTensors { names, .. } = &error else {
        panic!("{error}");
    };
    let left = ["bias_ih_l0", "bias_ih_l0_reverse", "other_bias_hh_l0"];
    assert_eq!(*names, left.map(|name| format!("decoder.rnn.{name}")));

    checkpoint.split_off("encoder.rnn").unwrap();
    assert_eq!(checkpoint.find_prefix("bias_ih_l0").unwrap(), "");
    assert!(checkpoint.split_off("").unwrap().names().eq(["bias_ih_l0"]));
    checkpoint.finish().unwrap();
}

#[test]
fn long_lists_of_names_are_cut() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let tensors = (0..100).map(|i| (format!("layers.{i}.weight"), TensorData::from([0.0f32])));
    write_safetensors(&file, tensors).unwrap();
    let error = Checkpoint::read(&file)
        .unwrap()
        .finish()
        .unwrap_err()
        .to_string();
    assert!(error.ends_with("`layers.17.weight` and 90 more"), "{error}");
}

#[test]
fn other_files_are_not_weights() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.pt");
    let error = Checkpoint::read(&file).unwrap_err();
    assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
    let error = Checkpoint::read(folder.path()).unwrap_err();
    assert!(
        matches!(error, CheckpointError::Io { .. }),
        "a folder: {error}"
    );

    for content in [
        "",
        "{}",
        "<!DOCTYPE html>",
        "version https://git-lfs.github.com/spec/v1\n",
    ] {
        fs::write(&file, content).unwrap();
        let error = Checkpoint::read(&file).unwrap_err();
        assert!(
            matches!(error, CheckpointError::NotAWeightFile { .. }),
            "{content:?}: {error}"
        );
    }
    // An empty ZIP archive, and a pickle of nothing but the number 1.
    for content in [b"PK\x03\x04".as_slice(), b"\x80\x02K\x01."] {
        fs::write(&file, content).unwrap();
        let error = Checkpoint::read(&file).unwrap_err();
        assert!(
            matches!(error, CheckpointError::Corrupt { .. }),
            "{content:?}: {error}"
        );
    }
}

/// Loads `damage`d copies of a file; a copy that still loads is given to `check`. A panic anywhere
/// fails the test.
fn damaged(
    content: &[u8],
    damage: impl IntoIterator<Item = Vec<u8>>,
    mut check: impl FnMut(&[u8], Vec<TensorData>),
) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("damaged");
    fs::write(&file, content).unwrap();
    assert_eq!(read_lstm(&file).unwrap(), lstm_values(), "undamaged");
    for content in damage {
        fs::write(&file, &content).unwrap();
        if let Ok(tensors) = read_lstm(&file) {
            check(&content, tensors);
        }
    }
}

/// Copies of `content` with one bit changed in each.
fn bit_flips(content: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    (0..8 * content.len()).map(|bit| {
        let mut flipped = content.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        flipped
    })
}

fn lstm_safetensors() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lstm.safetensors");
    write_safetensors(&file, lstm_tensors()).unwrap();
    fs::read(file).unwrap()
}

#[test]
fn truncated_files_are_refused_at_every_length() {
    let pytorch = ["lstm.pt", "lstm_float16.pt", "lstm_legacy.pt"];
    let files = pytorch.map(|name| fs::read(fixture(name)).unwrap());
    for content in files.into_iter().chain([lstm_safetensors()]) {
        let prefixes = (0..content.len()).map(|length| content[..length].to_vec());
        damaged(&content, prefixes, |prefix, _| {
            panic!("loaded {} bytes", prefix.len())
        });
    }
}

#[test]
fn a_changed_bit_in_a_zip_file_changes_no_weight() {
    let content = fs::read(fixture("lstm.pt")).unwrap();
    // Bits that mean nothing (dates, padding) may change.
    damaged(&content, bit_flips(&content), |_, tensors| {
        assert_eq!(tensors, lstm_values())
    });
}

#[test]
fn a_changed_bit_in_a_safetensors_file_changes_one_element_at_most() {
    let content = lstm_safetensors();
    let header = 8 + u64::from_le_bytes(*content.first_chunk().unwrap()) as usize;
    let mut loaded = 0;
    damaged(&content, bit_flips(&content), |flipped, tensors| {
        let in_header = flipped[..header] != content[..header];
        let pairs = tensors.iter().zip(lstm_values());
        let changed: usize = pairs
            .map(|(found, expected)| {
                let elements = found.iter::<f32>().zip(expected.iter::<f32>());
                elements.filter(|(a, b)| a.to_bits() != b.to_bits()).count()
            })
            .sum();
        assert_eq!(changed, usize::from(!in_header));
        loaded += usize::from(!in_header);
    });
    // The format has no checksum: every flip in the body goes unnoticed.
    assert_eq!(loaded, 8 * (content.len() - header));
}

#[test]
fn a_changed_bit_in_a_legacy_file_never_panics() {
    let content = fs::read(fixture("lstm_legacy.pt")).unwrap();
    damaged(&content, bit_flips(&content), |_, tensors| {
        assert_eq!(tensors.len(), 4)
    });
}

#[test]
fn claimed_sizes_are_not_believed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.safetensors");
    let refuse = |content: &[u8]| {
        fs::write(&file, content).unwrap();
        let error = Checkpoint::read(&file).unwrap_err();
        assert!(matches!(error, CheckpointError::Corrupt { .. }), "{error}");
    };
    let with_header = |header: &str| {
        let mut content = (header.len() as u64).to_le_bytes().to_vec();
        content.extend(header.as_bytes());
        content
    };
    // A header larger than the file.
    refuse(&[99_999_999u64.to_le_bytes().as_slice(), b"{}"].concat());
    // A tensor larger than the file, and larger than the address space.
    refuse(&with_header(
        r#"{"w":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}"#,
    ));
    refuse(&with_header(
        r#"{"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}"#,
    ));
    // Consistent tensors that end so near 2^64 that adding the header's length overflows.
    let part = u64::MAX / 9;
    let tensors: Vec<_> = (0..9)
        .map(|i| {
            let (start, end) = (part * i, part * (i + 1));
            format!(r#""{i}":{{"dtype":"U8","shape":[{part}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    refuse(&with_header(&format!("{{{}}}", tensors.join(","))));
}

#[test]
fn failed_save_leaves_the_old_file() {
    let (folder, file) = safetensors([("w", TensorData::from([1.0f32]))]);
    let before = fs::read(&file).unwrap();
    let twice = ["w", "w"].map(|name| (name.to_string(), TensorData::from([2.0f32])));
    let reserved = [("__metadata__".to_string(), TensorData::from([2.0f32]))];
    for error in [
        write_safetensors(&file, twice).unwrap_err(),
        write_safetensors(&file, reserved).unwrap_err(),
    ] {
        assert!(
            matches!(error, CheckpointError::Unwritable { .. }),
            "{error}"
        );
    }
    assert_eq!(fs::read(&file).unwrap(), before);

    // The rename fails onto a folder; the temporary file goes away.
    let occupied = folder.path().join("occupied");
    fs::create_dir(&occupied).unwrap();
    for file in [occupied.as_path(), &folder.path().join("no/such/folder")] {
        let error = write_safetensors(file, lstm_tensors()).unwrap_err();
        assert!(
            error.to_string().starts_with(&file.display().to_string()),
            "{error}"
        );
        assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
    }
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

#[test]
fn save_replaces_a_file_that_is_being_read() {
    let (folder, file) = safetensors([("w", TensorData::from([1.0f32]))]);
    let mut old = Checkpoint::read(&file).unwrap();
    write_safetensors(&file, lstm_tensors()).unwrap();
    assert!(old.take("w", [1], &Device::default()).is_ok());
    assert_eq!(read_lstm(&file).unwrap(), lstm_values());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[test]
fn saved_files_are_the_same_whatever_the_order() {
    let folder = tempfile::tempdir().unwrap();
    let [forth, back] = ["forth", "back"].map(|name| folder.path().join(name));
    write_safetensors(&forth, lstm_tensors()).unwrap();
    write_safetensors(&back, lstm_tensors().into_iter().rev()).unwrap();
    assert_eq!(fs::read(forth).unwrap(), fs::read(back).unwrap());
}
