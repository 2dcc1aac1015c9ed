//! Text for language models: a novel, first names, a character vocabulary and shifted windows.

use std::sync::LazyLock;

use burn::Tensor;
use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::{Device, Int};
use serde::{Deserialize, Serialize};

use crate::{DataError, gunzip, positive, split_by_position, stack, window_count};

/// Herman Melville, *Moby-Dick* (1851): 1,190,317 characters, 83 different ones, in lines.
///
/// Unpacked on the first call and kept for the life of the program.
///
/// ```
/// let text = seq_data::text::moby_dick();
/// assert!(text.starts_with("CHAPTER 1. Loomings.\n\nCall me Ishmael."));
/// ```
pub fn moby_dick() -> &'static str {
    static TEXT: LazyLock<String> =
        LazyLock::new(|| gunzip(include_bytes!("../data/text/moby-dick.txt.gz")));
    &TEXT
}

/// English first names, as in their source. See [`names`].
///
/// Some stand on both lists, and a few twice on one: double names such as Jo Ann take two lines.
///
/// ```
/// use seq_data::text::{Names, names};
///
/// let Names { female, male } = names();
/// assert!(female.contains(&"Ada") && male.contains(&"Alan"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// 4,951 names given to women, nearly in alphabetical order.
    pub female: Vec<&'static str>,
    /// 3,898 names given to men, nearly in alphabetical order.
    pub male: Vec<&'static str>,
}

/// The bundled first names.
///
/// ```
/// assert_eq!(seq_data::text::names().female[0], "Aaren");
/// ```
pub fn names() -> Names {
    Names {
        female: include_str!("../data/text/names-female.txt")
            .lines()
            .collect(),
        male: include_str!("../data/text/names-male.txt")
            .lines()
            .collect(),
    }
}

/// The characters of a text, numbered from 0 by code point.
///
/// Serialized as the string of its characters.
///
/// ```
/// use seq_data::text::CharVocab;
///
/// let vocab = CharVocab::new("hello");
/// assert_eq!(vocab.len(), 4);
/// let ids = vocab.encode("hole")?;
/// assert_eq!(ids, [1, 3, 2, 0]);
/// assert_eq!(vocab.decode(&ids)?, "hole");
/// # Ok::<(), seq_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CharVocab {
    chars: Vec<char>,
}

impl CharVocab {
    /// The vocabulary of every character in `text`.
    pub fn new(text: &str) -> Self {
        let mut chars: Vec<char> = text.chars().collect();
        chars.sort_unstable();
        chars.dedup();
        Self { chars }
    }

    /// The number of different characters.
    pub fn len(&self) -> usize {
        self.chars.len()
    }

    /// Whether there is no character at all.
    pub fn is_empty(&self) -> bool {
        self.chars.is_empty()
    }

    /// The characters; the id of each is its index.
    pub fn chars(&self) -> &[char] {
        &self.chars
    }

    /// One id a character. Fails with [`DataError::UnknownChar`].
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, DataError> {
        text.chars()
            .enumerate()
            .map(|(position, character)| {
                let id = self.chars.binary_search(&character);
                id.map(|id| id as u32).map_err(|_| DataError::UnknownChar {
                    character,
                    position,
                })
            })
            .collect()
    }

    /// One character an id. Fails with [`DataError::UnknownId`].
    pub fn decode(&self, ids: &[u32]) -> Result<String, DataError> {
        let len = self.len();
        ids.iter()
            .enumerate()
            .map(|(position, &id)| {
                let character = self.chars.get(id as usize).copied();
                character.ok_or(DataError::UnknownId { id, position, len })
            })
            .collect()
    }
}

impl From<CharVocab> for String {
    fn from(vocab: CharVocab) -> Self {
        vocab.chars.into_iter().collect()
    }
}

/// Takes the characters as they stand, because ids depend on their order.
impl TryFrom<String> for CharVocab {
    type Error = DataError;

    fn try_from(text: String) -> Result<Self, DataError> {
        let chars: Vec<char> = text.chars().collect();
        match chars.windows(2).position(|pair| pair[0] >= pair[1]) {
            Some(before) => Err(DataError::VocabOrder {
                character: chars[before + 1],
                position: before + 1,
            }),
            None => Ok(Self { chars }),
        }
    }
}

/// A piece of text and the same piece one character later. See [`TextWindows`].
///
/// ```
/// use seq_data::text::TextWindow;
///
/// let window = TextWindow { inputs: vec![0, 1, 2], targets: vec![1, 2, 3] };
/// assert_eq!(window.inputs[1..], window.targets[..2]);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextWindow {
    /// Ids, `[window]`.
    pub inputs: Vec<u32>,
    /// The id that follows each input, `[window]`.
    pub targets: Vec<u32>,
}

/// Consecutive windows of a text, a Burn dataset of [`TextWindow`].
///
/// ```
/// use burn::data::dataset::Dataset;
/// use seq_data::text::TextWindows;
///
/// let windows = TextWindows::new(vec![0, 1, 2, 3, 4, 5], 3, 2)?;
/// assert_eq!(windows.len(), 2);
/// let window = windows.get(1)?;
/// assert_eq!(window.inputs, [2, 3, 4]);
/// assert_eq!(window.targets, [3, 4, 5]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct TextWindows {
    ids: Vec<u32>,
    window: usize,
    stride: usize,
    len: usize,
}

