use std::f64::consts::{LN_2, LOG2_E};
use std::ops::Range;

use seq_core::cpu::{Buffer, Real, Shared, Simd};

use super::super::reach::Reach;
use crate::AttentionDropout;

/// How many keys are done at once: a whole number of tiles, whose scores with a block of queries stay in the first
/// cache, and which themselves stay in the second.
pub(super) const KEYS: usize = 96;

/// How many registers the queries of a block take: for fewer, products would wait for values out of memory.
pub(super) const REGISTERS: usize = 4;

/// Bytes of a cache line, in which any register fits.
pub(super) const LINE: usize = 64;

/// One call, as the kernels see it. Queries `[batch, time_query, heads, d_head]`, keys `[batch, time_key, kv_heads,
/// d_head]` and values `[batch, time_key, kv_heads, d_value]`, row-major.
pub(crate) struct Problem<'a, R> {
    pub batch: usize,
    pub time_query: usize,
    pub time_key: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub d_head: usize,
    pub d_value: usize,
    pub query: &'a [R],
    pub key: &'a [R],
    pub value: &'a [R],
    pub scale: f64,
    pub softcap: Option<f64>,
    pub slopes: Option<&'a [f64]>,
    /// Minus infinity where a key is hidden, zero elsewhere.
    pub mask: Option<Spread<'a, R>>,
    pub bias: Option<Spread<'a, R>>,
    pub reach: &'a Reach,
    pub dropout: Option<AttentionDropout>,
}

/// A tensor whose axes spread to those of the scores, `[batch, heads, time_query, time_key]`.
pub(crate) struct Spread<'a, R> {
    pub values: &'a [R],
    pub shape: [usize; 4],
}

impl<R> Spread<'_, R> {
    /// Where the value for a key of a query lies: the place of the first key's, and the distance between two.
    pub fn row(&self, at: [usize; 3]) -> (usize, usize) {
        let mut place = 0;
        for (at, &size) in at.into_iter().zip(&self.shape) {
            place = place * size + if size == 1 { 0 } else { at };
        }
        let keys = self.shape[3];
        (place * keys, usize::from(keys > 1))
    }

    /// Whether all queries of a head have the same.
    pub fn is_of_keys(&self) -> bool {
        self.shape[2] == 1
    }
}

/// The queries that one item of work has: those of a block of one head of one row.
#[derive(Debug, Clone, Copy)]
pub(super) struct Item {
    pub b: usize,
    pub head: usize,
    pub first: usize,
    pub count: usize,
}

/// What the queries of a block may see: numbers of keys from `low` to below `high`, one of each a lane.
pub(super) struct Sight<R> {
    low: Vec<R>,
    high: Vec<R>,
    /// All that one of them sees.
    pub any: Range<usize>,
    /// What all of them see.
    all: Range<usize>,
}

