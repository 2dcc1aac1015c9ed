//! The `.ts` text format of the UCR and UEA archives of time series classification.
//!
//! ```text
//! # a comment
//! @problemName Toy
//! @univariate false
//! @dimensions 2
//! @classLabel true up down
//! @data
//! 1,2,3:4,5,6:up
//! 7,8:?,9:down
//! ```
//!
//! A line of data is one sequence: its channels, then its class, separated by colons; the values
//! of a channel are separated by commas and `?` stands for a missing one. Format:
//! <https://www.aeon-toolkit.org/en/stable/api_reference/file_specifications/ts.html>.

use std::str::FromStr;

use crate::DataError;
use crate::classification::{Sequence, SequenceSet};

/// A parsed `.ts` file.
///
/// ```
/// use seq_data::{DataError, ts::{TsFile, TsProblem}};
///
/// let text = "@problemName Toy\n@classLabel true up down\n@data\n1,2,3:4,5,6:up\n7,8:?,9:down\n";
/// let file = TsFile::parse(text, "toy.ts")?;
/// assert_eq!((file.problem_name.as_str(), file.sequences.channels()), ("Toy", 2));
/// assert_eq!(file.sequences.sequences()[0].values, [1.0, 4.0, 2.0, 5.0, 3.0, 6.0]);
///
/// let error = TsFile::parse(&text.replace("7", "seven"), "toy.ts").unwrap_err();
/// let message = "toy.ts:5: channel 0, step 0: expected a finite number or `?`, found `seven`";
/// assert_eq!(error.to_string(), message);
/// # Ok::<(), DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TsFile {
    /// What the file calls itself, empty if it does not.
    pub problem_name: String,
    /// The sequences, missing values as NaN; the classes stand in the order of `@classLabel`.
    pub sequences: SequenceSet,
}

