//! Positions that are added to the input, and the slopes of linear biases.

mod table;

use std::sync::Arc;

use burn::config::Config;
use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::tensor::{Device, Int, Tensor, TensorData};
use seq_core::ConfigError;

pub(crate) use table::{KEPT, Rows, Table};

/// The slope of every head of attention with linear biases, ALiBi (Press et al. 2022,
/// <https://arxiv.org/abs/2108.12409>): head h adds `-slopes[h] * distance` to its scores.
///
/// For a power of two they are a geometric series from `2^(-8 / num_heads)` to `2^-8`. Otherwise they are
/// those of the next lower power of two, then every other one of the next higher power, as in the paper's
/// code and in BLOOM.
///
/// ```
/// use seq_transformer::alibi_slopes;
///
/// assert_eq!(alibi_slopes(4), [0.25, 0.0625, 0.015625, 0.00390625]);
/// assert_eq!(alibi_slopes(3), [0.0625, 0.00390625, 0.25]);
/// ```
pub fn alibi_slopes(num_heads: usize) -> Vec<f64> {
    let Some(exponent) = num_heads.checked_ilog2() else {
        return Vec::new();
    };
    let series = |heads: usize| (1..=heads).map(move |i| (-8.0 * i as f64 / heads as f64).exp2());
    let lower = 1 << exponent;
    let others = series(2 * lower).step_by(2);
    series(lower).chain(others).take(num_heads).collect()
}

/// The sinusoids of the first `positions` positions (Vaswani et al. 2017,
/// <https://arxiv.org/abs/1706.03762>), `[positions, d_model]` in row-major order.
///
/// Dimension `2 i` is `sin(position / 10000^(2 i / d_model))` and `2 i + 1` is the cosine of the same; with an
/// odd `d_model` the last sine has no cosine.
///
/// ```
/// let table = seq_transformer::sinusoidal(2, 3);
/// let sines = [0.0, 1.0, 0.0, 1_f64.sin(), 1_f64.cos(), 10000_f64.powf(-2.0 / 3.0).sin()];
/// assert!(table.iter().zip(sines).all(|(found, expected)| (found - expected).abs() < 1e-15));
/// ```
pub fn sinusoidal(positions: usize, d_model: usize) -> Vec<f64> {
    let mut table = vec![0.0; positions * d_model];
    let rows = table.chunks_exact_mut(d_model.max(1)).enumerate();
    rows.for_each(|(position, row)| sinusoids(position, row));
    table
}

fn sinusoids(position: usize, row: &mut [f64]) {
    let d_model = row.len() as f64;
    for (pair, waves) in row.chunks_mut(2).enumerate() {
        let angle = position as f64 * 10000_f64.powf(-2.0 * pair as f64 / d_model);
        waves[0] = angle.sin();
        if let Some(wave) = waves.get_mut(1) {
            *wave = angle.cos();
        }
    }
}

/// Configuration of positions that are added to the input, made with [`init`](PositionsConfig::init).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use seq_transformer::PositionsConfig;
///
/// // Those of GPT-2.
/// let positions = PositionsConfig::learned(1024).init(768, &seq_transformer::device());
/// assert_eq!(positions.max_positions(), Some(1024));
/// # }
/// ```
#[derive(Config, Debug, Copy, PartialEq, Eq)]
pub enum PositionsConfig {
    /// A vector for every position, which is learned.
    Learned {
        /// How many positions there are.
        max_positions: usize,
        /// How many rows of the table come before that of position 0: 2 in OPT's checkpoints, else 0.
        offset: usize,
    },
    /// The sinusoids of [`sinusoidal`], for any number of positions.
    Sinusoidal,
}

impl PositionsConfig {
    /// Learned positions whose table begins with position 0.
    pub fn learned(max_positions: usize) -> Self {
        Self::Learned {
            max_positions,
            offset: 0,
        }
    }

    /// Makes sure that there are positions of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_transformer::PositionsConfig;
    ///
    /// let error = PositionsConfig::learned(0).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "max_positions must be at least 1, is 0");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        match *self {
            Self::Learned { max_positions, .. } => {
                ConfigError::sizes([("max_positions", max_positions)])
            }
            Self::Sinusoidal => Ok(()),
        }
    }

    /// Makes the positions, for vectors of `d_model` numbers; learned ones begin normally distributed with
    /// a standard deviation of 0.02, as in GPT-2.
    ///
    /// # Panics
    ///
    /// When `d_model` is zero or [`validate`](Self::validate) finds an error.
    pub fn init(&self, d_model: usize, device: &Device) -> PositionalEmbedding {
        let valid = ConfigError::sizes([("d_model", d_model)]).and_then(|()| self.validate());
        valid.unwrap_or_else(|error| panic!("{error}"));
        let normal = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        let (weight, offset) = match *self {
            Self::Learned {
                max_positions,
                offset,
            } => (
                Some(normal.init([max_positions + offset, d_model], device)),
                offset,
            ),
            Self::Sinusoidal => (None, 0),
        };
        PositionalEmbedding {
            weight,
            offset,
            sinusoids: Sinusoids {
                d_model,
                table: Arc::new(Table::new(d_model)),
            },
        }
    }
}