impl<R: Real> Problem<'_, R> {
    /// How many queries a block has.
    pub(super) fn width<S: Simd>() -> usize {
        R::lanes::<S>() * REGISTERS
    }

    pub(super) fn kv_head(&self, head: usize) -> usize {
        head / (self.heads / self.kv_heads)
    }

    /// The first element of a query's row.
    pub(super) fn query_at(&self, b: usize, i: usize, head: usize) -> usize {
        ((b * self.time_query + i) * self.heads + head) * self.d_head
    }

    /// The same of outputs.
    pub(super) fn output_at(&self, b: usize, i: usize, head: usize) -> usize {
        ((b * self.time_query + i) * self.heads + head) * self.d_value
    }

    /// Of a query, among all of them.
    pub(super) fn number(&self, b: usize, head: usize, i: usize) -> usize {
        (b * self.heads + head) * self.time_query + i
    }

    /// A lane beyond the last query stands for that one again.
    pub(super) fn sight(&self, item: Item, width: usize) -> Sight<R> {
        let mut sight = Sight {
            low: Vec::with_capacity(width),
            high: Vec::with_capacity(width),
            any: self.time_key..0,
            all: 0..self.time_key,
        };
        for lane in 0..width {
            let i = item.first + lane.min(item.count - 1);
            let range = self.reach.range(item.b, i);
            sight.low.push(R::from_f64(range.start as f64));
            sight.high.push(R::from_f64(range.end as f64));
            if !range.is_empty() {
                sight.any = sight.any.start.min(range.start)..sight.any.end.max(range.end);
            }
            sight.all = sight.all.start.max(range.start)..sight.all.end.min(range.end);
        }
        sight
    }

    /// Whether scores are more than products, or some are hidden by a tensor.
    fn has_extras(&self) -> bool {
        let tensors = self.mask.is_some() || self.bias.is_some();
        tensors || self.softcap.is_some() || self.slopes.is_some()
    }

    /// What a query is multiplied by, for scores of which powers of two are taken: in units of ln 2, in which a power
    /// needs no reduction.
    pub(super) fn scale_of_bits(&self) -> R {
        R::from_f64(self.scale * LOG2_E)
    }

    /// Turns the products of the keys `keys` with the queries of a block, `[keys, width]`, into scores, both in units
    /// of ln 2; minus infinity is the score of a key that a query does not see. With `bent`, the derivatives of
    /// the soft cap go there.
    #[inline(always)]
    pub(super) unsafe fn score<S: Simd>(
        &self,
        s: S,
        item: Item,
        sight: &Sight<R>,
        keys: Range<usize>,
        scores: *mut R,
        bent: Option<*mut R>,
    ) {
        let (lanes, width) = (R::lanes::<S>(), Self::width::<S>());
        let count = keys.len() * width;
        // SAFETY: all addresses are inside the block, of which the caller promises `keys.len()` rows.
        unsafe {
            if let Some(cap) = self.softcap {
                let (cap, inverse) = (R::from_f64(cap * LOG2_E), R::from_f64(LN_2 / cap));
                let one = R::splat(s, R::ONE);
                for at in (0..count).step_by(lanes) {
                    let x = R::load(s, scores.add(at));
                    let bend = R::tanh(s, R::vmul(s, x, R::splat(s, inverse)));
                    R::store(s, scores.add(at), R::vmul(s, bend, R::splat(s, cap)));
                    if let Some(bent) = bent {
                        R::store(s, bent.add(at), R::neg_mul_add(s, bend, bend, one));
                    }
                }
            }
            if self.has_extras() {
                for spread in [&self.bias, &self.mask].into_iter().flatten() {
                    self.add_spread::<S>(s, spread, item, keys.clone(), scores);
                }
                if let Some(slopes) = self.slopes {
                    self.add_slopes::<S>(s, slopes[item.head], item, keys.clone(), scores);
                }
            }
            if sight.all.start <= keys.start && keys.end <= sight.all.end {
                return;
            }
            let hidden = R::splat(s, R::from_f64(f64::NEG_INFINITY));
            for lane in (0..width).step_by(lanes) {
                let low = R::load(s, sight.low.as_ptr().add(lane));
                let high = R::load(s, sight.high.as_ptr().add(lane));
                for (row, j) in keys.clone().enumerate() {
                    let at = scores.add(row * width + lane);
                    let j = R::splat(s, R::from_f64(j as f64));
                    let score = R::load(s, at);
                    let score = R::select_lt(s, j, high, score, hidden);
                    R::store(s, at, R::select_lt(s, j, low, hidden, score));
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_spread<S: Simd>(
        &self,
        s: S,
        spread: &Spread<'_, R>,
        item: Item,
        keys: Range<usize>,
        scores: *mut R,
    ) {
        let (lanes, width) = (R::lanes::<S>(), Self::width::<S>());
        let unit = R::from_f64(LOG2_E);
        // SAFETY: inside the block, by the caller's promise.
        unsafe {
            if spread.is_of_keys() {
                let (start, step) = spread.row([item.b, item.head, 0]);
                for (row, j) in keys.enumerate() {
                    let value = R::splat(s, spread.values[start + j * step] * unit);
                    for at in (0..width).step_by(lanes) {
                        let at = scores.add(row * width + at);
                        R::store(s, at, R::vadd(s, R::load(s, at), value));
                    }
                }
                return;
            }
            for lane in 0..item.count {
                let (start, step) = spread.row([item.b, item.head, item.first + lane]);
                for (row, j) in keys.clone().enumerate() {
                    *scores.add(row * width + lane) += spread.values[start + j * step] * unit;
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn add_slopes<S: Simd>(
        &self,
        s: S,
        slope: f64,
        item: Item,
        keys: Range<usize>,
        scores: *mut R,
    ) {
        let (lanes, width) = (R::lanes::<S>(), Self::width::<S>());
        let slope = R::splat(s, R::from_f64(slope * LOG2_E));
        let first = self.reach.offsets[item.b] + item.first as isize;
        let places: Vec<R> = (0..width as isize)
            .map(|lane| R::from_f64((first + lane) as f64))
            .collect();
        for (row, j) in keys.enumerate() {
            let j = R::splat(s, R::from_f64(j as f64));
            for lane in (0..width).step_by(lanes) {
                // SAFETY: inside the block, by the caller's promise.
                unsafe {
                    let distance = R::vsub(s, R::load(s, places.as_ptr().add(lane)), j);
                    let at = scores.add(row * width + lane);
                    let score = R::load(s, at);
                    R::store(s, at, R::neg_mul_add(s, slope, R::abs(s, distance), score));
                }
            }
        }
    }

    /// Multiplies the weights of a block by what dropout makes of them; none without it.
    #[inline(always)]
    pub(super) unsafe fn drop_out<S: Simd>(&self, item: Item, keys: Range<usize>, factors: *mut R) {
        let Some(dropout) = self.dropout else {
            return;
        };
        let width = Self::width::<S>();
        let mut row = [R::ZERO; KEYS];
        for lane in 0..width {
            let i = item.first + lane.min(item.count - 1);
            let drawn = dropout.row(self.number(item.b, item.head, i));
            let row = &mut row[..keys.len()];
            drawn.fill(keys.start, row, R::ZERO, R::from_f64);
            for (key, &factor) in row.iter().enumerate() {
                // SAFETY: inside the block, by the caller's promise.
                unsafe { *factors.add(key * width + lane) = factor };
            }
        }
    }
}

/// Rows `[count, depth]`, `stride` apart, as columns: `[depth, width]`, times `factor`; what is missing is zero.
#[inline(always)]
pub(super) unsafe fn turn<R: Real>(
    rows: *const R,
    stride: usize,
    [count, depth, width]: [usize; 3],
    factor: R,
    into: *mut R,
) {
    // Squares of which a compiler makes shuffles.
    const SIDE: usize = 8;
    let whole = [count / SIDE * SIDE, depth / SIDE * SIDE];
    // SAFETY: inside both by the caller's promise.
    unsafe {
        for lane in (0..whole[0]).step_by(SIDE) {
            for k in (0..whole[1]).step_by(SIDE) {
                let from = rows.add(lane * stride + k);
                let square: [[R; SIDE]; SIDE] = std::array::from_fn(|i| {
                    from.add(i * stride).cast::<[R; SIDE]>().read_unaligned()
                });
                let columns: [[R; SIDE]; SIDE] =
                    std::array::from_fn(|i| std::array::from_fn(|j| square[j][i] * factor));
                for (i, column) in columns.into_iter().enumerate() {
                    let to = into.add((k + i) * width + lane);
                    to.cast::<[R; SIDE]>().write_unaligned(column);
                }
            }
        }
        for lane in 0..width {
            let done = if lane < whole[0] { whole[1] } else { 0 };
            for k in done..depth {
                let value = match lane < count {
                    true => *rows.add(lane * stride + k) * factor,
                    false => R::ZERO,
                };
                *into.add(k * width + lane) = value;
            }
        }
    }
}

/// The rows of each head one after the other, `[batch, heads, time, stride]` out of `[batch, time, heads, width]`,
/// zeros between the width and the stride.
pub(super) struct PerHead<R> {
    rows: Buffer<R>,
    heads: usize,
    time: usize,
    width: usize,
    /// Whole registers of any kind.
    pub stride: usize,
}

impl<R: Real> PerHead<R> {
    /// Room for it.
    ///
    /// # Safety
    ///
    /// Every head must be [filled](Self::fill) before it is read.
    pub unsafe fn uninit([batch, time, heads, width]: [usize; 4]) -> Self {
        let stride = width.next_multiple_of(LINE / size_of::<R>());
        // SAFETY: by the caller's promise.
        let rows = unsafe { Buffer::uninit(batch * time * heads * stride) };
        Self {
            rows,
            heads,
            time,
            width,
            stride,
        }
    }

    pub fn shared(&mut self) -> Shared<R> {
        self.rows.shared()
    }

    /// The first element of a head's rows.
    pub fn at(&self, b: usize, head: usize) -> usize {
        (b * self.heads + head) * self.time * self.stride
    }

    /// Copies one head.
    ///
    /// # Safety
    ///
    /// `to` must be that of this buffer, and nobody else may use the head.
    pub unsafe fn fill(&self, to: Shared<R>, from: &[R], b: usize, head: usize) {
        for t in 0..self.time {
            let at = ((b * self.time + t) * self.heads + head) * self.width;
            let row = &from[at..at + self.width];
            // SAFETY: a row of the head, by the caller's promise.
            unsafe {
                let to = to.at(self.at(b, head) + t * self.stride);
                to.copy_from_nonoverlapping(row.as_ptr(), self.width);
                to.add(self.width).write_bytes(0, self.stride - self.width);
            }
        }
    }
}
