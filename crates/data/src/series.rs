//! Time series for forecasting: two long records, windows of past and future, standardization.

use burn::Tensor;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use crate::{DataError, positive, stack, window_count};

/// The mean number of sunspots in each year from 1700 to 2008, 309 pairs of year and number.
///
/// ```
/// let sunspots = seq_data::series::sunspots();
/// assert_eq!(sunspots[0], (1700, 5.0));
/// ```
pub fn sunspots() -> Vec<(u16, f32)> {
    let file = include_str!("../data/series/sunspots-yearly.csv");
    let parse = |line: &str| {
        let (year, number) = line.split_once(',')?;
        Some((year.parse().ok()?, number.parse().ok()?))
    };
    file.lines()
        .skip(1)
        .map(|line| parse(line).expect("a bundled line is year,number"))
        .collect()
}

/// One week of [`mauna_loa_co2`].
///
/// ```
/// let week = seq_data::series::mauna_loa_co2()[0];
/// assert_eq!((week.year, week.month, week.day, week.ppm), (1958, 3, 29, Some(316.1)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Co2Week {
    /// The year of the date in the record.
    pub year: u16,
    /// The month, 1 to 12.
    pub month: u8,
    /// The day of the month, a Saturday.
    pub day: u8,
    /// The concentration of CO2 in parts per million; none was measured in 59 weeks.
    pub ppm: Option<f32>,
}

/// Weekly CO2 in the air of Mauna Loa from March 1958 to December 2001: 2,284 weeks, 59 unmeasured.
///
/// ```
/// use seq_data::series::{carry_forward, mauna_loa_co2};
///
/// let ppm: Vec<_> = mauna_loa_co2().iter().map(|week| week.ppm).collect();
/// assert_eq!(ppm.iter().filter(|ppm| ppm.is_none()).count(), 59);
/// assert!(carry_forward(&ppm).iter().all(|ppm| ppm.is_finite()));
/// ```
pub fn mauna_loa_co2() -> Vec<Co2Week> {
    let file = include_str!("../data/series/mauna-loa-co2-weekly.csv");
    let parse = |line: &str| {
        let (date, ppm) = line.split_once(',')?;
        Some(Co2Week {
            year: date.get(..4)?.parse().ok()?,
            month: date.get(4..6)?.parse().ok()?,
            day: date.get(6..)?.parse().ok()?,
            ppm: match ppm {
                "" => None,
                ppm => Some(ppm.parse().ok()?),
            },
        })
    };
    file.lines()
        .skip(1)
        .map(|line| parse(line).expect("a bundled line is yyyymmdd,ppm"))
        .collect()
}

/// Fills each gap with the last value before it, which looks into no future, unlike interpolation.
///
/// A gap at the very beginning becomes NaN.
///
/// ```
/// let filled = seq_data::series::carry_forward(&[Some(1.0), None, None, Some(4.0)]);
/// assert_eq!(filled, [1.0, 1.0, 1.0, 4.0]);
/// ```
pub fn carry_forward(series: &[Option<f32>]) -> Vec<f32> {
    let mut last = f32::NAN;
    series
        .iter()
        .map(|value| {
            last = value.unwrap_or(last);
            last
        })
        .collect()
}

/// Shifts and scales a series to mean 0 and standard deviation 1.
///
/// Fit it on the training part only: the mean of the test part is not known yet when one forecasts.
///
/// ```
/// use seq_data::{series::{Standardize, sunspots}, split_by_position};
///
/// let numbers: Vec<f32> = sunspots().iter().map(|&(_, number)| number).collect();
/// let (train, test) = split_by_position(&numbers, 0.8)?;
/// let scaler = Standardize::fit(train)?;
/// let restored = scaler.invert(&scaler.apply(test));
/// assert!(restored.iter().zip(test).all(|(a, b)| (a - b).abs() < 1e-4));
/// # Ok::<(), seq_data::DataError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standardize {
    /// The mean of the values fitted on.
    pub mean: f32,
    /// Their standard deviation (divided by n, as in scikit-learn), or 1 where all are equal.
    pub std: f32,
}

