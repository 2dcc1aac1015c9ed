//! What a cache holds: prefixes that are read once, steps that are taken back, windows that stay small.

use std::fmt::Debug;

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use seq_core::{StateError, StateRecord};
use seq_transformer::{
    FeedForwardConfig, KvCache, MultiHeadAttention, MultiHeadAttentionConfig, RewindError,
    RotaryConfig, SequenceLayer, SequenceState, TransformerBlockConfig, TransformerConfig,
};

fn layer(window: Option<usize>, device: &Device) -> MultiHeadAttention {
    MultiHeadAttentionConfig::new(8, 2)
        .with_rotary(Some(RotaryConfig::new(4)))
        .with_window(window)
        .init(device)
}

fn random(time: usize, device: &Device) -> Tensor<3> {
    Tensor::random([2, time, 8], Distribution::Default, device)
}

fn off(a: Tensor<3>, b: Tensor<3>) -> f32 {
    (a - b).abs().max().into_scalar::<f32>()
}

fn steps(layer: &MultiHeadAttention, x: Tensor<3>, mut state: KvCache) -> (Tensor<3>, KvCache) {
    let mut outputs = Vec::new();
    for t in 0..x.dims()[1] {
        let (y, next) = layer.step(x.clone().narrow(1, t, 1).squeeze_dim(1), state);
        outputs.push(y.unsqueeze_dim::<3>(1));
        state = next;
    }
    (Tensor::cat(outputs, 1), state)
}

#[test]
#[should_panic(expected = "the state has heads of keys [4, 4], the layer has [2, 4]")]
fn the_cache_of_a_wider_layer_is_refused() {
    let device = seq_transformer::device();
    let other = MultiHeadAttentionConfig::new(8, 4).with_head_width(Some(4));
    let (_, state) = other.init(&device).forward(random(3, &device), None);
    layer(None, &device).step(Tensor::zeros([2, 8], &device), state);
}

#[test]
#[should_panic(expected = "shape")]
fn a_layer_that_looks_at_a_narrower_sequence_takes_no_step() {
    let device = seq_transformer::device();
    let layer = MultiHeadAttentionConfig::new(8, 2)
        .with_d_memory(Some(3))
        .init(&device);
    let state = layer.initial_state(2, &device);
    layer.step(Tensor::zeros([2, 8], &device), state);
}

#[test]
fn a_prefix_is_continued_in_several_ways() {
    let device = seq_transformer::device();
    let layer = layer(None, &device);
    let (prefix, one, other) = (random(40, &device), random(3, &device), random(3, &device));
    let (_, state) = layer.forward(prefix.clone(), None);
    for end in [one, other] {
        let (found, _) = steps(&layer, end.clone(), state.clone());
        let (whole, _) = layer.forward(Tensor::cat(vec![prefix.clone(), end], 1), None);
        // Sums of another order.
        assert!(off(found, whole.narrow(1, 40, 3)) < 1e-5);
    }
    assert_eq!(state.positions(), [40, 40]);
}

#[test]
fn what_is_rewound_is_as_if_it_had_not_been_read() {
    let device = seq_transformer::device();
    for window in [None, Some(16)] {
        let layer = layer(window, &device);
        let (begin, end) = (random(12, &device), random(4, &device));
        let (_, state) = layer.forward(begin.clone(), None);
        let (_, state) = steps(&layer, random(2, &device), state);
        let state = state.rewind(12).unwrap();
        let (found, _) = steps(&layer, end.clone(), state);
        let (whole, _) = layer.forward(Tensor::cat(vec![begin, end], 1), None);
        assert!(off(found, whole.narrow(1, 12, 4)) < 1e-5);
    }
}

#[test]
fn a_rewind_that_cannot_be_is_refused() {
    let device = seq_transformer::device();
    let (_, state) = layer(None, &device).forward(random(5, &device), None);
    let error = state.rewind(6).unwrap_err();
    let (row, read, length) = (0, 5, 6);
    assert_eq!(error, RewindError::NotReached { row, read, length });

    let (_, state) = layer(Some(3), &device).forward(random(500, &device), None);
    let error = state.rewind(2).unwrap_err();
    assert!(matches!(error, RewindError::Dropped { .. }), "{error}");
}