impl TextWindows {
    /// All windows of `window` ids, `stride` apart, that have a target for every input.
    ///
    /// With `stride == window` each id is an input once at most; ids left at the end belong to no
    /// window. Fails with [`DataError::Zero`] if `window` or `stride` is 0, and with
    /// [`DataError::TooShort`] unless there are `window + 1` ids.
    pub fn new(ids: Vec<u32>, window: usize, stride: usize) -> Result<Self, DataError> {
        positive("window", window)?;
        positive("stride", stride)?;
        let len = window_count(ids.len(), window.saturating_add(1), stride)?;
        Ok(Self {
            ids,
            window,
            stride,
            len,
        })
    }

    /// Windows for training from the beginning of a text and for validation from its end.
    ///
    /// The cut is at `train_fraction` of the ids; no id is in both. Fails as [`Self::new`] and
    /// [`split_by_position`] do.
    ///
    /// ```
    /// use burn::data::dataset::Dataset;
    /// use seq_data::text::{CharVocab, TextWindows, moby_dick};
    ///
    /// let ids = CharVocab::new(moby_dick()).encode(moby_dick())?;
    /// let (train, validation) = TextWindows::split(&ids, 0.9, 128, 128)?;
    /// assert_eq!((train.len(), validation.len()), (8369, 929));
    /// # Ok::<(), seq_data::DataError>(())
    /// ```
    pub fn split(
        ids: &[u32],
        train_fraction: f64,
        window: usize,
        stride: usize,
    ) -> Result<(Self, Self), DataError> {
        let (train, validation) = split_by_position(ids, train_fraction)?;
        Ok((
            Self::new(train.to_vec(), window, stride)?,
            Self::new(validation.to_vec(), window, stride)?,
        ))
    }
}

