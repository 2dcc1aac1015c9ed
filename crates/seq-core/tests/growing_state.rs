//! States of which a part grows as a sequence is read, and which count.

use burn::tensor::{Bool, Device, Tensor, TensorData};
use seq_core::{SequenceState, StateError, StateMapper, StateRecord};

/// As a cache is: what was read, and how much of it belongs to each sequence.
#[derive(Debug, Clone)]
struct Pages {
    /// `[batch, length, 2]`
    text: Tensor<3>,
    /// `[batch, 1]`
    mark: Tensor<2>,
    counts: Vec<[usize; 2]>,
}

impl SequenceState for Pages {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        let text = mapper.growing("text", self.text, 1);
        let mark = mapper.tensor("mark", self.mark);
        let counts = mapper.counts("counts", self.counts);
        let length = text.dims()[1];
        for &[count, _] in &counts {
            let expected = format_args!("at most {length}");
            mapper.check("counts", count <= length, expected, count);
        }
        Self { text, mark, counts }
    }
}

impl Pages {
    /// Sequences of these lengths, the values of the first from `first` on, of the next from 100 more.
    fn new(lengths: &[usize], first: usize, device: &Device) -> Self {
        let longest = *lengths.iter().max().expect("at least one sequence");
        let mut text = Vec::new();
        for (row, &length) in lengths.iter().enumerate() {
            let value = |i| (first + 100 * row + i) as f32;
            text.extend((0..2 * longest).map(|i| if i < 2 * length { value(i) } else { 0.0 }));
        }
        let marks = (0..lengths.len()).map(|row| (first + row) as f32).collect();
        let batch = lengths.len();
        Self {
            text: Tensor::from_data(TensorData::new(text, [batch, longest, 2]), device),
            mark: Tensor::from_data(TensorData::new::<f32, _>(marks, [batch, 1]), device),
            counts: lengths
                .iter()
                .map(|&length| [length, length + first])
                .collect(),
        }
    }

    fn check(&self, text: &[&[[f32; 2]]], marks: &[f32], counts: &[[usize; 2]]) {
        let [batch, length, _] = self.text.dims();
        assert_eq!((batch, length), (text.len(), text[0].len()));
        let expected: Vec<f32> = text
            .iter()
            .flat_map(|row| row.iter().flatten().copied())
            .collect();
        let found: Vec<f32> = self.text.to_data().iter::<f32>().collect();
        assert_eq!(found, expected);
        let found: Vec<f32> = self.mark.to_data().iter::<f32>().collect();
        assert_eq!(found, marks);
        assert_eq!(self.counts, counts);
    }
}

#[test]
fn rows_are_selected() {
    let device = seq_core::device();
    let state = Pages::new(&[1, 2], 1, &device).select(&[1, 0, 1]);
    let [first, second] = [[[1.0, 2.0], [0.0, 0.0]], [[101.0, 102.0], [103.0, 104.0]]];
    state.check(
        &[&second, &first, &second],
        &[2.0, 1.0, 2.0],
        &[[2, 3], [1, 2], [2, 3]],
    );
}

#[test]
fn shorter_ones_are_made_up_with_zeros() {
    let device = seq_core::device();
    let states = [(&[1, 2][..], 1), (&[3], 10), (&[1], 20)];
    let states = states.map(|(lengths, first)| Pages::new(lengths, first, &device));
    Pages::concat(states).check(
        &[
            &[[1.0, 2.0], [0.0, 0.0], [0.0, 0.0]],
            &[[101.0, 102.0], [103.0, 104.0], [0.0, 0.0]],
            &[[10.0, 11.0], [12.0, 13.0], [14.0, 15.0]],
            &[[20.0, 21.0], [0.0, 0.0], [0.0, 0.0]],
        ],
        &[1.0, 2.0, 10.0, 20.0],
        &[[1, 2], [2, 3], [3, 13], [1, 21]],
    );
}

#[test]
fn each_row_is_chosen_with_its_counts() {
    let device = seq_core::device();
    let mask = || Tensor::<2, Bool>::from_data([[true], [false]], &device);
    let short = || Pages::new(&[1, 1], 1, &device);
    let long = || Pages::new(&[2, 2], 10, &device);
    Pages::choose(mask(), short(), long()).check(
        &[&[[1.0, 2.0], [0.0, 0.0]], &[[110.0, 111.0], [112.0, 113.0]]],
        &[1.0, 11.0],
        &[[1, 2], [2, 12]],
    );
    Pages::choose(mask(), long(), short()).check(
        &[&[[10.0, 11.0], [12.0, 13.0]], &[[101.0, 102.0], [0.0, 0.0]]],
        &[10.0, 2.0],
        &[[2, 12], [1, 2]],
    );
}

