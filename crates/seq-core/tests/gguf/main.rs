//! GGUF files: one of the official package, small ones of our own, and damaged ones.

mod writer;

use std::path::{Path, PathBuf};

use burn::tensor::{DType, Device, Tensor};
use seq_core::checkpoint::{Checkpoint, CheckpointError, GgufMetadata, GgufValue};
use writer::{Writer, text};

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gguf/quantized.gguf")
}

fn take<const D: usize>(checkpoint: &mut Checkpoint, name: &str, shape: [usize; D]) -> Vec<f32> {
    let tensor: Tensor<D> = checkpoint
        .take(name, shape, (&Device::default(), DType::F32))
        .unwrap();
    tensor.into_data().try_to_vec().unwrap()
}

#[test]
fn every_type_is_what_the_official_package_makes_of_it() {
    let mut checkpoint = Checkpoint::read(fixture()).unwrap();
    for name in ["f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"] {
        let found = take(&mut checkpoint, name, [3, 64]);
        let expected = take(&mut checkpoint, &format!("{name}.expected"), [3, 64]);
        assert_eq!(found, expected, "{name}");
    }
    for name in ["q4_k", "q5_k", "q6_k"] {
        let found = take(&mut checkpoint, name, [2, 256]);
        let expected = take(&mut checkpoint, &format!("{name}.expected"), [2, 256]);
        assert_eq!(found, expected, "{name}");
    }
    checkpoint.finish().unwrap();
}

#[test]
fn metadata_of_every_type() {
    let metadata = GgufMetadata::read(fixture()).unwrap();
    for (key, value) in [
        ("u8", 200),
        ("u16", 60000),
        ("u32", 4_000_000_000),
        ("u64", u64::MAX),
    ] {
        assert_eq!(metadata.u64(key).unwrap(), Some(value), "{key}");
    }
    for (key, value) in [
        ("i8", -100),
        ("i16", -30000),
        ("i32", -2_000_000_000),
        ("i64", i64::MIN),
    ] {
        assert_eq!(metadata.get(key), Some(&GgufValue::Signed(value)), "{key}");
    }
    assert_eq!(metadata.f64("f32").unwrap(), Some(f64::from(0.1f32)));
    assert_eq!(metadata.f64("f64").unwrap(), Some(0.1));
    assert_eq!(metadata.bool("bool").unwrap(), Some(true));
    assert_eq!(metadata.str("string").unwrap(), Some("Grüße"));
    assert_eq!(
        metadata.strings("strings").unwrap(),
        Some(vec!["a", "", "Ġb"])
    );
    assert_eq!(metadata.integers("integers").unwrap(), Some(vec![1, -2, 3]));
    assert_eq!(metadata.floats("floats").unwrap(), Some(vec![0.5, -0.25]));
    let Some(GgufValue::Array(nested)) = metadata.get("nested") else {
        panic!("{:?}", metadata.get("nested"));
    };
    assert_eq!(nested.len(), 2);
    assert_eq!(nested[1], GgufValue::Array(vec![GgufValue::Signed(3)]));
    assert_eq!(metadata.u64("absent").unwrap(), None);
}

#[test]
fn wrong_kinds_are_errors_that_name_the_key() {
    let metadata = GgufMetadata::read(fixture()).unwrap();
    let reason = |error: CheckpointError| {
        let (file, text) = (fixture().display().to_string(), error.to_string());
        text.strip_prefix(&format!("{file}: ")).unwrap().to_string()
    };
    let cases = [
        (
            metadata.u64("string").unwrap_err(),
            "field `string`: expected an unsigned integer, found a string",
        ),
        (
            metadata.u64("i8").unwrap_err(),
            "field `i8`: expected an unsigned integer, found -100",
        ),
        (
            metadata.strings("integers").unwrap_err(),
            "field `integers`: expected an array of strings, found an array with a signed integer",
        ),
        (
            metadata.floats("f32").unwrap_err(),
            "field `f32`: expected an array of floats, found a float",
        ),
        (metadata.missing("x"), "field `x`: it is not there"),
    ];
    for (error, expected) in cases {
        assert_eq!(reason(error), expected);
    }
}

