use std::fmt::Display;

use thiserror::Error;

/// An option of a configuration with a value that it cannot have.
///
/// ```
/// use seq_core::ConfigError;
///
/// let error = ConfigError::unless(false, "dropout", "in [0, 1)", 1.5).unwrap_err();
/// assert_eq!(error.to_string(), "dropout must be in [0, 1), is 1.5");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{option} must be {expected}, is {found}")]
pub struct ConfigError {
    /// The option's name.
    pub option: &'static str,
    /// What it may be.
    pub expected: &'static str,
    /// What it is.
    pub found: String,
}

impl ConfigError {
    /// An error, unless the value `fits`.
    ///
    /// # Errors
    ///
    /// When `fits` is false.
    pub fn unless(
        fits: bool,
        option: &'static str,
        expected: &'static str,
        found: impl Display,
    ) -> Result<(), Self> {
        match fits {
            true => Ok(()),
            false => Err(Self {
                option,
                expected,
                found: found.to_string(),
            }),
        }
    }

    /// An error for the first size that is zero.
    ///
    /// # Errors
    ///
    /// When one is.
    pub fn sizes(sizes: impl IntoIterator<Item = (&'static str, usize)>) -> Result<(), Self> {
        sizes
            .into_iter()
            .try_for_each(|(option, size)| Self::unless(size > 0, option, "at least 1", size))
    }

    /// An error for the first bound that is not positive.
    ///
    /// # Errors
    ///
    /// When one is zero, negative or NaN.
    pub fn bounds(
        bounds: impl IntoIterator<Item = (&'static str, Option<f64>)>,
    ) -> Result<(), Self> {
        let given = bounds
            .into_iter()
            .filter_map(|(option, bound)| Some((option, bound?)));
        given
            .into_iter()
            .try_for_each(|(option, bound)| Self::unless(bound > 0.0, option, "positive", bound))
    }

    /// An error for the first probability that would leave nothing, or is none.
    ///
    /// # Errors
    ///
    /// When one is not in `[0, 1)`.
    pub fn probabilities(
        probabilities: impl IntoIterator<Item = (&'static str, f64)>,
    ) -> Result<(), Self> {
        probabilities.into_iter().try_for_each(|(option, p)| {
            Self::unless((0.0..1.0).contains(&p), option, "in [0, 1)", p)
        })
    }
}
