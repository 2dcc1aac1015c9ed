//! Models and tokenizers from GGUF files.

#[path = "../examples/smollm2/tokenizer.rs"]
mod tokenizer;
#[path = "../../seq-core/tests/gguf/writer.rs"]
mod writer;

use std::collections::BTreeSet;
use std::f64::consts::PI;

use burn::tensor::{Int, Tensor, TensorData, Tolerance};
use seq_core::checkpoint::GgufMetadata;
use seq_transformer::{
    CheckpointError, RotaryScaling, TransformerLm, load_gguf, load_pretrained, save_pretrained,
};
use serde_json::Value;
use writer::{Writer, text};

const D_MODEL: usize = 8;
const D_HIDDEN: usize = 12;
const HEADS: usize = 2;
const D_HEAD: usize = 4;
const VOCABULARY: usize = 11;
/// How long the sequences of the training were.
const TRAINED: usize = 64;
const BASE: f64 = 100.0;

/// The sizes of a small model.
fn sizes(architecture: &str) -> Writer {
    let key = |rest: &str| format!("{architecture}.{rest}");
    Writer::default()
        .string("general.architecture", architecture)
        .u32(&key("embedding_length"), D_MODEL as u32)
        .u32(&key("feed_forward_length"), D_HIDDEN as u32)
        .u32(&key("block_count"), 1)
        .u32(&key("attention.head_count"), HEADS as u32)
        .u32(&key("attention.head_count_kv"), 1)
        .u32(&key("context_length"), TRAINED as u32)
        .f32(&key("attention.layer_norm_rms_epsilon"), 1e-5)
        .f32(&key("rope.freq_base"), BASE as f32)
}

/// Numbers between -1 and 1 that look random.
fn numbers(seed: usize, count: usize) -> Vec<f32> {
    let number = |i: usize| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0;
    (0..count).map(number).collect()
}

/// The rows of each head from Hugging Face's order to the one in which neighbours turn together.
fn interleave(rows: &[f32], heads: usize) -> Vec<f32> {
    let row = |head: usize, i: usize| &rows[(head * D_HEAD + i) * D_MODEL..][..D_MODEL];
    let mut all = Vec::new();
    for head in 0..heads {
        for pair in 0..D_HEAD / 2 {
            all.extend(row(head, pair));
            all.extend(row(head, pair + D_HEAD / 2));
        }
    }
    all
}

fn bytes(values: &[f32]) -> Vec<u8> {
    let values = values.iter();
    values.flat_map(|value| value.to_le_bytes()).collect()
}

/// A model whose weights depend on `interleaved` in their order alone.
fn model(writer: Writer, interleaved: bool) -> Writer {
    let kv = D_HEAD;
    let matrices = [
        ("token_embd", VOCABULARY, D_MODEL),
        ("blk.0.attn_q", HEADS * D_HEAD, D_MODEL),
        ("blk.0.attn_k", kv, D_MODEL),
        ("blk.0.attn_v", kv, D_MODEL),
        ("blk.0.attn_output", D_MODEL, HEADS * D_HEAD),
        ("blk.0.ffn_gate", D_HIDDEN, D_MODEL),
        ("blk.0.ffn_up", D_HIDDEN, D_MODEL),
        ("blk.0.ffn_down", D_MODEL, D_HIDDEN),
    ];
    let mut writer = writer;
    for (seed, (name, rows, columns)) in matrices.into_iter().enumerate() {
        let values = numbers(seed, rows * columns);
        let values = match name {
            "blk.0.attn_q" | "blk.0.attn_k" if interleaved => interleave(&values, rows / D_HEAD),
            _ => values,
        };
        let shape = [rows as u64, columns as u64];
        writer = writer.tensor(&format!("{name}.weight"), &shape, 0, &bytes(&values));
    }
    for (seed, name) in ["blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"]
        .iter()
        .enumerate()
    {
        let values = numbers(50 + seed, D_MODEL);
        writer = writer.tensor(
            &format!("{name}.weight"),
            &[D_MODEL as u64],
            0,
            &bytes(&values),
        );
    }
    writer
}

fn llama() -> Writer {
    model(sizes("llama"), true)
}

fn load(writer: &Writer) -> Result<TransformerLm, CheckpointError> {
    let folder = tempfile::tempdir().unwrap();
    let file = writer.write(folder.path());
    load_gguf(file, &seq_transformer::device()).map(|(model, ..)| model)
}

/// The rows of `llama` come reordered so that neighbours turn together, those of `qwen2` do not.
#[test]
fn order_of_rows_goes_with_the_rotation() {
    let llama = load(&llama()).unwrap();
    let qwen2 = load(&model(sizes("qwen2"), false)).unwrap();
    let wrong = load(&model(sizes("llama"), false)).unwrap();
    let ids = || Tensor::<2, Int>::from_data([[3, 1, 4, 1, 5]], &seq_transformer::device());
    let logits = |model: &TransformerLm| model.forward(ids(), None).0.into_data();
    let expected = logits(&qwen2);
    // Sums of the same products in another order.
    logits(&llama).assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-4));
    let difference = Tensor::<3>::from_data(logits(&wrong), &seq_transformer::device())
        - Tensor::from_data(expected, &seq_transformer::device());
    assert!(difference.abs().max().into_scalar::<f32>() > 1e-2);
}

