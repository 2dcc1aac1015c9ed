//! Labelled sequences of different length, three bundled sets of them, and padded batches.

use burn::data::dataloader::batcher::Batcher;
use burn::data::dataset::{Dataset, DatasetError};
use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::ts::TsFile;
use crate::{DataError, gunzip, split_by_position};

/// A sequence and its class.
///
/// ```
/// use seq_data::classification::Sequence;
///
/// let sequence = Sequence { values: vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0], channels: 2, label: 0 };
/// assert_eq!(sequence.time(), 3);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Sequence {
    /// The values of the first step, then those of the second: row-major `[time, channels]`.
    pub values: Vec<f32>,
    /// The number of values in a step.
    pub channels: usize,
    /// The index of the class, from 0.
    pub label: usize,
}

impl Sequence {
    /// The number of steps. Panics if there are no channels.
    pub fn time(&self) -> usize {
        self.values.len() / self.channels
    }
}

/// Sequences with the same channels and the same classes, a Burn dataset of [`Sequence`].
///
/// ```
/// use burn::data::dataset::Dataset;
/// use seq_data::classification::{Sequence, SequenceSet};
///
/// let sequence = |values, label| Sequence { values, channels: 1, label };
/// let sequences = vec![sequence(vec![0.1, 0.2], 0), sequence(vec![0.3], 1)];
/// let set = SequenceSet::new(sequences, vec!["up".into(), "down".into()])?;
/// assert_eq!((set.len(), set.channels()), (2, 1));
/// # Ok::<(), seq_data::DataError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct SequenceSet {
    sequences: Vec<Sequence>,
    classes: Vec<String>,
}

impl SequenceSet {
    /// A set of `sequences` whose labels count through `classes`.
    ///
    /// Fails with [`DataError::Shape`] if a sequence is empty, ends within a step, or has not the
    /// channels of the first, and with [`DataError::Label`] if a label is not below the number of
    /// classes.
    pub fn new(sequences: Vec<Sequence>, classes: Vec<String>) -> Result<Self, DataError> {
        let expected = sequences.first().map_or(1, |first| first.channels.max(1));
        for (index, sequence) in sequences.iter().enumerate() {
            let (values, channels) = (sequence.values.len(), sequence.channels);
            if channels != expected || values == 0 || !values.is_multiple_of(channels) {
                return Err(DataError::Shape {
                    index,
                    values,
                    channels,
                    expected,
                });
            }
            if sequence.label >= classes.len() {
                return Err(DataError::Label {
                    index,
                    label: sequence.label,
                    classes: classes.len(),
                });
            }
        }
        Ok(Self { sequences, classes })
    }

    /// All sequences, in the order of their source.
    pub fn sequences(&self) -> &[Sequence] {
        &self.sequences
    }

    /// The names of the classes; a label is an index into them.
    pub fn classes(&self) -> &[String] {
        &self.classes
    }

    /// The number of values in a step, 0 if there are no sequences.
    pub fn channels(&self) -> usize {
        self.sequences.first().map_or(0, |first| first.channels)
    }
}

impl Dataset<Sequence> for SequenceSet {
    fn get(&self, index: usize) -> Result<Sequence, DatasetError> {
        Ok(self.sequences[index].clone())
    }

    fn len(&self) -> usize {
        self.sequences.len()
    }
}

/// One part to learn from and one to be judged by.
///
/// ```
/// let split = seq_data::classification::italy_power_demand();
/// assert_eq!(split.train.classes(), split.test.classes());
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// The training set.
    pub train: SequenceSet,
    /// The test set.
    pub test: SequenceSet,
}