impl Dataset<TextWindow> for TextWindows {
    fn get(&self, index: usize) -> Result<TextWindow, DatasetError> {
        assert!(
            index < self.len,
            "window {index} of a dataset of {}",
            self.len
        );
        let start = index * self.stride;
        let end = start + self.window;
        Ok(TextWindow {
            inputs: self.ids[start..end].to_vec(),
            targets: self.ids[start + 1..end + 1].to_vec(),
        })
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// Windows of one length side by side. Made by [`TextBatcher`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use seq_data::text::TextBatch;
///
/// let ids = Tensor::from_data([[0, 1, 2]], &Device::default());
/// let batch = TextBatch { inputs: ids.clone(), targets: ids + 1 };
/// assert_eq!(batch.inputs.dims(), batch.targets.dims());
/// ```
#[derive(Clone, Debug)]
pub struct TextBatch {
    /// Ids, `[batch, time]`.
    pub inputs: Tensor<2, Int>,
    /// The id that follows each input, `[batch, time]`.
    pub targets: Tensor<2, Int>,
}

/// Stacks [`TextWindow`]s into a [`TextBatch`].
///
/// Panics if the windows differ in length or there is none.
///
/// ```
/// use burn::data::dataloader::batcher::Batcher;
/// use seq_data::text::{TextBatcher, TextWindow};
///
/// let window = TextWindow { inputs: vec![0, 1, 2], targets: vec![1, 2, 3] };
/// let batch = TextBatcher.batch(vec![window.clone(), window], &Default::default());
/// assert_eq!(batch.inputs.dims(), [2, 3]);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct TextBatcher;

impl Batcher<TextWindow, TextBatch> for TextBatcher {
    fn batch(&self, items: Vec<TextWindow>, device: &Device) -> TextBatch {
        let inputs: Vec<&[u32]> = items.iter().map(|item| &item.inputs[..]).collect();
        let targets: Vec<&[u32]> = items.iter().map(|item| &item.targets[..]).collect();
        TextBatch {
            inputs: Tensor::from_data(stack(&inputs), device),
            targets: Tensor::from_data(stack(&targets), device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;
    use proptest::prelude::*;

    #[test]
    fn the_novel_is_whole() {
        let text = moby_dick();
        assert_eq!((text.len(), text.chars().count()), (1_204_997, 1_190_317));
        assert_eq!(CharVocab::new(text).len(), 83);
        assert!(text.starts_with("CHAPTER 1. Loomings.\n\nCall me Ishmael."));
        assert!(text.ends_with("as it rolled five thousand years ago.\n"));
    }

    #[test]
    fn the_names_are_whole() {
        let Names { female, male } = names();
        assert_eq!((female.len(), male.len()), (4951, 3898));
        assert_eq!((female[0], female[4950]), ("Aaren", "Zuzana"));
        assert_eq!((male[0], male[3897]), ("Aaron", "Zolly"));
        let letter = |c: char| c.is_ascii_alphabetic() || "-'".contains(c);
        for name in female.iter().chain(&male) {
            assert!(!name.is_empty() && name.chars().all(letter), "{name:?}");
        }
    }

    #[test]
    fn the_vocabulary_is_sorted_by_code_point() {
        let vocab = CharVocab::new("zéab→Ba");
        assert_eq!(vocab.chars(), ['B', 'a', 'b', 'z', 'é', '→']);
        assert!(CharVocab::new("").is_empty() && !vocab.is_empty());
    }

    #[test]
    fn an_id_out_of_range_is_named() {
        let error = CharVocab::new("ab").decode(&[0, 1, 2]).unwrap_err();
        let (id, position, len) = (2, 2, 2);
        assert_eq!(error, DataError::UnknownId { id, position, len });
    }

    #[test]
    fn a_stored_vocabulary_must_be_sorted() {
        let stored = serde_json::to_string(&CharVocab::new("hello")).unwrap();
        assert_eq!(stored, r#""ehlo""#);
        for (stored, at) in [("\"ba\"", 1), ("\"abb\"", 2)] {
            let error = serde_json::from_str::<CharVocab>(stored).unwrap_err();
            assert!(
                error.to_string().contains(&format!("at position {at}")),
                "{error}"
            );
        }
    }

    proptest! {
        #[test]
        fn encoding_and_storing_lose_nothing(text in any::<String>()) {
            let vocab = CharVocab::new(&text);
            let ids = vocab.encode(&text).unwrap();
            prop_assert_eq!(ids.len(), text.chars().count());
            prop_assert_eq!(vocab.decode(&ids).unwrap(), text);
            let stored = serde_json::to_string(&vocab).unwrap();
            prop_assert_eq!(serde_json::from_str::<CharVocab>(&stored).unwrap(), vocab);
        }

        #[test]
        fn windows_are_shifted_by_one_and_use_all_that_fits(
            len in 0_usize..40, window in 1_usize..12, stride in 1_usize..12,
        ) {
            let ids: Vec<u32> = (0..len as u32).collect();
            let windows = match TextWindows::new(ids, window, stride) {
                Ok(windows) => windows,
                Err(error) => {
                    prop_assert!(len < window + 1);
                    let span = window + 1;
                    prop_assert_eq!(error, DataError::TooShort { span, found: len });
                    return Ok(());
                }
            };
            for index in 0..windows.len() {
                let item = windows.get(index).unwrap();
                let start = (index * stride) as u32;
                prop_assert_eq!(&item.inputs, &(start..start + window as u32).collect::<Vec<_>>());
                prop_assert_eq!(&item.targets, &item.inputs.iter().map(|id| id + 1).collect::<Vec<_>>());
            }
            let next_end = windows.len() * stride + window + 1;
            prop_assert!(next_end > len, "one more window would have fitted");
        }

        #[test]
        fn no_window_sees_across_the_split(
            len in 20_usize..60, fraction in 0.3_f64..0.7, window in 1_usize..5, stride in 1_usize..5,
        ) {
            let ids: Vec<u32> = (0..len as u32).collect();
            let cut = (len as f64 * fraction).round() as u32;
            let (train, validation) = TextWindows::split(&ids, fraction, window, stride).unwrap();
            for index in 0..train.len() {
                let TextWindow { inputs, targets } = train.get(index).unwrap();
                prop_assert!(inputs.iter().chain(&targets).all(|&id| id < cut));
            }
            for index in 0..validation.len() {
                let TextWindow { inputs, targets } = validation.get(index).unwrap();
                prop_assert!(inputs.iter().chain(&targets).all(|&id| id >= cut));
            }
        }
    }

    #[test]
    fn impossible_windows_are_refused() {
        let zero = |option| DataError::Zero { option };
        let new = |window, stride| TextWindows::new(vec![0; 9], window, stride).unwrap_err();
        assert_eq!(new(0, 1), zero("window"));
        assert_eq!(new(1, 0), zero("stride"));
        let (span, found) = (usize::MAX, 9);
        assert_eq!(new(usize::MAX, 1), DataError::TooShort { span, found });
    }

    #[test]
    #[should_panic(expected = "window 3 of a dataset of 3")]
    fn there_is_no_window_past_the_end() {
        let _ = TextWindows::new(vec![0; 4], 1, 1).unwrap().get(3);
    }

    #[test]
    fn a_batch_holds_its_windows_in_order() {
        let windows = TextWindows::new((0..8).collect(), 3, 2).unwrap();
        let items = windows.iter().map(Result::unwrap).collect();
        let batch = TextBatcher.batch(items, &crate::test_device());
        let expected = TensorData::from([[0_i64, 1, 2], [2, 3, 4], [4, 5, 6]]);
        batch.inputs.clone().into_data().assert_eq(&expected, false);
        (batch.targets - 1).into_data().assert_eq(&expected, false);
    }

    #[test]
    #[should_panic(expected = "window of length [2] in a batch of [1]")]
    fn windows_of_different_length_make_no_batch() {
        let window = |len| TextWindow {
            inputs: vec![0; len],
            targets: vec![0; len],
        };
        TextBatcher.batch(vec![window(1), window(2)], &crate::test_device());
    }
}