/// Adds a vector to every step that says where the step is.
///
/// Learned vectors are the rows of a parameter (Gehring et al. 2017, <https://arxiv.org/abs/1705.03122>, and
/// as in GPT-2), and there are only so many. Sinusoids ([`sinusoidal`]) are computed in `f64`, rounded once,
/// and kept up to the furthest position that was asked for.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_transformer::PositionsConfig;
///
/// let device = seq_transformer::device();
/// let positions = PositionsConfig::Sinusoidal.init(4, &device);
/// let y = positions.forward(Tensor::zeros([2, 1, 4], &device), &[0, 7]);
/// let expected = seq_transformer::sinusoidal(8, 4)[28] as f32;
/// assert_eq!(y.slice([1..2, 0..1, 0..1]).into_scalar::<f32>(), expected);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct PositionalEmbedding {
    /// `[offset + max_positions, d_model]`; none for sinusoids.
    pub weight: Option<Param<Tensor<2>>>,
    /// How many rows of the weight come before that of position 0.
    #[module(skip)]
    pub offset: usize,
    #[module(skip)]
    sinusoids: Sinusoids,
}

/// The width of the vectors, and their table where they are not learned.
#[derive(Debug, Clone)]
struct Sinusoids {
    d_model: usize,
    table: Arc<Table>,
}

impl PositionalEmbedding {
    /// How many positions there are; none where there is no end.
    pub fn max_positions(&self) -> Option<usize> {
        let weight = self.weight.as_ref()?;
        let [rows, _] = weight.dims();
        Some(rows.saturating_sub(self.offset))
    }

    /// Adds the vector of position `offsets[b] + t` to step t of row b of `x` `[batch, time, d_model]`. There
    /// are as many offsets as rows, or one for all.
    ///
    /// # Panics
    ///
    /// When the shape or the number of offsets does not fit, naming both, or when there are fewer learned
    /// positions than are asked for, naming the position and how many there are.
    pub fn forward(&self, x: Tensor<3>, offsets: &[usize]) -> Tensor<3> {
        let [batch, time, width] = x.dims();
        let d_model = self.sinusoids.d_model;
        assert_eq!(
            width,
            d_model,
            "the input has shape {:?}, the positions [{d_model}]",
            x.dims()
        );
        let offsets = check_offsets(&x.dims(), batch, offsets);
        if offsets.is_empty() || time == 0 {
            return x;
        }
        let vectors = match &self.weight {
            Some(weight) => self.learned(weight.val(), offsets, time),
            None => self.sinusoids.vectors(&x, offsets, time),
        };
        x + vectors
    }

    /// The vectors of `time` positions from every offset on, `[offsets, time, d_model]`.
    fn learned(&self, weight: Tensor<2>, offsets: &[usize], time: usize) -> Tensor<3> {
        let [rows, d_model] = weight.dims();
        let count = rows.saturating_sub(self.offset);
        let end = offsets.iter().max().map_or(0, |last| last + time);
        assert!(
            end <= count,
            "position {} was asked for, and there are {count}: the table has shape [{rows}, {d_model}], \
             the offset is {}",
            end.saturating_sub(1),
            self.offset
        );
        let vectors = match *offsets {
            [first] => weight.narrow(0, self.offset + first, time),
            _ => {
                let positions = offsets.iter().flat_map(|&first| first..first + time);
                let indices: Vec<i64> = positions
                    .map(|position| (self.offset + position) as i64)
                    .collect();
                let indices = TensorData::new(indices, [offsets.len() * time]);
                let indices = Tensor::<1, Int>::from_data(indices, &weight.device());
                weight.select(0, indices)
            }
        };
        vectors.reshape([offsets.len(), time, d_model])
    }
}

impl Sinusoids {
    /// The vectors of `time` positions from every offset on, `[offsets, time, d_model]`.
    fn vectors(&self, x: &Tensor<3>, offsets: &[usize], time: usize) -> Tensor<3> {
        let end = offsets.iter().max().map_or(0, |last| last + time);
        let rows = match end <= KEPT {
            true => {
                let rows = self.table.rows(x.dtype(), end, sinusoids);
                rows.stretches(offsets, time, self.d_model)
            }
            false => {
                let positions = offsets.iter().flat_map(|&first| first..first + time);
                let rows = self.table.passing(x.dtype(), positions, sinusoids);
                let starts: Vec<usize> = (0..offsets.len()).map(|row| row * time).collect();
                rows.stretches(&starts, time, self.d_model)
            }
        };
        Tensor::from_data(rows, (&x.device(), x.dtype()))
    }
}

/// Makes sure that there is an offset for every row of an input or one for all; one that all rows share is
/// given once.
pub(crate) fn check_offsets<'a>(
    shape: &[usize],
    batch: usize,
    offsets: &'a [usize],
) -> &'a [usize] {
    assert!(
        [1, batch].contains(&offsets.len()),
        "the input has shape {shape:?}, the offsets [{}]",
        offsets.len()
    );
    match offsets {
        [first, others @ ..] if others.iter().all(|offset| offset == first) => &offsets[..1],
        _ => offsets,
    }
}
