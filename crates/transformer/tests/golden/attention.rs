//! Scaled dot-product attention of PyTorch and ONNX.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor};
use seq_core::testing::Run;
use seq_transformer::{Alignment, Attention, Lengths};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sdpa {
    batch: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    d_value: usize,
    time_query: usize,
    time_key: usize,
    causal: bool,
    causal_alignment: String,
    window: Option<usize>,
    scale: Option<f64>,
    softcap: Option<f64>,
    attention_mask: Option<String>,
    attention_bias: Option<String>,
    #[serde(rename = "fully_masked_row")]
    _fully_masked_row: bool,
    #[serde(default, rename = "expected_zero_gradients")]
    _expected_zero_gradients: Vec<String>,
}

/// The cases have the heads before the time.
fn time_first(x: Tensor<4>) -> Tensor<4> {
    x.swap_dims(1, 2)
}

/// The shape as it spreads to `[batch, heads, time_query, time_key]`.
fn four(shape: &[usize]) -> [usize; 4] {
    let mut four = [1; 4];
    four[4 - shape.len()..].copy_from_slice(shape);
    four
}

fn mask_of(run: &mut Run) -> Option<Tensor<4, Bool>> {
    let name = "input.attention_mask";
    let rank = run.has(name).then(|| run.rank(name))?;
    Some(match rank {
        2 => {
            let mask = run.mask::<2>(name);
            let shape = four(&mask.dims());
            mask.reshape(shape)
        }
        3 => {
            let mask = run.mask::<3>(name);
            let shape = four(&mask.dims());
            mask.reshape(shape)
        }
        _ => run.mask::<4>(name),
    })
}

fn bias_of(run: &mut Run) -> Option<Tensor<4>> {
    let name = "input.attention_bias";
    let rank = run.has(name).then(|| run.rank(name))?;
    Some(match rank {
        2 => {
            let bias = run.float::<2>(name);
            let shape = four(&bias.dims());
            bias.reshape(shape)
        }
        3 => {
            let bias = run.float::<3>(name);
            let shape = four(&bias.dims());
            bias.reshape(shape)
        }
        _ => run.float::<4>(name),
    })
}

