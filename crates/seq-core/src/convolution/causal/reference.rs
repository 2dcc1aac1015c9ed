//! The convolution in plain tensor operations, which specify it.

use burn::tensor::{Bool, Int, Tensor, TensorData};

use super::CausalConv;
use crate::recurrent::Activation;

pub(super) fn run(conv: CausalConv) -> (Tensor<3>, Tensor<3>) {
    let [batch, time, width] = conv.x.dims();
    let [_, d_conv] = conv.weight.dims();
    let (device, dtype) = (conv.x.device(), conv.x.dtype());
    let kept = d_conv - 1;
    let state = conv
        .state
        .unwrap_or_else(|| Tensor::zeros([batch, width, kept], (&device, dtype)));
    // What the padding holds, NaN perhaps, must not reach a gradient.
    let x = match &conv.lengths {
        Some(lengths) => lengths.clear(conv.x),
        None => conv.x,
    };
    // Step t lies at kept + t.
    let inputs = match kept {
        0 => x,
        _ => Tensor::cat(vec![state.clone().swap_dims(1, 2), x], 1),
    };
    let hidden = |back: usize, ages: &[Vec<usize>], steps: usize| {
        let hidden = ages.iter().flatten().map(|&age| age < back);
        let hidden = TensorData::new(hidden.collect::<Vec<_>>(), [batch, steps, 1]);
        Tensor::<3, Bool>::from_data(hidden, &device).expand([batch, steps, width])
    };
    let ages = conv.resets.as_deref().map(ages);

    let mut y = Tensor::zeros([batch, time, width], (&device, dtype));
    for (tap, weight) in conv
        .weight
        .swap_dims(0, 1)
        .split(1, 0)
        .into_iter()
        .enumerate()
    {
        let mut x = inputs.clone().narrow(1, tap, time);
        if let Some(ages) = &ages {
            x = x.mask_fill(hidden(kept - tap, ages, time), 0.0);
        }
        y = y + x * weight.unsqueeze();
    }
    if let Some(bias) = conv.bias {
        y = y + bias.unsqueeze();
    }
    if conv.silu {
        // Burn's own silu goes by way of f32.
        y = y.clone() * Activation::Sigmoid.forward(y);
    }
    if let Some(lengths) = &conv.lengths {
        y = lengths.clear(y);
    }
    if kept == 0 {
        return (y, state);
    }

    let ends = match &conv.lengths {
        Some(lengths) => lengths.as_slice().to_vec(),
        None => vec![time; batch],
    };
    let order: Vec<i64> = ends
        .iter()
        .flat_map(|&end| (end..end + kept).map(|step| step as i64))
        .collect();
    let order = Tensor::<3, Int>::from_data(TensorData::new(order, [batch, kept, 1]), &device);
    let mut last = inputs.gather(1, order.expand([batch, kept, width]));
    if let Some(ages) = &ages {
        // How far each of the last inputs lies behind the last step, beside that step's age.
        let age = |(row, &end): (usize, &usize)| match end {
            0 => vec![usize::MAX; kept],
            _ => (0..kept)
                .map(|i| ages[row][end - 1].saturating_add(i))
                .collect(),
        };
        let ages: Vec<Vec<usize>> = ends.iter().enumerate().map(age).collect();
        last = last.mask_fill(hidden(kept - 1, &ages, kept), 0.0);
    }
    (y, last.swap_dims(1, 2))
}

/// How many steps ago each step's sequence began, `usize::MAX` where that was before the first.
fn ages(resets: &[Vec<bool>]) -> Vec<Vec<usize>> {
    let row = |row: &Vec<bool>| {
        let ages = row.iter().scan(usize::MAX, |age, &reset| {
            *age = if reset { 0 } else { age.saturating_add(1) };
            Some(*age)
        });
        ages.collect()
    };
    resets.iter().map(row).collect()
}
