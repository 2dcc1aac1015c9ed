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
}