/// Which of nine men says "ae": 12 cepstrum coefficients a step, 7 to 29 steps.
///
/// 270 utterances train, 30 a speaker, and 370 test, as in the UEA archive. Source: M. Kudo,
/// J. Toyama, M. Shimbo, *Multidimensional Curve Classification Using Passing-Through Regions*,
/// Pattern Recognition Letters 20, 1999.
///
/// ```
/// let vowels = seq_data::classification::japanese_vowels();
/// assert_eq!((vowels.train.channels(), vowels.train.classes().len()), (12, 9));
/// ```
pub fn japanese_vowels() -> Split {
    Split {
        train: bundled(include_bytes!(
            "../data/classification/JapaneseVowels_TRAIN.ts.gz"
        )),
        test: bundled(include_bytes!(
            "../data/classification/JapaneseVowels_TEST.ts.gz"
        )),
    }
}

/// Italian electricity demand: the 24 hours of a day in October to March ("1") or April to
/// September ("2").
///
/// 67 days train and 1,029 test, as in the UCR archive, each standardized there.
///
/// ```
/// let days = seq_data::classification::italy_power_demand();
/// assert_eq!(days.train.sequences()[0].time(), 24);
/// ```
pub fn italy_power_demand() -> Split {
    Split {
        train: bundled(include_bytes!(
            "../data/classification/ItalyPowerDemand_TRAIN.ts.gz"
        )),
        test: bundled(include_bytes!(
            "../data/classification/ItalyPowerDemand_TEST.ts.gz"
        )),
    }
}

fn bundled(bytes: &[u8]) -> SequenceSet {
    let file = TsFile::parse(&gunzip(bytes), "bundled").expect("a bundled .ts file is valid");
    file.sequences
}

/// Handwritten digits, 8×8 pixels read row by row: 64 steps of one channel, 10 classes.
///
/// Pixels lie between 0 and 1, in sixteenths. The first 1,438 train and the last 359 test: the
/// source has no split of its own, and writers follow one another in it, so that a random one
/// would put the same hand on both sides.
///
/// ```
/// let digits = seq_data::classification::digits();
/// assert_eq!(digits.train.sequences()[3].label, 3);
/// ```
pub fn digits() -> Split {
    let parse = |line: &str| {
        let (pixels, label) = line.rsplit_once(',')?;
        let values = pixels
            .split(',')
            .map(|x| Some(x.parse::<f32>().ok()? / 16.0));
        Some(Sequence {
            values: values.collect::<Option<_>>()?,
            channels: 1,
            label: label.parse().ok()?,
        })
    };
    let sequences: Vec<Sequence> = gunzip(include_bytes!("../data/classification/digits.csv.gz"))
        .lines()
        .map(|line| parse(line).expect("a bundled line is 64 pixels and a label"))
        .collect();
    let (train, test) = split_by_position(&sequences, 0.8).expect("0.8 is a fraction");
    let set = |part: &[Sequence]| {
        let classes = (0..10).map(|digit| digit.to_string()).collect();
        SequenceSet::new(part.to_vec(), classes).expect("the bundled digits are valid")
    };
    Split {
        train: set(train),
        test: set(test),
    }
}

/// Sequences side by side, padded with zeros at the end to the longest. Made by
/// [`SequenceBatcher`].
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use seq_data::classification::SequenceBatch;
///
/// let device = Device::default();
/// let batch = SequenceBatch {
///     inputs: Tensor::zeros([2, 29, 12], &device),
///     lengths: vec![29, 7],
///     labels: Tensor::from_data([8, 0], &device),
/// };
/// assert_eq!(batch.lengths.iter().max(), Some(&batch.inputs.dims()[1]));
/// ```
#[derive(Clone, Debug)]
pub struct SequenceBatch {
    /// The values, `[batch, time, channels]`.
    pub inputs: Tensor<3>,
    /// The number of steps of each sequence that are not padding, `[batch]`.
    pub lengths: Vec<usize>,
    /// The class of each sequence, `[batch]`.
    pub labels: Tensor<1, Int>,
}

