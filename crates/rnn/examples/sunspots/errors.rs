//! How far forecasts are off, and the two forecasts that any other must beat.

/// Errors in the unit of the series.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Errors {
    /// The mean absolute error.
    pub mae: f64,
    /// The root of the mean squared error.
    pub rmse: f64,
}

impl Errors {
    /// Of forecasts and what came; NaN where there are none.
    pub fn of(pairs: impl IntoIterator<Item = (f32, f32)>) -> Self {
        let (mut n, mut absolute, mut squared) = (0.0, 0.0, 0.0);
        for (forecast, truth) in pairs {
            let error = f64::from(forecast) - f64::from(truth);
            n += 1.0;
            absolute += error.abs();
            squared += error * error;
        }
        Self {
            mae: absolute / n,
            rmse: (squared / n).sqrt(),
        }
    }

    /// Of the forecasts for so many years `ahead`, at least 1. `forecasts[t]` are those that were made
    /// for the years from `truth[t]` on; where it ends before, there is none.
    pub fn ahead(ahead: usize, forecasts: &[Vec<f32>], truth: &[f32]) -> Self {
        let made = forecasts.iter().map(|path| path.get(ahead - 1));
        let pairs = made.zip(truth.iter().skip(ahead - 1));
        Self::of(pairs.filter_map(|(forecast, &truth)| Some((*forecast?, truth))))
    }
}

/// The last value of `history`, for each of the next `len` years.
pub fn naive(history: &[f32], len: usize) -> Vec<f32> {
    vec![history[history.len() - 1]; len]
}

/// The last `period` of `history` again and again, for the next `len` years.
pub fn seasonal_naive(history: &[f32], period: usize, len: usize) -> Vec<f32> {
    let last = &history[history.len() - period..];
    last.iter().copied().cycle().take(len).collect()
}
