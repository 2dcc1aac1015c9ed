//! Numbers that belong to positions.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use burn::tensor::{DType, TensorData};

/// So many positions are kept at most; in heads of 128 dimensions they take 64 MiB.
pub(crate) const KEPT: usize = 1 << 17;

/// A row of numbers for every position, computed in `f64` and rounded once; those up to the furthest
/// position that was asked for are kept.
pub(crate) struct Table {
    width: usize,
    f32: Kept<f32>,
    f64: Kept<f64>,
}

type Kept<R> = Mutex<Arc<Vec<R>>>;

/// Rows one after the other, in the type of the tensors that they are for.
#[derive(Debug, Clone)]
pub(crate) enum Rows {
    F32(Arc<Vec<f32>>),
    F64(Arc<Vec<f64>>),
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table")
            .field("width", &self.width)
            .finish_non_exhaustive()
    }
}

impl Table {
    /// Rows of so many numbers, at least one.
    pub fn new(width: usize) -> Self {
        Self {
            width,
            f32: Kept::default(),
            f64: Kept::default(),
        }
    }

    /// The rows of at least the first `positions`, which are [`KEPT`] at most; `fill` writes one.
    pub fn rows(&self, dtype: DType, positions: usize, fill: impl Fn(usize, &mut [f64])) -> Rows {
        let width = self.width;
        match dtype {
            DType::F64 => Rows::F64(grown(&self.f64, width, positions, |x| x, fill)),
            _ => Rows::F32(grown(&self.f32, width, positions, |x| x as f32, fill)),
        }
    }

    /// The rows of some positions, which are not kept.
    pub fn passing(
        &self,
        dtype: DType,
        positions: impl Iterator<Item = usize>,
        fill: impl Fn(usize, &mut [f64]),
    ) -> Rows {
        let width = self.width;
        match dtype {
            DType::F64 => Rows::F64(Arc::new(written(vec![], width, positions, |x| x, fill))),
            _ => {
                let rows = written(vec![], width, positions, |x| x as f32, fill);
                Rows::F32(Arc::new(rows))
            }
        }
    }
}

impl Rows {
    /// Stretches of `time` rows of `width` numbers, `[starts, time, width]`.
    pub fn stretches(&self, starts: &[usize], time: usize, width: usize) -> TensorData {
        fn gather<R: Copy>(rows: &[R], starts: &[usize], len: usize, width: usize) -> Vec<R> {
            let stretches = starts.iter().map(|start| &rows[start * width..][..len]);
            stretches.flatten().copied().collect()
        }
        let (len, shape) = (time * width, [starts.len(), time, width]);
        match self {
            Self::F32(rows) => TensorData::new(gather(rows, starts, len, width), shape),
            Self::F64(rows) => TensorData::new(gather(rows, starts, len, width), shape),
        }
    }
}

fn grown<R: Copy>(
    kept: &Kept<R>,
    width: usize,
    positions: usize,
    round: impl Fn(f64) -> R,
    fill: impl Fn(usize, &mut [f64]),
) -> Arc<Vec<R>> {
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    let have = kept.len() / width;
    if have < positions {
        // Twice as many as before, so that a long stream copies each row once or twice.
        let end = positions.max(2 * have).clamp(64, KEPT);
        let mut rows = Vec::with_capacity(end * width);
        rows.extend_from_slice(&kept);
        *kept = Arc::new(written(rows, width, have..end, round, fill));
    }
    Arc::clone(&kept)
}

fn written<R>(
    mut rows: Vec<R>,
    width: usize,
    positions: impl Iterator<Item = usize>,
    round: impl Fn(f64) -> R,
    fill: impl Fn(usize, &mut [f64]),
) -> Vec<R> {
    let mut row = vec![0.0; width];
    for position in positions {
        fill(position, &mut row);
        rows.extend(row.iter().map(|&x| round(x)));
    }
    rows
}