/// Biases of queries and keys, reordered as the rows are.
fn with_biases(mut writer: Writer, interleaved: bool) -> Writer {
    for (name, width) in [
        ("attn_q", HEADS * D_HEAD),
        ("attn_k", D_HEAD),
        ("attn_v", D_HEAD),
    ] {
        let values = numbers(90 + width, width);
        let values = match name {
            "attn_q" | "attn_k" if interleaved => {
                let rows: Vec<f32> = values.iter().flat_map(|x| [*x; D_MODEL]).collect();
                let rows = interleave(&rows, width / D_HEAD);
                rows.into_iter().step_by(D_MODEL).collect()
            }
            _ => values,
        };
        let name = format!("blk.0.{name}.bias");
        writer = writer.tensor(&name, &[width as u64], 0, &bytes(&values));
    }
    writer
}

/// A file of `llama` becomes a folder whose model gives the same, biases and all.
#[test]
fn a_file_becomes_a_folder_of_hugging_face() {
    let expected = load(&with_biases(model(sizes("qwen2"), false), false)).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = with_biases(llama(), true).write(folder.path());
    let device = seq_transformer::device();
    let (model, config, _) = load_gguf(file, &device).unwrap();
    // Sums of the same products in the same order.
    assert_eq!(logits(&model), logits(&expected));

    let saved = folder.path().join("saved");
    save_pretrained(&model, &config, &saved).unwrap();
    let (loaded, _) = load_pretrained(&saved, &device).unwrap();
    assert_eq!(logits(&loaded), logits(&model));
}

/// The rows stay as llama.cpp has them, and no folder of Hugging Face is written so.
#[test]
fn positions_of_a_part_of_each_head_stay_interleaved() {
    let folder = tempfile::tempdir().unwrap();
    let part = llama().u32("llama.rope.dimension_count", D_HEAD as u32 / 2);
    let (model, config, _) =
        load_gguf(part.write(folder.path()), &seq_transformer::device()).unwrap();
    let rotary = config.transformer.block.attention.rotary.as_ref().unwrap();
    assert_eq!(
        (rotary.interleaved, rotary.d_rotary),
        (true, Some(D_HEAD / 2))
    );
    let rows = model.layer.blocks[0]
        .attention
        .query
        .weight
        .val()
        .transpose();
    let file = interleave(&numbers(1, HEADS * D_HEAD * D_MODEL), HEADS);
    let rows: Vec<f32> = rows.into_data().iter().collect();
    assert_eq!(rows, file);
    let error = save_pretrained(&model, &config, folder.path()).unwrap_err();
    assert!(error.to_string().contains("field `interleaved`"), "{error}");
}

fn with_factors(writer: Writer, factors: &[f32]) -> Writer {
    let shape = [factors.len() as u64];
    writer.tensor("rope_freqs.weight", &shape, 0, &bytes(factors))
}

/// The logits of a text as long as those of the training.
fn logits(model: &TransformerLm) -> TensorData {
    let ids: Vec<i64> = (0..TRAINED as i64).map(|i| i % VOCABULARY as i64).collect();
    let ids = TensorData::new(ids, [1, TRAINED]);
    let ids = Tensor::<2, Int>::from_data(ids, &seq_transformer::device());
    model.forward(ids, None).0.into_data()
}

/// What a file gives is what the model without scaled positions gives once they are scaled.
fn assert_scaled(writer: &Writer, scaling: RotaryScaling) {
    let mut expected = load(&llama()).unwrap();
    let plain = logits(&expected);
    for block in &mut expected.layer.blocks {
        let rotary = block.attention.rotary.take().unwrap().config().clone();
        block.attention.rotary = Some(rotary.with_scaling(Some(scaling.clone())).init());
    }
    let expected = logits(&expected);
    assert_ne!(expected, plain);
    // The factors of a file are of single precision.
    logits(&load(writer).unwrap()).assert_approx_eq::<f32>(&expected, Tolerance::absolute(1e-5));
}

/// As llama.cpp's converter computes them.
#[test]
fn factors_of_llama_3_are_its_scaling() {
    let (factor, low_freq_factor, high_freq_factor) = (8.0, 1.0, 4.0);
    // Pairs that are fast, in between, and slow.
    for length in [120, 30, 16] {
        let factors = [1.0, BASE.powf(-0.5)].map(|angle| {
            let (wave, original) = (2.0 * PI / angle, length as f64);
            let smooth = (original / wave - low_freq_factor) / (high_freq_factor - low_freq_factor);
            let factor = if wave < original / high_freq_factor {
                1.0
            } else if wave > original / low_freq_factor {
                factor
            } else {
                1.0 / ((1.0 - smooth) / factor + smooth)
            };
            factor as f32
        });
        let scaling = RotaryScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_positions: length,
        };
        assert_scaled(&with_factors(llama(), &factors), scaling);
    }
}