impl Standardize {
    /// Measures mean and deviation, leaving out NaN.
    ///
    /// Fails with [`DataError::NotFinite`] if nothing else is there, or a value is infinite.
    pub fn fit(series: &[f32]) -> Result<Self, DataError> {
        let known = || series.iter().filter(|x| !x.is_nan()).map(|&x| f64::from(x));
        let n = known().count() as f64;
        let mean = known().sum::<f64>() / n;
        let std = (known().map(|x| (x - mean).powi(2)).sum::<f64>() / n).sqrt() as f32;
        // No value at all gives 0/0 and an infinite one inf - inf: NaN in both cases.
        if std.is_nan() {
            return Err(DataError::NotFinite);
        }
        Ok(Self {
            mean: mean as f32,
            std: if std > 0.0 { std } else { 1.0 },
        })
    }

    /// `(x - mean) / std` of every value; NaN stays NaN.
    pub fn apply(&self, series: &[f32]) -> Vec<f32> {
        series.iter().map(|x| (x - self.mean) / self.std).collect()
    }

    /// `x * std + mean` of every value: the way back.
    pub fn invert(&self, series: &[f32]) -> Vec<f32> {
        series.iter().map(|x| x * self.std + self.mean).collect()
    }
}

/// A piece of the past and what followed. See [`Windows`].
///
/// ```
/// use seq_data::series::Window;
///
/// let window = Window { input: vec![1.0, 2.0, 3.0], target: vec![4.0] };
/// assert_eq!(window.input.len(), 3);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Window {
    /// The values seen, `[window]`.
    pub input: Vec<f32>,
    /// The values to forecast, `[horizon]`.
    pub target: Vec<f32>,
}

/// Every window of a series with its future, a Burn dataset of [`Window`].
///
/// Cut the series with [`split_by_position`](crate::split_by_position) first, so that no window
/// for training sees the time that tests.
///
/// ```
/// use burn::data::dataset::Dataset;
/// use seq_data::series::Windows;
///
/// let windows = Windows::new(&[0.0, 1.0, 2.0, 3.0, 4.0], 3, 1)?;
/// assert_eq!(windows.len(), 2);
/// let window = windows.get(1)?;
/// assert_eq!((window.input, window.target), (vec![1.0, 2.0, 3.0], vec![4.0]));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Windows {
    series: Vec<f32>,
    window: usize,
    horizon: usize,
    starts: Vec<usize>,
}

impl Windows {
    /// All windows of `window` values followed by `horizon` values, one step apart.
    ///
    /// NaN is kept as it is; see [`Self::without_gaps`]. Fails with [`DataError::Zero`] if `window`
    /// or `horizon` is 0, and with [`DataError::TooShort`] if not one fits.
    pub fn new(series: &[f32], window: usize, horizon: usize) -> Result<Self, DataError> {
        positive("window", window)?;
        positive("horizon", horizon)?;
        let count = window_count(series.len(), window.saturating_add(horizon), 1)?;
        Ok(Self {
            series: series.to_vec(),
            window,
            horizon,
            starts: (0..count).collect(),
        })
    }

    /// Only those windows that have no NaN in input or target; there may be none.
    ///
    /// ```
    /// use burn::data::dataset::Dataset;
    /// use seq_data::series::{Windows, mauna_loa_co2};
    ///
    /// let weeks = mauna_loa_co2();
    /// let ppm: Vec<f32> = weeks.iter().map(|week| week.ppm.unwrap_or(f32::NAN)).collect();
    /// let windows = Windows::new(&ppm, 52, 4)?;
    /// assert_eq!(windows.len(), 2229);
    /// assert_eq!(windows.without_gaps().len(), 1743);
    /// # Ok::<(), seq_data::DataError>(())
    /// ```
    pub fn without_gaps(mut self) -> Self {
        let span = self.window + self.horizon;
        let series = &self.series;
        self.starts
            .retain(|&start| !series[start..start + span].iter().any(|x| x.is_nan()));
        self
    }
}

