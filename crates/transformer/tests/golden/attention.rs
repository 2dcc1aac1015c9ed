//! Scaled dot-product attention of PyTorch and ONNX.

use burn::tensor::activation::softmax;
use burn::tensor::{Bool, Tensor};
use seq_core::testing::Run;
use seq_transformer::{Alignment, Attention, Lengths};
use serde::Deserialize;

/// A case of either.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    batch: usize,
    num_heads: usize,
    num_kv_heads: usize,
    head_dim: usize,
    d_value: usize,
    time_query: usize,
    time_key: usize,
    #[serde(default)]
    time_past: usize,
    causal: bool,
    causal_alignment: String,
    window: Option<usize>,
    left_window_size: Option<usize>,
    right_window_size: Option<usize>,
    scale: Option<f64>,
    softcap: Option<f64>,
    scores_output: Option<String>,
    /// Which axes the mask has, and the bias, in the cases of PyTorch.
    attention_mask: Option<String>,
    attention_bias: Option<String>,
    #[serde(rename = "fully_masked_row")]
    _fully_masked_row: Option<bool>,
    #[serde(default, rename = "expected_zero_gradients")]
    _expected_zero_gradients: Vec<String>,
    #[serde(rename = "test")]
    _test: Option<String>,
    #[serde(rename = "opset")]
    _opset: Option<usize>,
}

const MASK: &str = "input.attention_mask";
const BIAS: &str = "input.attention_bias";

/// The cases have the heads before the time.
fn time_first(x: Tensor<4>) -> Tensor<4> {
    x.swap_dims(1, 2)
}

/// What spreads to `[batch, heads, time_query, time_key]`.
fn mask_of(run: &mut Run) -> Option<Tensor<4, Bool>> {
    let rank = run.has(MASK).then(|| run.rank(MASK))?;
    Some(match rank {
        2 => run.mask::<2>(MASK).unsqueeze(),
        3 => run.mask::<3>(MASK).unsqueeze(),
        _ => run.mask(MASK),
    })
}

/// As [`mask_of`].
fn bias_of(run: &mut Run) -> Option<Tensor<4>> {
    let rank = run.has(BIAS).then(|| run.rank(BIAS))?;
    Some(match rank {
        2 => run.float::<2>(BIAS).unsqueeze(),
        3 => run.float::<3>(BIAS).unsqueeze(),
        _ => run.float(BIAS),
    })
}

pub fn sdpa(config: Case, run: &mut Run) {
    assert_eq!(run.has(MASK), config.attention_mask.is_some());
    assert_eq!(run.has(BIAS), config.attention_bias.is_some());
    sdpa_onnx(config, run);
}

pub fn sdpa_onnx(config: Case, run: &mut Run) {
    let Case {
        batch,
        time_query,
        time_key,
        time_past,
        head_dim,
        ..
    } = config;
    let query = run.float::<4>("input.query");
    assert_eq!(
        query.dims(),
        [batch, config.num_heads, time_query, head_dim]
    );
    let joined = |name: &str, width: usize, run: &mut Run| {
        let new = run.float::<4>(&format!("input.{name}"));
        let all = match time_past {
            0 => new,
            _ => {
                let past = run.float::<4>(&format!("input.past_{name}"));
                assert_eq!(past.dims()[2], time_past);
                let all = Tensor::cat(vec![past, new], 2);
                run.output(&format!("present_{name}"), all.clone());
                all
            }
        };
        assert_eq!(all.dims(), [batch, config.num_kv_heads, time_key, width]);
        all
    };
    let key = joined("key", head_dim, run);
    let value = joined("value", config.d_value, run);
    let mut lengths = None;
    let alignment = match config.causal_alignment.as_str() {
        "start" => Alignment::Start,
        "end" => Alignment::End,
        "past" => Alignment::At(vec![time_past; batch]),
        "key_lengths" => {
            lengths = Some(run.numbers("input.key_lengths"));
            Alignment::End
        }
        other => panic!("causal_alignment is `{other}`"),
    };
    let mut mask = mask_of(run);
    let bias = bias_of(run);
    // A window that is not causal has a width of its own on either side.
    let sides = [config.left_window_size, config.right_window_size];
    if config.window.is_none() && sides.iter().any(Option::is_some) {
        let offsets: Vec<isize> = match &lengths {
            Some(lengths) => lengths
                .iter()
                .map(|&length| length as isize - time_query as isize)
                .collect(),
            None => vec![time_past as isize; batch],
        };
        let window = between(sides, &config, &offsets, run);
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
        alignment,
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

/// Which keys are between the two sides of each query.
fn between(
    [left, right]: [Option<usize>; 2],
    config: &Case,
    offsets: &[isize],
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
    config: &Case,
    query: &Tensor<4>,
    key: &Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
    bias: Option<Tensor<4>>,
) -> Tensor<4> {
    let [batch, kv_heads, time, width] = key.dims();
    let heads = config.num_heads;
    let key = (key.clone())
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
