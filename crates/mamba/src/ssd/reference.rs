//! The scan in plain tensor operations, which specify it: chunk by chunk in matrix products.

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use seq_core::scan::{Decay, LinearScan};

use super::Scan;

/// Its exponential is zero in every type, and sums of it are no infinity, which times zero were NaN.
const NOTHING_LEFT: f64 = -800.0;

/// How many chunks hand the state on associatively.
const CHUNKS: usize = 64;

pub(super) fn run(scan: Scan) -> (Tensor<4>, Tensor<4>) {
    let [batch, time, heads, head_dim] = scan.x.dims();
    let [_, _, groups, d_state] = scan.b.dims();
    let (device, dtype) = (scan.x.device(), scan.x.dtype());
    let chunk = scan.chunk_size.min(time);
    let chunks = time.div_ceil(chunk);
    let count = batch * chunks;
    let width = heads / groups * head_dim;

    let lengths = scan.lengths.as_ref();
    let clear = |x: Tensor<3>| match lengths {
        Some(lengths) => lengths.clear(x),
        None => x,
    };
    // [batch, time, a, b] as [batch * chunks, a, chunk, b], with zeros beyond the end.
    let cut = |x: Tensor<4>| {
        let [_, _, a, b] = x.dims();
        let x = clear(x.reshape([batch, time, a * b]));
        let missing = chunks * chunk - time;
        let x = match missing {
            0 => x,
            _ => {
                let zeros = Tensor::zeros([batch, missing, a * b], (&device, dtype));
                Tensor::cat(vec![x, zeros], 1)
            }
        };
        x.reshape([count, chunk, a, b]).swap_dims(1, 2)
    };
    let (x, b, c) = (cut(scan.x), cut(scan.b), cut(scan.c));
    let log_decay = cut(scan.log_decay.unsqueeze_dim(3)).clamp_min(NOTHING_LEFT);
    let written = match scan.dt {
        Some(dt) => x.clone() * cut(dt.unsqueeze_dim(3)),
        None => x.clone(),
    };
    let resets = scan.resets.map(|mut resets| {
        // Nothing begins in the padding.
        if let Some(lengths) = lengths {
            let rows = resets.iter_mut().zip(lengths.as_slice());
            rows.for_each(|(row, &length)| row[length..].fill(false));
        }
        Resets::new(&resets, chunk, &device)
    });

    // Inside a chunk: the sums of the logarithms after step j up to step i, [count, heads, i, j].
    let lower = lower_triangle(chunk, 0, &device);
    let ones = Tensor::<4>::ones([1, 1, chunk, chunk], (&device, dtype));
    let above = |mask: &Tensor<2, Bool>| mask.clone().bool_not().unsqueeze::<4>();
    let sums = ones.mask_fill(above(&lower), 0.0);
    let square = [count, heads, chunk, chunk];
    let below = lower_triangle(chunk, -1, &device);
    let terms = log_decay.clone().expand(square);
    let terms = terms.mask_fill(above(&below).expand(square), 0.0);
    let segments = sums.clone().matmul(terms);
    let mut kept = segments
        .clone()
        .exp()
        .mask_fill(above(&lower).expand(square), 0.0);
    // From before the chunk to each step, and after each step to the last.
    let mut since_begin: Tensor<4> = sums.matmul(log_decay).exp();
    let until_end = segments.narrow(2, chunk - 1, 1).exp();
    let mut until_end: Tensor<4> = until_end.swap_dims(2, 3);
    let whole = since_begin.clone().narrow(2, chunk - 1, 1);
    if let Some(resets) = &resets {
        let spread = |mask: Tensor<4, Bool>, x: &Tensor<4>| mask.expand(x.dims());
        kept = kept.clone().mask_fill(spread(resets.between(), &kept), 0.0);
        since_begin = since_begin
            .clone()
            .mask_fill(spread(resets.before(), &since_begin), 0.0);
        until_end = until_end
            .clone()
            .mask_fill(spread(resets.after(), &until_end), 0.0);
    }
    let scores = c.clone().matmul(b.clone().transpose());
    let scores = by_heads(scores, heads) * kept;
    let mut y = scores.matmul(written.clone());

    // From chunk to chunk: what each writes, and what then has come of all before it.
    let channels = by_groups(written * until_end, groups);
    let writes = channels
        .matmul(b)
        .reshape([batch, chunks, heads * head_dim * d_state]);
    let whole =
        whole
            .reshape([batch, chunks, heads, 1])
            .expand([batch, chunks, heads, head_dim * d_state]);
    let state = match scan.state {
        Some(state) => state.reshape([batch, heads * head_dim * d_state]),
        None => Tensor::zeros([batch, heads * head_dim * d_state], (&device, dtype)),
    };
    let (states, last) = LinearScan {
        state: Some(state.clone()),
        resets: resets.map(|resets| resets.chunks(batch)),
        ..LinearScan::new(Decay::Varying(whole.reshape(writes.dims())), writes)
    }
    .chunked(CHUNKS);
    let before = match chunks {
        1 => state.unsqueeze_dim(1),
        _ => Tensor::cat(
            vec![state.unsqueeze_dim(1), states.narrow(1, 0, chunks - 1)],
            1,
        ),
    };
    let before = before.reshape([count, groups, width, d_state]);
    let read = before.matmul(c.transpose());
    let read = read
        .reshape([count, heads, head_dim, chunk])
        .swap_dims(2, 3);
    y = y + read * since_begin;

    if let Some(d) = scan.d {
        y = y + x * d.reshape([1, heads, 1, head_dim]);
    }
    let y = y
        .swap_dims(1, 2)
        .reshape([batch, chunks * chunk, heads * head_dim])
        .narrow(1, 0, time);
    (
        clear(y).reshape([batch, time, heads, head_dim]),
        last.reshape([batch, heads, head_dim, d_state]),
    )
}

