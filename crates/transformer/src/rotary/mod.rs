//! Rotary positions: pairs of a head's dimensions turned by angles that grow with the position.

mod config;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod cpu;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod gradient;
#[cfg(any(feature = "ndarray", feature = "flex"))]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;
mod reference;

use std::borrow::Cow;
use std::sync::Arc;

use burn::tensor::{DType, Tensor};

use crate::positions::{KEPT, Rows, Table, check_offsets};
pub use config::{RotaryConfig, RotaryScaling};
#[cfg(any(feature = "ndarray", feature = "flex"))]
pub(crate) use cpu::turn_heads;

/// Rotary positions (Su et al. 2021, <https://arxiv.org/abs/2104.09864>): the score of a turned query and a
/// turned key depends on the distance between them, and not on where they are.
///
/// Pair i of the dimensions at position p, `(a, b)`, becomes `(a cos - b sin, a sin + b cos)` of the angle
/// `p * frequency(i)`. It has no parameters; in a module it is a field to be skipped, `#[module(skip)]`.
/// Cosines and sines are computed in `f64`, rounded once to the type of the input, and kept up to the
/// furthest position that was asked for; clones share them, so the layers of a model best have clones of one.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_transformer::RotaryConfig;
///
/// let device = seq_transformer::device();
/// let rotary = RotaryConfig::new(8).init();
/// let q = Tensor::<4>::random([1, 5, 2, 8], Distribution::Default, &device);
/// let whole = rotary.forward(q.clone(), &[0]);
/// // The last step, as in a stream: it is at position 4.
/// let last = rotary.forward(q.narrow(1, 4, 1), &[4]);
/// last.into_data().assert_eq(&whole.narrow(1, 4, 1).into_data(), true);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Rotary {
    config: RotaryConfig,
    /// Of sequences that need no scaling by their length.
    frequencies: Arc<[f64]>,
    attention_factor: f64,
    table: Arc<Table>,
}

/// How vectors are turned.
#[derive(Debug, Clone)]
pub struct Turn<'a> {
    /// Of a position the cosines of all pairs, then the sines.
    rows: Rows,
    /// The row of the first step, for every sequence or for all.
    starts: Cow<'a, [usize]>,
    d_rotary: usize,
    interleaved: bool,
    /// Whether by negative angles.
    back: bool,
}

#[cfg(any(feature = "ndarray", feature = "flex"))]
impl Turn<'_> {
    /// The rows of the table.
    pub(crate) fn rows(&self) -> &Rows {
        &self.rows
    }

    /// The row of the first step of a sequence.
    pub(crate) fn start(&self, sequence: usize) -> usize {
        self.starts[sequence.min(self.starts.len() - 1)]
    }

    /// By the negative angles.
    fn back(&self) -> Turn<'static> {
        Turn {
            rows: self.rows.clone(),
            starts: self.starts.to_vec().into(),
            d_rotary: self.d_rotary,
            interleaved: self.interleaved,
            back: !self.back,
        }
    }
}

impl Rotary {
    fn new(config: RotaryConfig) -> Self {
        Self {
            frequencies: config.frequencies(0).into(),
            attention_factor: config.attention_factor(),
            table: Arc::new(Table::new(config.rotary_width())),
            config,
        }
    }

    /// The options that it was made of.
    pub fn config(&self) -> &RotaryConfig {
        &self.config
    }

    /// The angle of every pair at position 1 in radians, in sequences of so many steps; the number counts
    /// with [`DynamicNtk`](RotaryScaling::DynamicNtk) alone.
    pub fn frequencies(&self, length: usize) -> Cow<'_, [f64]> {
        match self.depends_on(length) {
            true => self.config.frequencies(length).into(),
            false => Cow::Borrowed(&self.frequencies),
        }
    }

    /// What turned dimensions are multiplied by as well; 1 but for [`Yarn`](RotaryScaling::Yarn).
    pub fn attention_factor(&self) -> f64 {
        self.attention_factor
    }

    /// Turns `x` `[batch, time, heads, d_head]`, queries or keys; step t of row b is at position
    /// `offsets[b] + t`. There are as many offsets as rows, or one for all.
    ///
    /// On CPU backends, in `f32` and `f64`, it is one pass, in place where no other tensor shares the
    /// memory of `x`.
    ///
    /// # Panics
    ///
    /// When the shape or the number of offsets does not fit, naming both.
    pub fn forward(&self, x: Tensor<4>, offsets: &[usize]) -> Tensor<4> {
        let turn = self.turn(&x, offsets);
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        if ops::has_kernel(&x) {
            return ops::run(x, &turn);
        }
        reference::run(x, &turn)
    }

    /// The specification of [`forward`](Self::forward), in plain tensor operations.
    ///
    /// # Panics
    ///
    /// As `forward` does.
    pub fn reference(&self, x: Tensor<4>, offsets: &[usize]) -> Tensor<4> {
        let turn = self.turn(&x, offsets);
        reference::run(x, &turn)
    }

    fn turn<'a>(&self, x: &Tensor<4>, offsets: &'a [usize]) -> Turn<'a> {
        let [batch, time, _, width] = x.dims();
        assert_eq!(
            width,
            self.config.d_head,
            "the input has shape {:?}, the rotation is of heads [{}]",
            x.dims(),
            self.config.d_head
        );
        let offsets = check_offsets(&x.dims(), batch, offsets);
        self.turn_of(x.dtype(), time, offsets)
    }

    /// Of `time` steps from each of the offsets on.
    pub(crate) fn turn_of<'a>(&self, dtype: DType, time: usize, offsets: &'a [usize]) -> Turn<'a> {
        let end = offsets.iter().max().map_or(0, |last| last + time);
        let (rows, starts) = if end > KEPT || self.depends_on(end) {
            let frequencies = self.frequencies(end);
            let positions = offsets.iter().flat_map(|&offset| offset..offset + time);
            let fill = |position, row: &mut [f64]| self.fill(&frequencies, position, row);
            let rows = self.table.passing(dtype, positions, fill);
            let starts = (0..offsets.len()).map(|row| row * time).collect();
            (rows, Cow::Owned(starts))
        } else {
            let fill = |position, row: &mut [f64]| self.fill(&self.frequencies, position, row);
            (self.table.rows(dtype, end, fill), offsets.into())
        };
        Turn {
            rows,
            starts,
            d_rotary: self.config.rotary_width(),
            interleaved: self.config.interleaved,
            back: false,
        }
    }

    fn depends_on(&self, length: usize) -> bool {
        match self.config.scaling {
            Some(RotaryScaling::DynamicNtk { max_positions, .. }) => length > max_positions,
            _ => false,
        }
    }

    /// A position's cosines and sines.
    fn fill(&self, frequencies: &[f64], position: usize, row: &mut [f64]) {
        let (cosines, sines) = row.split_at_mut(frequencies.len());
        for ((cos, sin), frequency) in cosines.iter_mut().zip(sines).zip(frequencies) {
            let angle = position as f64 * frequency;
            *cos = angle.cos() * self.attention_factor;
            *sin = angle.sin() * self.attention_factor;
        }
    }
}