/// One block of Q4_1 with scale 0.5 and least -1, two plain numbers, and integers that nothing reads.
fn small() -> Writer {
    let mut q4_1 = vec![0x00, 0x38, 0x00, 0xbc];
    q4_1.extend((0..16).map(|i| (15 - i) << 4 | i));
    Writer::default()
        .string("general.architecture", "none")
        .f32("scale", 0.5)
        .array(
            "nested",
            9,
            &[[
                &4u32.to_le_bytes()[..],
                &1u64.to_le_bytes(),
                &7u32.to_le_bytes(),
            ]
            .concat()],
        )
        .array("tokens", 8, &[text("a"), text("bc")])
        .tensor("counts", &[2], 26, &[1, 0, 0, 0, 2, 0, 0, 0])
        .tensor("block", &[1, 32], 3, &q4_1)
        .tensor(
            "plain",
            &[2, 1],
            0,
            &[1.5f32.to_le_bytes(), (-2.0f32).to_le_bytes()].concat(),
        )
}

#[test]
fn formula_of_a_block_and_order_of_axes() {
    let folder = tempfile::tempdir().unwrap();
    let file = small().write(folder.path());
    let (mut checkpoint, metadata) = Checkpoint::read_gguf(&file).unwrap();
    assert_eq!(metadata.f64("scale").unwrap(), Some(0.5));
    assert_eq!(checkpoint.shape("plain"), Some([2, 1].as_slice()));
    let expected: Vec<f32> = (0..32)
        .map(|i| if i < 16 { i } else { 31 - i })
        .map(|q| 0.5 * q as f32 - 1.0)
        .collect();
    assert_eq!(take(&mut checkpoint, "block", [1, 32]), expected);
    assert_eq!(take(&mut checkpoint, "plain", [2, 1]), [1.5, -2.0]);
    let error = checkpoint
        .take("counts", [2], &Device::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("tensor `counts` holds I32"),
        "{error}"
    );
}

/// The reason that a damaged file is refused for.
fn refusal(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    std::fs::write(&file, bytes).unwrap();
    match Checkpoint::read(&file).unwrap_err() {
        CheckpointError::Corrupt { reason, .. } => reason,
        CheckpointError::NotAWeightFile { .. } => "not a weight file".to_string(),
        other => panic!("{other}"),
    }
}

#[test]
fn every_truncation_is_an_error() {
    let whole = small().bytes();
    for length in 0..whole.len() {
        refusal(&whole[..length]);
    }
}

/// A changed byte may go unnoticed, in an element or a name, but it never ends the program.
#[test]
fn no_changed_byte_panics() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.gguf");
    let whole = small().bytes();
    for at in 0..whole.len() {
        for value in [0, 0x7f, 0xff, whole[at] ^ 1] {
            let mut damaged = whole.clone();
            damaged[at] = value;
            std::fs::write(&file, &damaged).unwrap();
            let Ok(mut checkpoint) = Checkpoint::read(&file) else {
                continue;
            };
            let names: Vec<String> = checkpoint.names().map(str::to_string).collect();
            for name in names {
                let shape = checkpoint.shape(&name).unwrap().to_vec();
                if let [rows, columns] = shape[..] {
                    let _ = checkpoint.take(&name, [rows, columns], &Device::default());
                }
            }
        }
    }
}

#[test]
fn damage_is_named() {
    let huge = u64::MAX.to_le_bytes();
    let cases = [
        (
            Writer::default().key("x", 8, &huge).bytes(),
            "key `x`: it claims 18446744073709551615 letters",
        ),
        (
            Writer::default()
                .key("x", 9, &[&4u32.to_le_bytes()[..], &huge].concat())
                .bytes(),
            "key `x`: it claims 18446744073709551615 values",
        ),
        (
            Writer::default().key("x", 99, &[]).bytes(),
            "key `x`: values of an unknown type 99",
        ),
        (
            Writer::default().u32("x", 1).u32("x", 1).bytes(),
            "two keys `x`",
        ),
        (
            Writer::default().tensor("w", &[4], 0, &[0; 12]).bytes(),
            "tensor `w`: [4] in F32 at 0 goes beyond",
        ),
        (
            Writer::default().tensor("w", &[33], 2, &[0; 64]).bytes(),
            "tensor `w`: it has rows of 33 elements, Q4_0 has blocks of 32",
        ),
        (
            Writer::default()
                .tensor("w", &[1 << 40, 1 << 40], 0, &[])
                .bytes(),
            "tensor `w`: [1099511627776, 1099511627776] in F32 at 0 goes beyond",
        ),
        (
            Writer::default().u32("general.alignment", 24).bytes(),
            "key `general.alignment`",
        ),
    ];
    for (bytes, expected) in cases {
        let found = refusal(&bytes);
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
    let mut old = small().bytes();
    old[4] = 1;
    assert!(refusal(&old).contains("version 1"));
    old[4..8].copy_from_slice(&[0, 0, 0, 3]);
    assert!(refusal(&old).contains("big-endian"));
}