/// What is wrong with a line of a `.ts` file; part of [`DataError::Ts`].
///
/// ```
/// use seq_data::{DataError, ts::{TsFile, TsProblem}};
///
/// let error = TsFile::parse("@classLabel true a b\n@data\n1,2:c\n", "my.ts").unwrap_err();
/// let problem = TsProblem::Label { found: "c".into() };
/// assert_eq!(error, DataError::Ts { file: "my.ts".into(), line: 3, problem });
/// ```
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TsProblem {
    /// A header line with a key that the format does not have.
    #[error("`{key}` is no key of a .ts header")]
    Key {
        /// The first word of the line.
        key: String,
    },
    /// A header line with a value that its key does not take.
    #[error("{key}: expected {expected}, found `{found}`")]
    Header {
        /// The key.
        key: &'static str,
        /// What it takes.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// A file that is valid but not made for classification, or has time stamps.
    #[error("{what} are not supported")]
    Unsupported {
        /// What the file has.
        what: &'static str,
    },
    /// A line of values before `@data`.
    #[error("expected `@data` before the first sequence")]
    DataExpected,
    /// A file that ends before its first sequence.
    #[error("expected at least one sequence after `@data`, found the end of the file")]
    NoSequence,
    /// A value that is no number.
    #[error("channel {channel}, step {step}: expected a finite number or `?`, found `{found}`")]
    Value {
        /// The channel, counted from 0.
        channel: usize,
        /// The step, counted from 0.
        step: usize,
        /// What stands there.
        found: String,
    },
    /// A missing value although the header says `@missing false`.
    #[error("channel {channel}, step {step}: a value is missing, against `@missing false`")]
    Missing {
        /// The channel, counted from 0.
        channel: usize,
        /// The step, counted from 0.
        step: usize,
    },
    /// More or fewer channels than the header, or else the first sequence, has.
    #[error("expected {expected} channels and a class, found {found} channels")]
    Channels {
        /// The channels expected.
        expected: usize,
        /// The channels of this sequence.
        found: usize,
    },
    /// A channel with more or fewer steps than the first channel of its sequence.
    #[error("channel {channel} has {found} steps, expected {expected} as in channel 0")]
    ChannelLength {
        /// The channel, counted from 0.
        channel: usize,
        /// The steps of channel 0.
        expected: usize,
        /// The steps of this channel.
        found: usize,
    },
    /// A sequence of another length, although the header says that all are equal.
    #[error("expected {expected} steps as in all sequences, found {found}")]
    Length {
        /// The length in the header, or else of the first sequence.
        expected: usize,
        /// The length of this sequence.
        found: usize,
    },
    /// A class that `@classLabel` does not list.
    #[error("class `{found}` is not listed in @classLabel")]
    Label {
        /// What stands at the end of the line.
        found: String,
    },
}

impl TsFile {
    /// Reads the text of a `.ts` file; `name` is the file's name in errors.
    ///
    /// Keys are read in any case. What the header leaves out is taken from the first sequence.
    /// Fails with [`DataError::Ts`], which names file, line and [`TsProblem`].
    pub fn parse(text: &str, name: &str) -> Result<Self, DataError> {
        let mut header = Header::default();
        let mut sequences = Vec::new();
        let mut in_data = false;
        let mut last_line = 1;
        for (index, line) in text.lines().enumerate() {
            last_line = index + 1;
            let error = |problem| DataError::Ts {
                file: name.to_owned(),
                line: index + 1,
                problem,
            };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if in_data {
                sequences.push(header.sequence(line).map_err(error)?);
            } else if line.eq_ignore_ascii_case("@data") {
                if header.classes.is_empty() {
                    let what = "files without class labels";
                    return Err(error(TsProblem::Unsupported { what }));
                }
                in_data = true;
            } else {
                header.read(line).map_err(error)?;
            }
        }
        if sequences.is_empty() {
            return Err(DataError::Ts {
                file: name.to_owned(),
                line: last_line,
                problem: TsProblem::NoSequence,
            });
        }
        Ok(Self {
            problem_name: header.problem_name,
            sequences: SequenceSet::new(sequences, header.classes)?,
        })
    }
}

/// What the lines before `@data` promise; the first sequence fills in what they leave open.
#[derive(Default)]
struct Header {
    problem_name: String,
    classes: Vec<String>,
    channels: Option<usize>,
    length: Option<usize>,
    equal_length: bool,
    none_missing: bool,
}

impl Header {
    fn read(&mut self, line: &str) -> Result<(), TsProblem> {
        if !line.starts_with('@') {
            return Err(TsProblem::DataExpected);
        }
        let (key, value) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let value = value.trim();
        match key.to_ascii_lowercase().as_str() {
            "@problemname" => self.problem_name = value.to_owned(),
            "@timestamps" => {
                if boolean("@timeStamps", value)? {
                    let what = "time stamps";
                    return Err(TsProblem::Unsupported { what });
                }
            }
            "@missing" => self.none_missing = !boolean("@missing", value)?,
            "@univariate" => {
                if boolean("@univariate", value)? {
                    self.channels = Some(1);
                }
            }
            "@dimension" | "@dimensions" => self.channels = Some(count("@dimensions", value)?),
            "@equallength" => self.equal_length = boolean("@equalLength", value)?,
            "@serieslength" => self.length = Some(count("@seriesLength", value)?),
            "@targetlabel" => {
                if boolean("@targetLabel", value)? {
                    let what = "regression targets";
                    return Err(TsProblem::Unsupported { what });
                }
            }
            "@classlabel" => self.classes = classes(value)?,
            _ => {
                return Err(TsProblem::Key {
                    key: key.to_owned(),
                });
            }
        }
        Ok(())
    }

    fn sequence(&mut self, line: &str) -> Result<Sequence, TsProblem> {
        let mut fields: Vec<&str> = line.split(':').collect();
        let class = fields.pop().unwrap_or_default().trim();
        let expected = *self.channels.get_or_insert(fields.len().max(1));
        if fields.len() != expected {
            let found = fields.len();
            return Err(TsProblem::Channels { expected, found });
        }
        let mut channels: Vec<Vec<f32>> = Vec::with_capacity(fields.len());
        for (channel, field) in fields.into_iter().enumerate() {
            let values = self.channel(channel, field)?;
            let expected = channels.first().map_or(values.len(), Vec::len);
            if values.len() != expected {
                let found = values.len();
                return Err(TsProblem::ChannelLength {
                    channel,
                    expected,
                    found,
                });
            }
            channels.push(values);
        }
        let time = channels[0].len();
        if self.equal_length {
            let expected = *self.length.get_or_insert(time);
            if time != expected {
                return Err(TsProblem::Length {
                    expected,
                    found: time,
                });
            }
        }
        let label = self.classes.iter().position(|name| name == class);
        Ok(Sequence {
            values: (0..time)
                .flat_map(|step| channels.iter().map(move |channel| channel[step]))
                .collect(),
            channels: channels.len(),
            label: label.ok_or_else(|| TsProblem::Label {
                found: class.to_owned(),
            })?,
        })
    }

    fn channel(&self, channel: usize, field: &str) -> Result<Vec<f32>, TsProblem> {
        let parse = |(step, value): (usize, &str)| match value.trim() {
            missing if missing == "?" || missing.eq_ignore_ascii_case("nan") => {
                if self.none_missing {
                    return Err(TsProblem::Missing { channel, step });
                }
                Ok(f32::NAN)
            }
            value => match value.parse::<f32>() {
                Ok(number) if number.is_finite() => Ok(number),
                _ => Err(TsProblem::Value {
                    channel,
                    step,
                    found: value.to_owned(),
                }),
            },
        };
        field.split(',').enumerate().map(parse).collect()
    }
}

fn boolean(key: &'static str, value: &str) -> Result<bool, TsProblem> {
    header_value(key, "true or false", &value.to_ascii_lowercase(), |_| true)
}

fn count(key: &'static str, value: &str) -> Result<usize, TsProblem> {
    header_value(key, "a number of at least 1", value, |&number| number > 0)
}

fn header_value<T: FromStr>(
    key: &'static str,
    expected: &'static str,
    value: &str,
    valid: impl Fn(&T) -> bool,
) -> Result<T, TsProblem> {
    value
        .parse()
        .ok()
        .filter(valid)
        .ok_or_else(|| TsProblem::Header {
            key,
            expected,
            found: value.to_owned(),
        })
}

/// The names after `@classLabel true`; none after `@classLabel false`.
fn classes(value: &str) -> Result<Vec<String>, TsProblem> {
    let mut words = value.split_whitespace();
    if !boolean("@classLabel", words.next().unwrap_or_default())? {
        return Ok(Vec::new());
    }
    let names: Vec<String> = words.map(str::to_owned).collect();
    let repeated = (1..names.len()).any(|i| names[..i].contains(&names[i]));
    if names.is_empty() || repeated {
        return Err(TsProblem::Header {
            key: "@classLabel",
            expected: "true and the names of the classes, each once",
            found: value.to_owned(),
        });
    }
    Ok(names)
}

#[cfg(test)]
mod tests;