pub fn sdpa(config: Sdpa, run: &mut Run) {
    let query = run.float::<4>("input.query");
    let shape = [
        config.batch,
        config.num_heads,
        config.time_query,
        config.head_dim,
    ];
    assert_eq!(query.dims(), shape);
    let key = run.float::<4>("input.key");
    let shape = [
        config.batch,
        config.num_kv_heads,
        config.time_key,
        config.head_dim,
    ];
    assert_eq!(key.dims(), shape);
    let value = run.float::<4>("input.value");
    assert_eq!(value.dims()[3], config.d_value);
    let (mask, bias) = (mask_of(run), bias_of(run));
    assert_eq!(mask.is_some(), config.attention_mask.is_some());
    assert_eq!(bias.is_some(), config.attention_bias.is_some());
    let attention = Attention {
        causal: config.causal,
        alignment: match config.causal_alignment.as_str() {
            "start" => Alignment::Start,
            "end" => Alignment::End,
            other => panic!("causal_alignment is `{other}`"),
        },
        window: config.window,
        scale: config.scale,
        softcap: config.softcap,
        mask,
        bias,
        ..Attention::new(time_first(query), time_first(key), time_first(value))
    };
    run.output("y", time_first(attention.run()));
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Onnx {
    #[serde(rename = "test")]
    _test: String,
    #[serde(rename = "opset")]
    _opset: usize,
    batch: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    d_value: usize,
    time_query: usize,
    time_key: usize,
    time_past: usize,
    causal: bool,
    causal_alignment: String,
    window: Option<usize>,
    left_window_size: Option<usize>,
    right_window_size: Option<usize>,
    scale: Option<f64>,
    softcap: Option<f64>,
    scores_output: Option<String>,
}

pub fn sdpa_onnx(config: Onnx, run: &mut Run) {
    let query = run.float::<4>("input.query");
    let shape = [
        config.batch,
        config.num_heads,
        config.time_query,
        config.head_dim,
    ];
    assert_eq!(query.dims(), shape);
    let joined = |name: &str, run: &mut Run| {
        let new = run.float::<4>(&format!("input.{name}"));
        if config.time_past == 0 {
            return new;
        }
        let past = run.float::<4>(&format!("input.past_{name}"));
        assert_eq!(past.dims()[2], config.time_past);
        let all = Tensor::cat(vec![past, new], 2);
        run.output(&format!("present_{name}"), all.clone());
        all
    };
    let (key, value) = (joined("key", run), joined("value", run));
    let kv_shape = [config.batch, config.num_kv_heads, config.time_key];
    assert_eq!(key.dims()[..3], kv_shape);
    assert_eq!(value.dims()[3], config.d_value);
    let lengths =
        (config.causal_alignment == "key_lengths").then(|| run.numbers("input.key_lengths"));
    let offsets: Vec<isize> = match &lengths {
        Some(lengths) => lengths
            .iter()
            .map(|&length| length as isize - config.time_query as isize)
            .collect(),
        None => vec![config.time_past as isize; config.batch],
    };
    let mut mask = mask_of(run);
    let bias = bias_of(run);
    // A window that is not causal has a width of its own on either side.
    let [left, right] = [config.left_window_size, config.right_window_size];
    if config.window.is_none() && (left.is_some() || right.is_some()) {
        let window = sides(&config, &offsets, left, right, run);
        mask = Some(match mask {
            Some(mask) => mask.expand(window.dims()).bool_and(window),
            None => window,
        });
    }
    if let Some(form) = &config.scores_output {
        let scores = scores(form, &config, &query, &key, mask.clone(), bias.clone());
        run.output("scores", scores);
    }
    let attention = Attention {
        causal: config.causal,
        alignment: match &lengths {
            Some(_) => Alignment::End,
            None => Alignment::At(vec![config.time_past; config.batch]),
        },
        window: config.window,
        scale: config.scale,
        softcap: config.softcap,
        mask,
        bias,
        key_lengths: lengths.map(Lengths::new),
        ..Attention::new(time_first(query), time_first(key), time_first(value))
    };
    run.output("y", time_first(attention.run()));
}

fn sides(
    config: &Onnx,
    offsets: &[isize],
    left: Option<usize>,
    right: Option<usize>,
    run: &Run,
) -> Tensor<4, Bool> {
    let mut seen = Vec::new();
    for &offset in offsets {
        for i in 0..config.time_query as isize {
            for j in 0..config.time_key as isize {
                let ahead = j - i - offset;
                let near = left.is_none_or(|left| -ahead <= left as isize)
                    && right.is_none_or(|right| ahead <= right as isize);
                seen.push(near);
            }
        }
    }
    let shape = [config.batch, 1, config.time_query, config.time_key];
    Tensor::from_data(burn::tensor::TensorData::new(seen, shape), run.device())
}

/// The scores as the operator gives them out on the way.
fn scores(
    form: &str,
    config: &Onnx,
    query: &Tensor<4>,
    key: &Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
    bias: Option<Tensor<4>>,
) -> Tensor<4> {
    let key = key.clone().repeat_dim(1, 1);
    let [batch, kv_heads, time, width] = key.dims();
    let heads = config.num_heads;
    let key = key
        .unsqueeze_dim::<5>(2)
        .expand([batch, kv_heads, heads / kv_heads, time, width])
        .reshape([batch, heads, time, width]);
    let scale = config.scale.unwrap_or(1.0 / (width as f64).sqrt());
    let mut scores = query.clone().matmul(key.swap_dims(2, 3)) * scale;
    if form == "scaled" {
        return scores;
    }
    if let Some(cap) = config.softcap {
        scores = (scores / cap).tanh() * cap;
    }
    if form == "softcapped" {
        return scores;
    }
    if let Some(bias) = bias {
        scores = scores + bias;
    }
    if let Some(mask) = mask {
        let hidden = mask.bool_not().expand(scores.dims());
        scores = scores.mask_fill(hidden, f64::NEG_INFINITY);
    }
    match form {
        "softmax" => softmax(scores, 3),
        _ => scores,
    }
}
