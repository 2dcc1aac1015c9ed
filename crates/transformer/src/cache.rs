use std::ops::Range;

use burn::tensor::{DType, Device, Tensor};
use seq_core::{Lengths, SequenceState, StateMapper};
use thiserror::Error;

/// How many steps there is room for at first, in steps of a stream.
const ROOM: usize = 32;

/// The keys and values of what an attention layer has read, its state.
///
/// There is room beyond what is held; when it is used up, it doubles, and a step writes its key and value
/// where they stay. Under a window of `w` steps there is room for `2 w` at most: when that is full, the `w - 1`
/// last ones move to the front, so that they always lie in order.
///
/// A clone costs nothing until one of the two is written to: a prefix may be read once and continued in
/// several ways.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_transformer::{MultiHeadAttentionConfig, SequenceLayer};
///
/// let device = seq_transformer::device();
/// let layer = MultiHeadAttentionConfig::new(8, 2).init(&device);
/// let (_, prefix) = layer.forward(Tensor::ones([1, 5, 8], &device), None);
/// let (_, one) = layer.step(Tensor::ones([1, 8], &device), prefix.clone());
/// let (_, other) = layer.step(Tensor::zeros([1, 8], &device), prefix.clone());
/// let read = [&prefix, &one, &other].map(|cache| cache.positions()[0]);
/// assert_eq!(read, [5, 6, 6]);
/// let back = one.rewind(3).unwrap();
/// assert_eq!(back.positions(), [3]);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct KvCache {
    /// `[batch, room, num_kv_heads, d_head]`
    keys: Tensor<4>,
    /// As the keys.
    values: Tensor<4>,
    /// How many steps of each row are held, from the first place on.
    held: Vec<usize>,
    /// How many steps each row has read.
    read: Vec<usize>,
    /// How many steps the layer sees at once, if not all.
    window: Option<usize>,
}

/// Why a cache could not be [rewound](KvCache::rewind).
#[derive(Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum RewindError {
    /// The row has not come as far.
    #[error("row {row} has read {read} steps, it cannot be rewound to {length}")]
    NotReached {
        /// The row of the batch.
        row: usize,
        /// How many steps it has read.
        read: usize,
        /// The length asked for.
        length: usize,
    },
    /// What the steps from there on would see has left the window and was dropped.
    #[error("row {row} holds the steps from {first} on, the one after {length} needs earlier ones")]
    Dropped {
        /// The row of the batch.
        row: usize,
        /// The first step that is still held.
        first: usize,
        /// The length asked for.
        length: usize,
    },
}

impl KvCache {
    /// What `batch` rows hold before they begin.
    pub(crate) fn empty(
        [batch, heads, d_head]: [usize; 3],
        options: (&Device, DType),
        window: Option<usize>,
    ) -> Self {
        let zeros = || Tensor::zeros([batch, ROOM, heads, d_head], options);
        Self {
            keys: zeros(),
            values: zeros(),
            held: vec![0; batch],
            read: vec![0; batch],
            window,
        }
    }

    /// What rows hold that have read these steps, `[batch, time, num_kv_heads, d_head]`, `counts` of each.
    pub(crate) fn of(
        keys: Tensor<4>,
        values: Tensor<4>,
        counts: Vec<usize>,
        window: Option<usize>,
    ) -> Self {
        let cache = Self {
            keys,
            values,
            held: counts.clone(),
            read: counts,
            window,
        };
        cache.trim()
    }

    /// How many steps each row has read: the position of its next one.
    pub fn positions(&self) -> Vec<usize> {
        self.read.clone()
    }

    /// How many steps of each row are held; fewer than it has read where a window has passed on.
    pub fn held(&self) -> &[usize] {
        &self.held
    }

    /// For how many steps there is room, `[batch, room, num_kv_heads, d_head]` the shape of keys and values.
    pub fn room(&self) -> usize {
        self.keys.dims()[1]
    }

    /// How many heads of keys there are, and their width.
    pub(crate) fn heads(&self) -> [usize; 2] {
        let [_, _, heads, width] = self.keys.dims();
        [heads, width]
    }

