//! Attention in plain tensor operations, which specify it.

use std::ops::Range;

use burn::tensor::{Bool, Tensor, TensorData, s};
use seq_core::Lengths;
use seq_core::autodiff::recompute;

use super::{Attention, Reach};

/// How many scores there are at once, about; one query of every head at least.
const SCORES: usize = 1 << 22;

/// Below every score, and not so low that a difference overflows.
const LOWEST: f64 = -1e30;

pub(super) fn run(attention: Attention) -> Tensor<4> {
    let [batch, time_query, heads, _] = attention.query.dims();
    let [_, _, _, d_value] = attention.value.dims();
    let device = attention.query.device();
    let dtype = attention.query.dtype();
    let reach = attention.reach();
    let seen = seen(&reach, time_query);
    if seen.is_empty() || heads == 0 {
        return Tensor::zeros([batch, time_query, heads, d_value], (&device, dtype));
    }
    let (attention, reach) = of_keys(attention, reach, seen.clone());
    let chunk = (SCORES / (batch * heads * seen.len())).clamp(1, time_query);
    let outputs = (0..time_query)
        .step_by(chunk)
        .map(|first| {
            let queries = first..time_query.min(first + chunk);
            let place = Place {
                query: first,
                key: seen.start,
                time_query,
            };
            part(of_queries(&attention, &reach, queries), place)
        })
        .collect();
    Tensor::cat(outputs, 1)
}

/// Where among all queries and keys those of a part begin.
#[derive(Clone, Copy)]
struct Place {
    query: usize,
    key: usize,
    time_query: usize,
}

/// A part of the queries. Where there are others, the scores are not kept for the backward pass, which would hold
/// those of all parts at once.
fn part((attention, reach): (Attention, Reach), place: Place) -> Tensor<4> {
    let whole = attention.query.dims()[1] == place.time_query;
    let inputs = [
        Some(attention.query.clone()),
        Some(attention.key.clone()),
        Some(attention.value.clone()),
        attention.bias.clone(),
    ];
    // What the graph reads once more must not hold the graph.
    let constant = Attention {
        query: attention.query.inner(),
        key: attention.key.inner(),
        value: attention.value.inner(),
        bias: None,
        mask: attention.mask.map(Tensor::inner),
        ..attention
    };
    let body = move |[query, key, value, bias]: [Option<Tensor<4>>; 4]| {
        let [Some(query), Some(key), Some(value)] = [query, key, value] else {
            unreachable!("as given")
        };
        let attention = Attention {
            query,
            key,
            value,
            bias,
            ..constant.clone()
        };
        some(&attention, &reach, place)
    };
    match whole {
        true => body(inputs),
        false => recompute(inputs, body),
    }
}

/// Some of the queries alone.
fn of_queries(attention: &Attention, reach: &Reach, queries: Range<usize>) -> (Attention, Reach) {
    let (first, count) = (queries.start, queries.len());
    let rows = |rows: usize| match rows {
        1 => s![.., .., .., ..],
        _ => s![.., .., first..first + count, ..],
    };
    let bias = attention.bias.clone();
    let mask = attention.mask.clone();
    let part = Attention {
        query: attention.query.clone().narrow(1, first, count),
        bias: bias.map(|bias| {
            let rows = rows(bias.dims()[2]);
            bias.slice(rows)
        }),
        mask: mask.map(|mask| {
            let rows = rows(mask.dims()[2]);
            mask.slice(rows)
        }),
        ..attention.clone()
    };
    let offsets = reach.offsets.iter().map(|&at| at + first as isize);
    let reach = Reach {
        offsets: offsets.collect(),
        ..reach.clone()
    };
    (part, reach)
}

/// The keys that any query sees by its position.
fn seen(reach: &Reach, time_query: usize) -> Range<usize> {
    let rows = 0..reach.keys.len();
    let ranges = rows.flat_map(|b| (0..time_query).map(move |i| reach.range(b, i)));
    let ranges = ranges.filter(|range| !range.is_empty());
    ranges
        .reduce(|a, b| a.start.min(b.start)..a.end.max(b.end))
        .unwrap_or(0..0)
}

/// Without the other keys, as those that a cache has room for, or has not dropped yet: a sum is rounded by how many
/// numbers it has, zeros or not, and the room must not show.
fn of_keys(attention: Attention, reach: Reach, seen: Range<usize>) -> (Attention, Reach) {
    let Range { start, end } = seen;
    let narrow = |x: Tensor<4>, axis: usize| match x.dims()[axis] {
        1 => x,
        _ => x.narrow(axis, start, end - start),
    };
    let part = |keys: usize| keys.clamp(start, end) - start;
    let lengths = attention.key_lengths.as_ref().map(Lengths::as_slice);
    let lengths = lengths.map(|lengths| Lengths::new(lengths.iter().map(|&keys| part(keys))));
    let attention = Attention {
        key: attention.key.narrow(1, start, end - start),
        value: attention.value.narrow(1, start, end - start),
        mask: attention.mask.map(|mask| match mask.dims()[3] {
            1 => mask,
            _ => mask.narrow(3, start, end - start),
        }),
        bias: attention.bias.map(|bias| narrow(bias, 3)),
        key_lengths: lengths,
        ..attention
    };
    let reach = Reach {
        offsets: reach
            .offsets
            .iter()
            .map(|&at| at - start as isize)
            .collect(),
        keys: reach.keys.iter().map(|&keys| part(keys)).collect(),
        ..reach
    };
    (attention, reach)
}

