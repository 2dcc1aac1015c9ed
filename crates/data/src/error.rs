//! What can be wrong with data.

use crate::ts::TsProblem;

/// An error in data given to this crate; the message names the place, the expected and the found.
///
/// ```
/// use seq_data::{DataError, text::CharVocab};
///
/// let error = CharVocab::new("abc").encode("bad").unwrap_err();
/// assert_eq!(error, DataError::UnknownChar { character: 'd', position: 2 });
/// assert_eq!(error.to_string(), "character 'd' at position 2 is not in the vocabulary");
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum DataError {
    /// A character that the vocabulary lacks.
    #[error("character {character:?} at position {position} is not in the vocabulary")]
    UnknownChar {
        /// The character.
        character: char,
        /// Its index in the text, counted in characters from 0.
        position: usize,
    },
    /// An id beyond the end of the vocabulary.
    #[error("id {id} at position {position} is outside the vocabulary of {len} characters")]
    UnknownId {
        /// The id.
        id: u32,
        /// Its index, counted from 0.
        position: usize,
        /// The number of characters in the vocabulary.
        len: usize,
    },
    /// A stored vocabulary that is not sorted, or that holds a character twice.
    #[error(
        "a vocabulary must ascend by code point, and {character:?} at position {position} does not"
    )]
    VocabOrder {
        /// The first character that is not greater than the one before it.
        character: char,
        /// Its index, counted in characters from 0.
        position: usize,
    },
    /// A length, stride or horizon of zero.
    #[error("{option} must be at least 1, found 0")]
    Zero {
        /// The name of the argument.
        option: &'static str,
    },
    /// Fewer values than one window spans.
    #[error("a window spans {span} values, found only {found}")]
    TooShort {
        /// Input and target together.
        span: usize,
        /// How many values there are.
        found: usize,
    },
    /// A share of the data that is not a share.
    #[error("the training fraction must lie between 0 and 1, found {found}")]
    Fraction {
        /// The share asked for.
        found: f64,
    },
    /// A series without a single finite value, or with an infinite one.
    #[error("a series needs at least one finite value and no infinite one to be standardized")]
    NotFinite,
    /// A sequence whose values do not fill whole steps, or with the wrong number of channels.
    #[error(
        "sequence {index} has {values} values in {channels} channels, \
         expected {expected} channels and at least one whole step"
    )]
    Shape {
        /// The index of the sequence, counted from 0.
        index: usize,
        /// How many values it has.
        values: usize,
        /// How many channels it claims.
        channels: usize,
        /// The channels of the first sequence, at least 1.
        expected: usize,
    },
    /// A label without a class.
    #[error("sequence {index} has label {label}, expected less than {classes}")]
    Label {
        /// The index of the sequence, counted from 0.
        index: usize,
        /// Its label.
        label: usize,
        /// The number of classes.
        classes: usize,
    },
    /// A malformed `.ts` file.
    #[error("{file}:{line}: {problem}")]
    Ts {
        /// The name given to the parser.
        file: String,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong there.
        problem: TsProblem,
    },
}