#[test]
fn any_batch_and_length_is_restored() {
    let device = seq_core::device();
    let saved = Pages::new(&[3, 1], 1, &device);
    for template in [&[1][..], &[2, 4, 5]] {
        let template = Pages::new(template, 50, &device);
        let restored = template.restore(&saved.to_bytes()).unwrap();
        assert_eq!(restored.batch(), 2);
        restored.check(
            &[
                &[[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]],
                &[[101.0, 102.0], [0.0, 0.0], [0.0, 0.0]],
            ],
            &[1.0, 2.0],
            &[[3, 4], [1, 2]],
        );
    }
}

#[test]
fn parts_of_a_state_grow_too() {
    let device = seq_core::device();
    let both = |lengths: [usize; 2]| {
        lengths
            .map(|length| Pages::new(&[length], 1, &device))
            .to_vec()
    };
    let joined = Vec::concat([both([1, 2]), both([2, 1])]);
    let template = both([4, 4]);
    let restored = template.restore(&joined.to_bytes()).unwrap();
    let [one, two] = [[[1.0, 2.0], [0.0, 0.0]], [[1.0, 2.0], [3.0, 4.0]]];
    restored[0].check(&[&one, &two], &[1.0, 1.0], &[[1, 2], [2, 3]]);
    restored[1].check(&[&two, &one], &[1.0, 1.0], &[[2, 3], [1, 2]]);
    assert_eq!(
        restored.record().tensors["1.counts"].shape().to_vec(),
        [2, 2]
    );
}

/// The error of a state of one sequence restored from a record that was edited.
fn error(edit: impl FnOnce(&mut StateRecord)) -> String {
    let template = Pages::new(&[2], 1, &seq_core::device());
    let mut record = template.record();
    edit(&mut record);
    template.restore_record(record).unwrap_err().to_string()
}

#[test]
fn what_does_not_fit_is_an_error() {
    let insert = |name: &'static str, data: TensorData| {
        error(move |record| {
            record.tensors.insert(name.to_owned(), data);
        })
    };
    let counts = |data| insert("counts", data);
    assert_eq!(
        counts(TensorData::from([[1i64, 1], [1, 1]])),
        "tensor `counts`: expected shape [1, 2] (any batch), found [2, 2]"
    );
    assert_eq!(
        counts(TensorData::from([[1i64, 1, 1]])),
        "tensor `counts`: expected shape [1, 2] (any batch), found [1, 3]"
    );
    assert_eq!(
        counts(TensorData::from([[1f32, 1.0]])),
        "tensor `counts`: expected whole numbers from zero on, of type I64, found F32"
    );
    assert_eq!(
        counts(TensorData::from([[1i64, -1]])),
        "tensor `counts`: expected whole numbers from zero on, of type I64, found I64"
    );
    assert_eq!(
        insert("text", TensorData::from([[[1f32, 2.0, 3.0]]])),
        "tensor `text`: expected shape [1, 1, 2] (any batch), found [1, 1, 3]"
    );
    assert_eq!(
        insert("text", TensorData::from([1f32])),
        "tensor `text`: expected shape [1, 2, 2] (any batch), found [1]"
    );
    let missing = error(|record| drop(record.tensors.remove("counts")));
    assert_eq!(missing, "the state has no tensor `counts`");
}

#[test]
fn values_that_do_not_fit_one_another_are_an_error() {
    let long = || TensorData::from([[3i64, 1]]);
    let found = error(|record| drop(record.tensors.insert("counts".to_owned(), long())));
    assert_eq!(found, "tensor `counts`: expected at most 2, found 3");

    let device = seq_core::device();
    let both = vec![Pages::new(&[2], 1, &device), Pages::new(&[1], 1, &device)];
    let mut record = both.record();
    record.tensors.insert("1.counts".to_owned(), long());
    let error = both.restore_record(record).unwrap_err();
    assert!(matches!(error, StateError::Inconsistent { .. }), "{error}");
    let expected = "tensor `1.counts`: expected at most 1, found 3";
    assert_eq!(error.to_string(), expected);
}

#[test]
fn the_first_error_counts() {
    let template = Pages::new(&[2], 1, &seq_core::device());
    let error = template.restore_record(StateRecord::default()).unwrap_err();
    let StateError::Missing { name } = &error else {
        panic!("{error}");
    };
    assert_eq!(name, "text");
}

#[test]
#[should_panic(expected = "a state beside this one has no tensor `0.text`")]
fn states_of_different_layers_are_not_joined() {
    let device = seq_core::device();
    let pages = || Pages::new(&[1], 1, &device);
    Vec::concat([vec![pages()], vec![]]);
}