/// Scores, weights, and what they take from the values.
fn some(attention: &Attention, reach: &Reach, place: Place) -> Tensor<4> {
    let [batch, count, heads, _] = attention.query.dims();
    let [_, time_key, kv_heads, _] = attention.key.dims();
    let device = attention.query.device();
    // Each of the heads that share keys has a copy of them: [batch, heads, time, d].
    let spread = |x: &Tensor<4>| {
        let [batch, time, kv_heads, d] = x.dims();
        let x = x.clone().swap_dims(1, 2).unsqueeze_dim::<5>(2);
        x.expand([batch, kv_heads, heads / kv_heads, time, d])
            .reshape([batch, heads, time, d])
    };
    debug_assert!(heads.is_multiple_of(kv_heads));
    let query = attention.query.clone();
    // What the padding holds, NaN perhaps, must not reach a gradient.
    let clear = |x: &Tensor<4>| match &attention.key_lengths {
        Some(lengths) => {
            let [batch, time, heads, d] = x.dims();
            let rows = lengths.clear(x.clone().reshape([batch, time, heads * d]));
            rows.reshape([batch, time, heads, d])
        }
        None => x.clone(),
    };
    let keys = spread(&clear(&attention.key));
    let scores = query.swap_dims(1, 2).matmul(keys.swap_dims(2, 3));
    let mut scores = scores * attention.scale();
    if let Some(cap) = attention.softcap {
        // Burn's tanh has a gradient of ten digits.
        let power = (scores * (2.0 / cap)).clamp(-60.0, 60.0).exp();
        scores = (power + 1.0).recip() * (-2.0 * cap) + cap;
    }
    if let Some(bias) = &attention.bias {
        scores = scores + bias.clone();
    }
    let dtype = scores.dtype();
    if let Some(slopes) = &attention.alibi {
        let slopes = TensorData::new(slopes.clone(), [1, heads, 1, 1]);
        let slopes = Tensor::<4>::from_data(slopes, (&device, dtype));
        let mut distances = Vec::with_capacity(batch * count * time_key);
        for &offset in &reach.offsets {
            for i in 0..count {
                let at = offset + i as isize;
                distances.extend((0..time_key).map(|j| at.abs_diff(j as isize) as f64));
            }
        }
        let distances = TensorData::new(distances, [batch, 1, count, time_key]);
        scores = scores - slopes * Tensor::<4>::from_data(distances, (&device, dtype));
    }
    let mut hidden = scores.clone().equal_elem(f64::NEG_INFINITY);
    if let Some(mask) = &attention.mask {
        let mask = mask.clone().bool_not();
        hidden = hidden.bool_or(mask.expand(scores.dims()));
    }
    if !reach.is_all(time_key) {
        hidden = hidden.bool_or(unreached(reach, &scores));
    }
    let scores = scores.mask_fill(hidden.clone(), LOWEST);
    // Where nothing is seen, the largest is LOWEST as well and each weight becomes one, then zero.
    let top = scores.clone().detach().max_dim(3);
    let weights = (scores - top).exp().mask_fill(hidden, 0.0);
    let sums = weights.clone().sum_dim(3);
    let empty = sums.clone().equal_elem(0.0);
    let sums = sums.mask_fill(empty, 1.0);
    let mut weights = weights / sums;
    if let Some(dropout) = attention.dropout {
        let mut factors = vec![0.0; batch * heads * count * time_key];
        for (at, row) in factors.chunks_mut(time_key).enumerate() {
            let (head, i) = (at / count, at % count);
            let row_number = head * place.time_query + place.query + i;
            dropout.row(row_number).fill(place.key, row, 0.0, |x| x);
        }
        let factors = TensorData::new(factors, [batch, heads, count, time_key]);
        weights = weights * Tensor::<4>::from_data(factors, (&device, dtype));
    }
    weights
        .matmul(spread(&clear(&attention.value)))
        .swap_dims(1, 2)
}

/// `[batch, heads, count, time_key]`, true where a key is out of a query's reach.
fn unreached(reach: &Reach, scores: &Tensor<4>) -> Tensor<4, Bool> {
    let [batch, _, count, time_key] = scores.dims();
    let mut unreached = vec![true; batch * count * time_key];
    for (at, row) in unreached.chunks_mut(time_key).enumerate() {
        row[reach.range(at / count, at % count)].fill(false);
    }
    let unreached = TensorData::new(unreached, [batch, 1, count, time_key]);
    Tensor::<4, Bool>::from_data(unreached, &scores.device()).expand(scores.dims())
}