#[test]
fn scaling_by_keys() {
    let factor = || llama().f32("llama.rope.scaling.factor", 4.0);
    let typed = |kind: &str| factor().string("llama.rope.scaling.type", kind);
    let linear = RotaryScaling::Linear { factor: 4.0 };
    // As in llama.cpp, a factor alone is a linear one.
    assert_scaled(&factor(), linear.clone());
    assert_scaled(&typed("linear"), linear);
    let yarn = typed("yarn").u32("llama.rope.scaling.original_context_length", 16);
    assert_scaled(&yarn, RotaryScaling::yarn(4.0, 16));
    assert_scaled(&typed("yarn"), RotaryScaling::yarn(4.0, TRAINED));
    let none = load(&typed("none")).unwrap();
    assert_eq!(logits(&none), logits(&load(&llama()).unwrap()));
}

#[test]
fn what_is_not_honoured_is_an_error_that_names_the_key() {
    let cases = [
        (
            model(sizes("gemma3"), false),
            "field `general.architecture`: it is `gemma3`, known are `llama` and `qwen2`",
        ),
        (
            llama().f32("llama.rope.scaling.attn_factor", 2.0),
            "field `llama.rope.scaling.attn_factor`: it would not be honoured",
        ),
        (
            llama().string("llama.rope.scaling.type", "longrope"),
            "field `llama.rope.scaling.type`: it is `longrope`, known are `none`, `linear` and `yarn`",
        ),
        (
            llama().string("llama.rope.scaling.type", "yarn"),
            "field `llama.rope.scaling.factor`: it is not there",
        ),
        (
            llama().f32("llama.rope.scaling.factor", -2.0),
            "field `llama.rope.scaling.factor`: factor must be positive and finite, is -2",
        ),
        (
            Writer::default().string("general.architecture", "llama"),
            "field `llama.embedding_length`: it is not there",
        ),
        (sizes("llama"), "no tensor `token_embd.weight`"),
        (
            with_factors(llama(), &[1.0, 0.0]),
            "field `rope_freqs.weight`: factors must be positive and finite, is 0",
        ),
        (
            with_factors(llama(), &[1.0]),
            "tensor `rope_freqs.weight` has shape [1], expected [2]",
        ),
        (
            with_factors(llama(), &[1.0, 2.0]).f32("llama.rope.scaling.factor", 2.0),
            "field `llama.rope.scaling.factor`: beside `rope_freqs.weight` it would not be honoured",
        ),
        // llama.cpp does not know them there.
        (
            with_factors(model(sizes("qwen2"), false), &[1.0, 2.0]),
            "tensors that the module does not have: `rope_freqs.weight`",
        ),
    ];
    for (writer, expected) in cases {
        // Without a table, the number of symbols is asked for.
        let writer = writer.u32("llama.vocab_size", VOCABULARY as u32);
        let error = load(&writer).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}\n{expected}");
    }
}

/// The letters that stand for bytes (Radford et al. 2019): those that can be seen stand for themselves.
fn letters() -> Vec<char> {
    let seen = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
    let unseen = (0..=255u8).filter(|byte| !seen(byte)).count() as u32;
    let others = (0..unseen).map(|i| char::from_u32(256 + i).unwrap());
    (0..=255u8)
        .filter(seen)
        .map(char::from)
        .chain(others)
        .collect()
}

#[test]
fn tokens_are_those_of_llama_cpp() {
    let golden: Value = serde_json::from_str(include_str!("data/smollm_tokens.json")).unwrap();
    let strings = |value: &Value| -> Vec<String> {
        let values = value.as_array().unwrap().iter();
        values
            .map(|value| value.as_str().unwrap().to_string())
            .collect()
    };
    let special = strings(&golden["special"]);
    let merges = strings(&golden["merges"]);
    let mut tokens: BTreeSet<String> = letters().into_iter().map(String::from).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    let types = [vec![3i32; special.len()], vec![1; tokens.len()]].concat();
    let tokens: Vec<String> = special.into_iter().chain(tokens).collect();
    let texts = |values: &[String]| values.iter().map(|value| text(value)).collect::<Vec<_>>();
    let types: Vec<Vec<u8>> = types
        .iter()
        .map(|kind| kind.to_le_bytes().to_vec())
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let file = Writer::default()
        .string("tokenizer.ggml.model", "gpt2")
        .string("tokenizer.ggml.pre", "smollm")
        .array("tokenizer.ggml.tokens", 8, &texts(&tokens))
        .array("tokenizer.ggml.token_type", 5, &types)
        .array("tokenizer.ggml.merges", 8, &texts(&merges))
        .write(folder.path());
    let tokenizer = tokenizer::tokenizer(&GgufMetadata::read(file).unwrap()).unwrap();
    for case in golden["cases"].as_array().unwrap() {
        let text = case["text"].as_str().unwrap();
        let found = tokenizer.encode(text, false).unwrap();
        assert_eq!(found.get_tokens(), strings(&case["tokens"]), "{text}");
        assert_eq!(tokenizer.decode(found.get_ids(), false).unwrap(), text);
    }
}