    /// The keys `[batch, room, num_kv_heads, d_head]`, of which the first [`held`](Self::held) count.
    pub fn keys(&self) -> Tensor<4> {
        self.keys.clone()
    }

    /// The values, as the [`keys`](Self::keys).
    pub fn values(&self) -> Tensor<4> {
        self.values.clone()
    }

    /// The cache as it was when every row had read `length` steps.
    ///
    /// # Errors
    ///
    /// When a row has not read as many, or its next step would see what has been dropped.
    pub fn rewind(self, length: usize) -> Result<Self, RewindError> {
        let mut held = self.held.clone();
        for (row, (held, &read)) in held.iter_mut().zip(&self.read).enumerate() {
            if length > read {
                return Err(RewindError::NotReached { row, read, length });
            }
            let first = read - *held;
            let seen = self
                .window
                .map_or(0, |window| (length + 1).saturating_sub(window));
            if seen < first {
                return Err(RewindError::Dropped { row, first, length });
            }
            *held = length - first;
        }
        Ok(Self {
            read: vec![length; held.len()],
            held,
            ..self
        })
    }

    /// Takes in steps `[batch, time, num_kv_heads, d_head]`, `counts` of each row. Gives the place of each row's
    /// first new step, too.
    pub(crate) fn append(
        mut self,
        keys: Tensor<4>,
        values: Tensor<4>,
        counts: &[usize],
    ) -> (Self, Vec<usize>) {
        let [_, time, ..] = keys.dims();
        self.make_room(time);
        let first = self.held.clone();
        let uniform = first.windows(2).all(|pair| pair[0] == pair[1]);
        let [batch, _, heads, width] = keys.dims();
        let mut write = |row: Range<usize>, at: usize, keys, values| {
            let places = [row, at..at + time, 0..heads, 0..width];
            let [into_keys, into_values] = [&mut self.keys, &mut self.values];
            write_in_place(into_keys, places.clone(), keys);
            write_in_place(into_values, places, values);
        };
        if uniform {
            write(0..batch, first.first().copied().unwrap_or(0), keys, values);
        } else {
            for (row, &at) in first.iter().enumerate() {
                let of_row = |x: &Tensor<4>| x.clone().narrow(0, row, 1);
                write(row..row + 1, at, of_row(&keys), of_row(&values));
            }
        }
        for (row, &count) in counts.iter().enumerate() {
            self.held[row] += count;
            self.read[row] += count;
        }
        (self, first)
    }

    /// Takes in one step, which `write` writes to the places `held` of the keys and values given, where each row has
    /// `read` as many; it gives them back beside what else it has made.
    #[cfg(any(feature = "ndarray", feature = "flex"))]
    pub(crate) fn step<T>(
        mut self,
        write: impl FnOnce([Tensor<4>; 2], &[usize], &[usize]) -> (T, [Tensor<4>; 2]),
    ) -> (T, Self) {
        self.make_room(1);
        let (made, [keys, values]) = write([self.keys, self.values], &self.held, &self.read);
        let (mut held, mut read) = (self.held, self.read);
        held.iter_mut()
            .chain(&mut read)
            .for_each(|count| *count += 1);
        let cache = Self {
            keys,
            values,
            held,
            read,
            window: self.window,
        };
        (made, cache)
    }

    /// The element type of keys and values.
    #[cfg(any(feature = "ndarray", feature = "flex"))]
    pub(crate) fn dtype(&self) -> DType {
        self.keys.dtype()
    }

    /// Drops what a window has left behind, if that is much.
    pub(crate) fn trim(mut self) -> Self {
        if let Some(window) = self.window
            && self.room() > 2 * window.max(ROOM)
        {
            self.slide(window, 0);
        }
        self
    }