/// Pads [`Sequence`]s into a [`SequenceBatch`], in the order given.
///
/// Panics if there is no sequence, or they differ in channels.
///
/// ```
/// use burn::data::dataloader::batcher::Batcher;
/// use seq_data::classification::{Sequence, SequenceBatcher};
///
/// let sequence = |values, label| Sequence { values, channels: 1, label };
/// let items = vec![sequence(vec![0.1], 1), sequence(vec![0.2, 0.3], 0)];
/// let batch = SequenceBatcher.batch(items, &Default::default());
/// assert_eq!(batch.inputs.dims(), [2, 2, 1]);
/// assert_eq!(batch.lengths, [1, 2]);
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct SequenceBatcher;

impl Batcher<Sequence, SequenceBatch> for SequenceBatcher {
    fn batch(&self, items: Vec<Sequence>, device: &Device) -> SequenceBatch {
        let lengths: Vec<usize> = items.iter().map(Sequence::time).collect();
        let batch = items.len();
        let time = *lengths
            .iter()
            .max()
            .expect("a batch needs at least one item");
        let channels = items[0].channels;
        let mut values = vec![0.0; batch * time * channels];
        for (row, item) in values.chunks_exact_mut(time * channels).zip(&items) {
            let found = item.channels;
            assert_eq!(
                found, channels,
                "sequence of [time, {found}] in a batch of [time, {channels}]"
            );
            row[..item.values.len()].copy_from_slice(&item.values);
        }
        let labels: Vec<i32> = items.iter().map(|item| item.label as i32).collect();
        SequenceBatch {
            inputs: Tensor::from_data(TensorData::new(values, [batch, time, channels]), device),
            lengths,
            labels: Tensor::from_data(TensorData::new(labels, [batch]), device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::data::dataloader::DataLoaderBuilder;
    use proptest::prelude::*;

    fn label_counts(set: &SequenceSet) -> Vec<usize> {
        let count = |label| set.sequences().iter().filter(|s| s.label == label).count();
        (0..set.classes().len()).map(count).collect()
    }

    #[test]
    fn the_vowels_are_whole() {
        let Split { train, test } = japanese_vowels();
        assert_eq!((train.len(), test.len()), (270, 370));
        assert_eq!(label_counts(&train), [30; 9]);
        assert_eq!(label_counts(&test), [31, 35, 88, 44, 29, 24, 40, 50, 29]);
        let speakers: Vec<String> = (1..=9).map(|speaker| speaker.to_string()).collect();
        for set in [&train, &test] {
            assert_eq!((set.channels(), set.classes()), (12, &speakers[..]));
        }
        let times = train
            .sequences()
            .iter()
            .chain(test.sequences())
            .map(Sequence::time);
        assert_eq!((times.clone().min(), times.max()), (Some(7), Some(29)));

        // The file goes channel by channel: step 0 holds the first value of each.
        let first = &train.sequences()[0];
        assert_eq!((first.time(), first.label), (20, 0));
        assert_eq!(first.values[..2], [1.860936, -0.207383]);
        assert_eq!(
            (first.values[12], first.values[19 * 12]),
            (1.891651, 1.261441)
        );
        let last = test.sequences().last().unwrap();
        assert_eq!((last.label, last.values.last()), (8, Some(&0.224688)));
    }

    #[test]
    fn the_days_are_whole() {
        let Split { train, test } = italy_power_demand();
        assert_eq!((train.len(), test.len()), (67, 1029));
        for set in [&train, &test] {
            assert_eq!((set.channels(), set.classes().len()), (1, 2));
            assert!(set.sequences().iter().all(|day| day.time() == 24));
        }
        assert_eq!(
            (label_counts(&train), label_counts(&test)),
            (vec![34, 33], vec![513, 516])
        );
        assert_eq!(train.sequences()[0].values[0], -0.710_517_6);
        assert_eq!(test.sequences()[0].values[23], 1.287_663_4);
    }

    #[test]
    fn the_digits_are_whole() {
        let Split { train, test } = digits();
        assert_eq!((train.len(), test.len()), (1438, 359));
        let all: Vec<&Sequence> = train.sequences().iter().chain(test.sequences()).collect();
        for (index, digit) in all.iter().enumerate() {
            assert_eq!((digit.time(), digit.channels), (64, 1), "digit {index}");
            assert!(
                digit.values.iter().all(|x| (0.0..=1.0).contains(x)),
                "digit {index}"
            );
        }
        assert_eq!(
            all[0].values[..6],
            [0.0, 0.0, 5.0 / 16.0, 13.0 / 16.0, 9.0 / 16.0, 1.0 / 16.0]
        );
        assert_eq!((all[0].label, all[1].label, all[1796].label), (0, 1, 8));
        assert!(all.iter().any(|digit| digit.values.contains(&1.0)));
    }

    #[test]
    fn a_set_that_does_not_fit_together_is_refused() {
        let sequence = |len, channels, label| Sequence {
            values: vec![0.0; len],
            channels,
            label,
        };
        let new = |second| SequenceSet::new(vec![sequence(4, 2, 0), second], vec!["a".into()]);
        assert!(new(sequence(2, 2, 0)).is_ok());
        for (values, channels) in [(3, 2), (0, 2), (3, 3), (2, 0)] {
            let (index, expected) = (1, 2);
            let error = DataError::Shape {
                index,
                values,
                channels,
                expected,
            };
            assert_eq!(new(sequence(values, channels, 0)), Err(error));
        }
        let (index, label, classes) = (1, 1, 1);
        let error = DataError::Label {
            index,
            label,
            classes,
        };
        assert_eq!(new(sequence(2, 2, 1)), Err(error));
        assert!(SequenceSet::new(vec![sequence(1, 0, 0)], vec!["a".into()]).is_err());
        assert_eq!(SequenceSet::new(vec![], vec![]).unwrap().channels(), 0);
    }

    proptest! {
        #[test]
        fn a_batch_keeps_each_sequence_and_pads_with_zeros(
            lengths in prop::collection::vec(1_usize..8, 1..6), channels in 1_usize..4,
        ) {
            let items: Vec<Sequence> = lengths.iter().enumerate().map(|(label, time)| Sequence {
                values: (1..=time * channels).map(|x| x as f32).collect(),
                channels,
                label,
            }).collect();
            let batch = SequenceBatcher.batch(items.clone(), &crate::test_device());
            let longest = *lengths.iter().max().unwrap();
            prop_assert_eq!(batch.inputs.dims(), [items.len(), longest, channels]);
            prop_assert_eq!(batch.lengths, lengths);
            let values = batch.inputs.into_data().try_to_vec::<f32>().unwrap();
            for (row, item) in values.chunks(longest * channels).zip(&items) {
                let (kept, padding) = row.split_at(item.values.len());
                prop_assert_eq!(kept, &item.values);
                prop_assert!(padding.iter().all(|&x| x == 0.0));
            }
            let labels: Vec<i64> = (0..items.len() as i64).collect();
            batch.labels.into_data().assert_eq(&TensorData::from(&labels[..]), false);
        }
    }

    #[test]
    #[should_panic(expected = "sequence of [time, 3] in a batch of [time, 2]")]
    fn sequences_of_different_width_make_no_batch() {
        let sequence = |channels| Sequence {
            values: vec![0.0; 6],
            channels,
            label: 0,
        };
        SequenceBatcher.batch(vec![sequence(2), sequence(3)], &crate::test_device());
    }

    #[test]
    fn a_loader_with_workers_delivers_every_sequence_once() {
        let loader = DataLoaderBuilder::new(SequenceBatcher)
            .batch_size(32)
            .shuffle(7)
            .num_workers(2)
            .set_device(crate::test_device())
            .build(japanese_vowels().test);
        let mut counts = vec![0; 9];
        for batch in loader.iter().map(Result::unwrap) {
            let labels = batch
                .labels
                .into_data()
                .convert::<i64>()
                .try_to_vec::<i64>()
                .unwrap();
            assert_eq!(
                (batch.lengths.len(), batch.inputs.dims()[0]),
                (labels.len(), labels.len())
            );
            labels.iter().for_each(|&label| counts[label as usize] += 1);
        }
        assert_eq!(counts, label_counts(&japanese_vowels().test));
    }
}