#[test]
fn a_window_keeps_the_room_bounded() {
    let device = seq_transformer::device();
    let layer = layer(Some(5), &device);
    let x = random(150, &device);
    let (found, state) = steps(&layer, x.clone(), layer.initial_state(2, &device));
    assert_eq!(state.positions(), [150, 150]);
    // Twice the room of the beginning at most.
    assert!(state.room() <= 64, "room for {}", state.room());
    let (whole, _) = layer.forward(x, None);
    assert!(off(found, whole) < 1e-5);
}

#[test]
fn room_doubles() {
    let device = seq_transformer::device();
    let layer = layer(None, &device);
    let mut state = layer.initial_state(2, &device);
    let mut rooms = vec![state.room()];
    for _ in 0..100 {
        state = layer.step(Tensor::ones([2, 8], &device), state).1;
        if rooms.last() != Some(&state.room()) {
            rooms.push(state.room());
        }
    }
    assert_eq!(rooms, [32, 64, 128]);
    assert_eq!(state.held(), [100, 100]);
}

/// The error of a record in which entries were replaced.
fn error<S: SequenceState + Debug>(
    template: S,
    mut record: StateRecord,
    entries: &[(&str, TensorData)],
) -> String {
    for (name, data) in entries {
        let before = record.tensors.insert(name.to_string(), data.clone());
        assert!(before.is_some(), "there is no `{name}`");
    }
    let error = template.restore_record(record).unwrap_err();
    assert!(matches!(error, StateError::Inconsistent { .. }), "{error}");
    error.to_string()
}

fn zeros(time: usize) -> TensorData {
    TensorData::zeros::<f32, _>([2, time, 2, 4])
}

#[test]
fn damaged_records_are_refused() {
    let device = seq_transformer::device();
    let layer = layer(None, &device);
    let (_, state) = layer.forward(random(5, &device), None);
    let template = || layer.initial_state(1, &device);
    let steps = |rows: [[i64; 2]; 2]| ("steps", TensorData::from(rows));
    let cases = [
        (
            vec![steps([[5, 5], [6, 6]])],
            "tensor `steps`: expected at most 5 steps held, as there are keys, found 6",
        ),
        (
            vec![steps([[5, 5], [5, 4]])],
            "tensor `steps`: expected 4 to 4 steps held of 4 read, found 5",
        ),
        // Without a window nothing is dropped.
        (
            vec![steps([[4, 5], [5, 5]])],
            "tensor `steps`: expected 5 to 5 steps held of 5 read, found 4",
        ),
        (
            vec![("values", zeros(4))],
            "tensor `values`: expected as many steps as the keys, 5, found 4",
        ),
        (
            vec![
                ("keys", zeros(0)),
                ("values", zeros(0)),
                steps([[0, 0], [0, 0]]),
            ],
            "tensor `keys`: expected room for a step, found 0",
        ),
    ];
    for (entries, expected) in cases {
        assert_eq!(error(template(), state.record(), &entries), expected);
    }
}

#[test]
fn a_window_may_have_dropped_what_is_no_longer_seen() {
    let device = seq_transformer::device();
    let layer = layer(Some(3), &device);
    let x = random(9, &device);
    let (whole, _) = layer.forward(x.clone(), None);
    let (_, state) = layer.forward(x.clone().narrow(1, 0, 8), None);
    let template = || layer.initial_state(1, &device);
    let restored = template().restore(&state.to_bytes()).unwrap();
    assert_eq!(restored.held(), [2, 2]);
    let (last, _) = layer.forward(x.narrow(1, 8, 1), Some(restored));
    assert!(off(last, whole.narrow(1, 8, 1)) < 1e-5);

    let steps = TensorData::from([[2i64, 8], [1, 8]]);
    assert_eq!(
        error(template(), state.record(), &[("steps", steps)]),
        "tensor `steps`: expected 2 to 8 steps held of 8 read, found 1"
    );
}

#[test]
fn a_stack_names_the_cache_that_is_damaged() {
    let device = seq_transformer::device();
    let attention = MultiHeadAttentionConfig::new(8, 2);
    let block = TransformerBlockConfig::new(attention, FeedForwardConfig::new(8, 8).into());
    let layer = TransformerConfig::new(2, block).init(&device);
    let (_, state) = layer.forward(random(5, &device), None);
    let template = || layer.initial_state(1, &device);
    let restored = template().restore_record(state.record()).unwrap();
    assert_eq!(restored.positions(), [5, 5]);
    assert_eq!(
        error(template(), state.record(), &[("1.values", zeros(6))]),
        "tensor `1.values`: expected as many steps as the keys, 5, found 6"
    );
}