    fn make_room(&mut self, time: usize) {
        let longest = self.held.iter().copied().max().unwrap_or(0);
        let room = self.room();
        if longest + time <= room {
            return;
        }
        match self.window {
            Some(window) if longest >= window && room >= 2 * window => self.slide(window, time),
            _ => {
                let target = (2 * room).max(longest + time).max(ROOM);
                let target = match self.window {
                    Some(window) => target.min((2 * window).max(longest + time)),
                    None => target,
                };
                self.keys = rows(&self.keys, longest, target);
                self.values = rows(&self.values, longest, target);
            }
        }
    }

    /// Moves each row's last `window - 1` steps to the front, with room for a window and `time` more.
    fn slide(&mut self, window: usize, time: usize) {
        let kept: Vec<usize> = self.held.iter().map(|&held| held.min(window - 1)).collect();
        let room = (2 * window).max(window + time);
        let moved = |x: &Tensor<4>| {
            let [batch, _, heads, width] = x.dims();
            let mut new = Tensor::zeros([batch, room, heads, width], (&x.device(), x.dtype()));
            for (row, (&held, &kept)) in self.held.iter().zip(&kept).enumerate() {
                if kept > 0 {
                    let part = x.clone().narrow(0, row, 1).narrow(1, held - kept, kept);
                    write_in_place(&mut new, [row..row + 1, 0..kept, 0..heads, 0..width], part);
                }
            }
            new
        };
        (self.keys, self.values) = (moved(&self.keys), moved(&self.values));
        self.held = kept;
    }
}

/// Writes a part without a copy of the whole, where nobody else holds the tensor.
fn write_in_place(into: &mut Tensor<4>, places: [Range<usize>; 4], part: Tensor<4>) {
    let nothing = Tensor::empty([0, 0, 0, 0], (&part.device(), part.dtype()));
    let whole = std::mem::replace(into, nothing);
    *into = whole.slice_assign(places, part);
}

/// The first `count` steps, with room for `room`.
fn rows(x: &Tensor<4>, count: usize, room: usize) -> Tensor<4> {
    let [batch, _, heads, width] = x.dims();
    let mut new = Tensor::zeros([batch, room, heads, width], (&x.device(), x.dtype()));
    if count > 0 {
        let places = [0..batch, 0..count, 0..heads, 0..width];
        write_in_place(&mut new, places, x.clone().narrow(1, 0, count));
    }
    new
}

impl SequenceState for KvCache {
    fn map(mut self, mapper: &mut impl StateMapper) -> Self {
        // The same whatever the chunks were in which it was read.
        if let Some(window) = self.window
            && self.held.iter().any(|&held| held >= window)
        {
            self.slide(window, 0);
        }
        let longest = self.held.iter().copied().max().unwrap_or(0).max(1);
        let held = Lengths::new(self.held.iter().copied());
        let part = |x: Tensor<4>| {
            let [batch, _, heads, width] = x.dims();
            let x = x
                .narrow(1, 0, longest)
                .reshape([batch, longest, heads * width]);
            held.clear(x).reshape([batch, longest, heads, width])
        };
        let counts = self.held.iter().zip(&self.read);
        let counts = counts.map(|(&held, &read)| [held, read]).collect();
        let keys = mapper.growing("keys", part(self.keys), 1);
        let values = mapper.growing("values", part(self.values), 1);
        let counts = mapper.counts("steps", counts);
        let (room, found) = (keys.dims()[1], values.dims()[1]);
        mapper.check("keys", room > 0, "room for a step", room);
        let expected = format_args!("as many steps as the keys, {room}");
        mapper.check("values", found == room, expected, found);
        for &[held, read] in &counts {
            let expected = format_args!("at most {room} steps held, as there are keys");
            mapper.check("steps", held <= room, expected, held);
            let seen = self.window.map_or(read, |window| read.min(window - 1));
            let expected = format_args!("{seen} to {read} steps held of {read} read");
            mapper.check("steps", (seen..=read).contains(&held), expected, held);
        }
        Self {
            keys,
            values,
            held: counts.iter().map(|&[held, _]| held).collect(),
            read: counts.iter().map(|&[_, read]| read).collect(),
            window: self.window,
        }
    }

    fn batch(&self) -> usize {
        self.held.len()
    }
}