impl Dataset<Window> for Windows {
    fn get(&self, index: usize) -> Result<Window, DatasetError> {
        let start = self.starts[index];
        let (input, rest) = self.series[start..].split_at(self.window);
        Ok(Window {
            input: input.to_vec(),
            target: rest[..self.horizon].to_vec(),
        })
    }

    fn len(&self) -> usize {
        self.starts.len()
    }
}

/// Windows side by side. Made by [`WindowBatcher`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use seq_data::series::WindowBatch;
///
/// let device = Device::default();
/// let batch = WindowBatch {
///     inputs: Tensor::zeros([8, 52, 1], &device),
///     targets: Tensor::zeros([8, 4], &device),
/// };
/// assert_eq!(batch.inputs.dims()[0], batch.targets.dims()[0]);
/// ```
#[derive(Clone, Debug)]
pub struct WindowBatch {
    /// The values seen, one channel, `[batch, window, 1]`.
    pub inputs: Tensor<3>,
    /// The values to forecast, `[batch, horizon]`.
    pub targets: Tensor<2>,
}

/// Stacks [`Window`]s into a [`WindowBatch`].
///
/// Panics if the windows differ in length or there is none.
///
/// ```
/// use burn::data::dataloader::batcher::Batcher;
/// use seq_data::series::{Window, WindowBatcher};
///
/// let window = Window { input: vec![1.0, 2.0, 3.0], target: vec![4.0, 5.0] };
/// let batch = WindowBatcher.batch(vec![window; 8], &Default::default());
/// assert_eq!(batch.inputs.dims(), [8, 3, 1]);
/// assert_eq!(batch.targets.dims(), [8, 2]);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct WindowBatcher;

