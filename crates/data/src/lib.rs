//! Small real data sets for sequence models, compiled into the program: nothing is downloaded.
//!
//! | data | module | what it is |
//! |---|---|---|
//! | Moby-Dick | [`text`] | 1,190,317 characters, 83 different ones: character language modelling |
//! | first names | [`text`] | 4,951 female and 3,898 male names: name generation and classification |
//! | sunspots | [`series`] | 309 yearly numbers: forecasting |
//! | Mauna Loa CO2 | [`series`] | 2,284 weekly readings, 59 of them missing: forecasting with gaps |
//! | Japanese Vowels | [`classification`] | 270 + 370 utterances, 12 channels, 7 to 29 steps, 9 speakers |
//! | Italy Power Demand | [`classification`] | 67 + 1,029 days of 24 steps, 2 classes |
//! | digits | [`classification`] | 1,438 + 359 images of 8×8 pixels as 64 steps, 10 classes |
//!
//! [`mnist`] reads images of 28×28 pixels as 784 steps from a folder.
//!
//! Every collection is a Burn [`Dataset`](burn::data::dataset::Dataset) and has a
//! [`Batcher`](burn::data::dataloader::batcher::Batcher), so that a `DataLoaderBuilder` takes both.
//! [`ts`] reads the `.ts` files of the UCR and UEA archives. Sources and licences of the bundled
//! files: `data/LICENCES.md`.
//!
//! ```
//! use burn::data::dataloader::DataLoaderBuilder;
//! use seq_data::classification::{SequenceBatcher, japanese_vowels};
//!
//! let vowels = japanese_vowels();
//! let loader = DataLoaderBuilder::new(SequenceBatcher)
//!     .batch_size(32)
//!     .shuffle(1)
//!     .build(vowels.train);
//! let batch = loader.iter().next().expect("a batch")?;
//! let [batch_size, time, channels] = batch.inputs.dims();
//! assert_eq!((batch_size, channels), (32, 12));
//! assert_eq!(time, batch.lengths.into_iter().max().unwrap());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

pub mod classification;
mod error;
pub mod mnist;
pub mod series;
pub mod text;
pub mod ts;

pub use error::DataError;

use std::io::Read;

use burn::tensor::{Element, TensorData};
use flate2::read::GzDecoder;

/// Cuts a sequence in two by position: what comes first trains, what comes later tests.
///
/// The cut is at `train_fraction` of the length, rounded. Build windows from the two halves and
/// none sees across the cut. Fails with [`DataError::Fraction`] unless `0 < train_fraction < 1`.
///
/// ```
/// let (train, test) = seq_data::split_by_position(&[1, 2, 3, 4, 5], 0.6)?;
/// assert_eq!((train, test), (&[1, 2, 3][..], &[4, 5][..]));
/// assert!(seq_data::split_by_position(&[1, 2], 1.5).is_err());
/// # Ok::<(), seq_data::DataError>(())
/// ```
pub fn split_by_position<T>(items: &[T], train_fraction: f64) -> Result<(&[T], &[T]), DataError> {
    if train_fraction > 0.0 && train_fraction < 1.0 {
        Ok(items.split_at((items.len() as f64 * train_fraction).round() as usize))
    } else {
        Err(DataError::Fraction {
            found: train_fraction,
        })
    }
}

/// Unpacks a bundled file; it is part of the program, so that a failure is a bug of this crate.
fn gunzip(bytes: &[u8]) -> String {
    let mut text = String::new();
    GzDecoder::new(bytes)
        .read_to_string(&mut text)
        .expect("a bundled file is valid gzip of UTF-8");
    text
}

/// How many spans of `span` values, `stride` apart, fit into `len`.
fn window_count(len: usize, span: usize, stride: usize) -> Result<usize, DataError> {
    let rest = len
        .checked_sub(span)
        .ok_or(DataError::TooShort { span, found: len })?;
    Ok(rest / stride + 1)
}

/// Rows of one length as the data of a tensor, `[batch, time]`.
fn stack<T: Element>(rows: &[&[T]]) -> TensorData {
    let time = rows.first().expect("a batch needs at least one item").len();
    for row in rows {
        let found = row.len();
        assert_eq!(
            found, time,
            "window of length [{found}] in a batch of [{time}]"
        );
    }
    TensorData::new(rows.concat(), [rows.len(), time])
}

/// Refuses a length of zero, named `option` in the message.
fn positive(option: &'static str, value: usize) -> Result<(), DataError> {
    if value == 0 {
        return Err(DataError::Zero { option });
    }
    Ok(())
}

#[cfg(test)]
#[allow(deprecated)] // Burn prefers Flex; the tests pin the backend that is the default here.
fn test_device() -> burn::tensor::Device {
    burn::tensor::Device::ndarray()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_split_keeps_order_and_loses_nothing(
            items in prop::collection::vec(any::<u8>(), 0..50),
            fraction in 0.001_f64..0.999,
        ) {
            let (train, test) = split_by_position(&items, fraction).unwrap();
            prop_assert_eq!(&[train, test].concat(), &items);
            let exact = fraction * items.len() as f64;
            prop_assert!((train.len() as f64 - exact).abs() <= 0.5);
        }
    }

    #[test]
    fn a_fraction_out_of_range_is_refused() {
        for fraction in [0.0, 1.0, -0.5, f64::NAN, f64::INFINITY] {
            let error = split_by_position(&[1, 2, 3], fraction).unwrap_err();
            assert!(matches!(error, DataError::Fraction { .. }), "{error}");
        }
    }
}