/// `[chunk, chunk]`, true where the column is at most the row and `diagonal`.
fn lower_triangle(chunk: usize, diagonal: i64, device: &Device) -> Tensor<2, Bool> {
    let steps = Tensor::<1, Int>::arange(0..chunk as i64, device);
    let rows = steps
        .clone()
        .unsqueeze_dim::<2>(1)
        .expand([chunk, chunk])
        .add_scalar(diagonal);
    steps
        .unsqueeze_dim::<2>(0)
        .expand([chunk, chunk])
        .lower_equal(rows)
}

/// `[count, groups, i, j]` for each head of a group.
fn by_heads(x: Tensor<4>, heads: usize) -> Tensor<4> {
    let [count, groups, rows, columns] = x.dims();
    x.unsqueeze_dim::<5>(2)
        .expand([count, groups, heads / groups, rows, columns])
        .reshape([count, heads, rows, columns])
}

/// `[count, heads, chunk, head_dim]` as `[count, groups, heads of a group * head_dim, chunk]`.
fn by_groups(x: Tensor<4>, groups: usize) -> Tensor<4> {
    let [count, heads, chunk, head_dim] = x.dims();
    x.swap_dims(2, 3)
        .reshape([count, groups, heads / groups * head_dim, chunk])
}

/// How many sequences have begun in its chunk up to each step.
struct Resets {
    counts: Vec<i64>,
    chunk: usize,
    /// `[batch * chunks, chunk]`
    tensor: Tensor<2, Int>,
}

impl Resets {
    fn new(resets: &[Vec<bool>], chunk: usize, device: &Device) -> Self {
        let mut counts = Vec::new();
        for steps in resets.iter().flat_map(|row| row.chunks(chunk)) {
            let mut count = 0;
            counts.extend((0..chunk).map(|i| {
                count += i64::from(steps.get(i).is_some_and(|&reset| reset));
                count
            }));
        }
        let shape = [counts.len() / chunk, chunk];
        let tensor = Tensor::from_data(TensorData::new(counts.clone(), shape), device);
        Self {
            counts,
            chunk,
            tensor,
        }
    }

    fn steps(&self) -> Tensor<4, Int> {
        let [count, chunk] = self.tensor.dims();
        self.tensor.clone().reshape([count, 1, chunk, 1])
    }

    /// `[count, 1, i, j]`: whether a sequence has begun after step j, up to step i.
    fn between(&self) -> Tensor<4, Bool> {
        let [count, chunk] = self.tensor.dims();
        let square = [count, 1, chunk, chunk];
        let rows = self.steps().expand(square);
        rows.clone().not_equal(rows.swap_dims(2, 3))
    }

    /// `[count, 1, i, 1]`: whether one has begun up to step i.
    fn before(&self) -> Tensor<4, Bool> {
        self.steps().not_equal_elem(0)
    }

    /// `[count, 1, j, 1]`: whether one begins after step j.
    fn after(&self) -> Tensor<4, Bool> {
        let last = self.steps().narrow(2, self.chunk - 1, 1);
        self.steps().not_equal(last.expand(self.steps().dims()))
    }

    /// Whether one begins in a chunk, for each row of the batch.
    fn chunks(&self, batch: usize) -> Vec<Vec<bool>> {
        let lasts = self.counts.chunks(self.chunk).map(|counts| counts.last());
        let any: Vec<bool> = lasts.map(|last| last.is_some_and(|&n| n > 0)).collect();
        any.chunks((any.len() / batch.max(1)).max(1))
            .map(<[bool]>::to_vec)
            .collect()
    }
}