impl Batcher<Window, WindowBatch> for WindowBatcher {
    fn batch(&self, items: Vec<Window>, device: &Device) -> WindowBatch {
        let inputs: Vec<&[f32]> = items.iter().map(|item| &item.input[..]).collect();
        let targets: Vec<&[f32]> = items.iter().map(|item| &item.target[..]).collect();
        WindowBatch {
            inputs: Tensor::<2>::from_data(stack(&inputs), device).unsqueeze_dim(2),
            targets: Tensor::from_data(stack(&targets), device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::split_by_position;
    use burn::tensor::TensorData;
    use proptest::prelude::*;

    #[test]
    fn the_sunspots_are_whole() {
        let sunspots = sunspots();
        assert_eq!(sunspots.len(), 309);
        assert_eq!((sunspots[0], sunspots[308]), ((1700, 5.0), (2008, 2.9)));
        assert!(sunspots.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
    }

    #[test]
    fn the_co2_record_is_whole() {
        let weeks = mauna_loa_co2();
        let date = |week: &Co2Week| (week.year, week.month, week.day);
        assert_eq!(weeks.len(), 2284);
        assert_eq!(weeks.iter().filter(|week| week.ppm.is_none()).count(), 59);
        assert_eq!(
            (date(&weeks[0]), weeks[0].ppm),
            ((1958, 3, 29), Some(316.1))
        );
        assert_eq!((date(&weeks[6]), weeks[6].ppm), ((1958, 5, 10), None));
        assert_eq!(
            (date(&weeks[2283]), weeks[2283].ppm),
            ((2001, 12, 29), Some(371.5))
        );
        assert!(weeks.windows(2).all(|pair| date(&pair[0]) < date(&pair[1])));
    }

    #[test]
    fn a_gap_at_the_beginning_stays_a_gap() {
        let filled = carry_forward(&[None, Some(2.0), None]);
        assert!(filled[0].is_nan());
        assert_eq!(filled[1..], [2.0, 2.0]);
    }

    #[test]
    fn standardizing_leaves_out_gaps_and_survives_a_constant() {
        let scaler = Standardize::fit(&[1.0, f32::NAN, 3.0]).unwrap();
        assert_eq!((scaler.mean, scaler.std), (2.0, 1.0));
        let scaler = Standardize::fit(&[7.0; 5]).unwrap();
        assert_eq!(scaler.apply(&[7.0, 8.0]), [0.0, 1.0]);
        let stored = serde_json::to_string(&scaler).unwrap();
        assert_eq!(
            serde_json::from_str::<Standardize>(&stored).unwrap(),
            scaler
        );
    }

    #[test]
    fn what_has_no_mean_is_refused() {
        for series in [&[][..], &[f32::NAN], &[1.0, f32::INFINITY]] {
            assert_eq!(Standardize::fit(series), Err(DataError::NotFinite));
        }
    }

    proptest! {
        #[test]
        fn standardized_values_have_mean_0_deviation_1_and_come_back(
            series in prop::collection::vec(-100.0_f32..100.0, 2..50),
        ) {
            let scaler = Standardize::fit(&series).unwrap();
            prop_assume!(scaler.std > 1.0);
            let scaled = scaler.apply(&series);
            let again = Standardize::fit(&scaled).unwrap();
            // Rounding of mean and std to f32: 100 * 2^-24 / std(> 1) is 6e-6, doubled.
            prop_assert!(again.mean.abs() < 1.2e-5 && (again.std - 1.0).abs() < 1.2e-5);
            for (restored, value) in scaler.invert(&scaled).iter().zip(&series) {
                // Four roundings of numbers below 200.
                prop_assert!((restored - value).abs() < 5e-5);
            }
        }

        #[test]
        fn no_window_sees_across_the_split(
            len in 20_usize..60, fraction in 0.3_f64..0.7, window in 1_usize..4, horizon in 1_usize..3,
        ) {
            let series: Vec<f32> = (0..len).map(|t| t as f32).collect();
            let (train, test) = split_by_position(&series, fraction).unwrap();
            for part in [train, test] {
                let windows = Windows::new(part, window, horizon).unwrap();
                prop_assert_eq!(windows.len(), part.len() + 1 - window - horizon);
                for (index, item) in windows.iter().enumerate() {
                    let Window { input, target } = item.unwrap();
                    prop_assert_eq!((input.len(), target.len()), (window, horizon));
                    let span = &part[index..index + window + horizon];
                    prop_assert_eq!([input, target].concat(), span);
                }
            }
        }
    }

    #[test]
    fn windows_without_gaps_are_those_that_touch_none() {
        let series = [0.0, 1.0, f32::NAN, 3.0, 4.0, 5.0];
        let windows = Windows::new(&series, 2, 1).unwrap().without_gaps();
        assert_eq!(windows.len(), 1);
        assert_eq!(windows.get(0).unwrap().target, [5.0]);
        let windows = Windows::new(&series[..4], 2, 1).unwrap().without_gaps();
        assert!(windows.is_empty());
    }

    #[test]
    fn impossible_windows_are_refused() {
        let new = |window, horizon| Windows::new(&[0.0; 4], window, horizon).unwrap_err();
        assert_eq!(new(0, 1), DataError::Zero { option: "window" });
        assert_eq!(new(1, 0), DataError::Zero { option: "horizon" });
        let (span, found) = (5, 4);
        assert_eq!(new(3, 2), DataError::TooShort { span, found });
        let (span, found) = (usize::MAX, 4);
        assert_eq!(new(usize::MAX, 2), DataError::TooShort { span, found });
    }

    #[test]
    fn a_batch_holds_its_windows_in_order() {
        let windows = Windows::new(&[0.0, 1.0, 2.0, 3.0, 4.0], 2, 2).unwrap();
        let items = windows.iter().map(Result::unwrap).collect();
        let batch = WindowBatcher.batch(items, &crate::test_device());
        let inputs = TensorData::from([[[0.0_f32], [1.0]], [[1.0], [2.0]]]);
        let targets = TensorData::from([[2.0_f32, 3.0], [3.0, 4.0]]);
        batch.inputs.into_data().assert_eq(&inputs, true);
        batch.targets.into_data().assert_eq(&targets, true);
    }
}
