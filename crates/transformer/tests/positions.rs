//! What must hold of positions that are added, and of linear biases.

use burn::module::{Module, Param};
use burn::tensor::{DType, Device, Tensor, TensorData};
use seq_core::BackendName;
use seq_core::testing::recurrent::cpu_backends;
use seq_transformer::{PositionalEmbedding, PositionsConfig, alibi_slopes, sinusoidal};
use serde_json::Value;

/// The chosen device in f32, and those that compute in f64 in both.
fn devices() -> Vec<(Device, DType)> {
    let cpu = cpu_backends().map(BackendName::device);
    let cpu = cpu.flat_map(|device| [(device.clone(), DType::F32), (device, DType::F64)]);
    let chosen = (seq_transformer::device(), DType::F32);
    std::iter::once(chosen).chain(cpu).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    serde_json::from_value(value.clone()).expect("numbers")
}

/// `[batch, time, width]`, every number another.
fn counting(shape: [usize; 3], options: (&Device, DType)) -> Tensor<3> {
    let count: usize = shape.iter().product();
    let values: Vec<f64> = (0..count).map(|i| i as f64 / 8.0).collect();
    Tensor::from_data(TensorData::new(values, shape), options)
}

fn learned(
    max_positions: usize,
    offset: usize,
    (device, dtype): (&Device, DType),
) -> PositionalEmbedding {
    let config = PositionsConfig::Learned {
        max_positions,
        offset,
    };
    let mut positions = config.init(4, device);
    let weight = positions.weight.take().expect("a table").val();
    positions.weight = Some(Param::from_tensor(weight.cast(dtype).detach()));
    positions
}

#[test]
fn slopes_are_those_of_bloom() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("data/alibi.json")).expect("JSON");
    assert_eq!(cases.len(), 9);
    for case in cases {
        let heads = case["heads"].as_u64().expect("heads") as usize;
        let (found, expected) = (alibi_slopes(heads), numbers(&case["slopes"]));
        assert_eq!(found.len(), heads);
        assert_eq!(expected.len(), heads);
        for (found, expected) in found.into_iter().zip(expected) {
            // Those are powers in single precision: measured, up to 5e-7.
            assert!(
                (found / expected - 1.0).abs() < 2e-6,
                "{heads}: {found}, {expected}"
            );
        }
    }
    assert!(alibi_slopes(0).is_empty());
}

#[test]
fn sinusoids_are_those_of_transformers() {
    let cases: Vec<Value> =
        serde_json::from_str(include_str!("data/sinusoidal.json")).expect("JSON");
    assert_eq!(cases.len(), 2);
    for case in cases {
        let shape: [usize; 2] = serde_json::from_value(case["shape"].clone()).expect("a shape");
        let (found, expected) = (sinusoidal(shape[0], shape[1]), numbers(&case["table"]));
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.into_iter().zip(expected) {
            assert!((found - expected).abs() < 1e-6, "{found}, {expected}");
        }
    }
}

#[test]
fn an_odd_width_ends_with_a_sine() {
    let (odd, position) = (sinusoidal(4, 5), 3.0);
    let row = &odd[15..];
    for (pair, waves) in row.chunks(2).enumerate() {
        let (sin, cos) = (position * 1e4_f64.powf(-2.0 * pair as f64 / 5.0)).sin_cos();
        assert!((waves[0] - sin).abs() < 1e-14);
        assert!(waves.get(1).is_none_or(|wave| (wave - cos).abs() < 1e-14));
    }
    assert!(sinusoidal(0, 4).is_empty() && sinusoidal(3, 0).is_empty());
}

/// The vectors of the table lie where the offsets say.
fn adds_rows(
    positions: &PositionalEmbedding,
    row: impl Fn(usize) -> Tensor<1>,
    options: (&Device, DType),
) {
    let x = counting([3, 2, 4], options);
    for offsets in [vec![0, 9, 3], vec![5, 5, 5], vec![7]] {
        let y = positions.forward(x.clone(), &offsets);
        for batch in 0..3 {
            let offset = offsets[batch % offsets.len()];
            for t in 0..2 {
                let at = |x: &Tensor<3>| -> Tensor<1> {
                    x.clone().slice([batch..batch + 1, t..t + 1]).reshape([4])
                };
                let expected = at(&x) + row(offset + t);
                at(&y).into_data().assert_eq(&expected.into_data(), true);
            }
        }
        // In chunks it is the same.
        let later: Vec<usize> = offsets.iter().map(|offset| offset + 1).collect();
        let steps = [
            positions.forward(x.clone().narrow(1, 0, 1), &offsets),
            positions.forward(x.clone().narrow(1, 1, 1), &later),
        ];
        let steps = Tensor::cat(steps.into(), 1).into_data();
        steps.assert_eq(&y.into_data(), true);
    }
}

#[test]
fn learned_vectors_are_added() {
    for (device, dtype) in devices() {
        for offset in [0, 2] {
            let positions = learned(11, offset, (&device, dtype));
            assert_eq!(positions.max_positions(), Some(11));
            let weight = positions.weight.clone().expect("a table").val();
            assert_eq!(weight.dims(), [11 + offset, 4]);
            let row = |position: usize| -> Tensor<1> {
                weight.clone().narrow(0, position + offset, 1).reshape([4])
            };
            adds_rows(&positions, row, (&device, dtype));
        }
    }
}

#[test]
fn sinusoids_are_added() {
    for (device, dtype) in devices() {
        let positions = PositionsConfig::Sinusoidal.init(4, &device);
        assert_eq!(positions.max_positions(), None);
        assert_eq!(positions.num_params(), 0);
        let table = sinusoidal(11, 4);
        let row = |position: usize| {
            let row = table[position * 4..][..4].to_vec();
            Tensor::<1>::from_data(TensorData::new(row, [4]), (&device, dtype))
        };
        adds_rows(&positions, row, (&device, dtype));
        // So far that its rows are not kept.
        let y = positions.forward(Tensor::zeros([2, 1, 4], (&device, dtype)), &[1, 2_000_000]);
        let last: f64 = y.slice([1..2, 0..1, 0..1]).into_scalar();
        assert!((last - 2e6_f64.sin()).abs() < 1e-6);
    }
}

/// Every position's gradient is the sum of those of the steps that are there.
#[test]
fn gradients_reach_the_rows_that_were_read() {
    for (device, dtype) in devices() {
        let device = device.autodiff();
        for (offsets, count) in [
            (vec![1, 2], [0.0, 1.0, 2.0, 1.0, 0.0]),
            (vec![2], [0.0, 0.0, 2.0, 2.0, 0.0]),
        ] {
            let positions = learned(5, 0, (&device, dtype));
            let weight = positions.weight.clone().expect("a table").val();
            let x = counting([2, 2, 4], (&device, dtype)).require_grad();
            let gradients = positions.forward(x.clone(), &offsets).sum().backward();
            let found: Vec<f64> = {
                let gradient = weight.grad(&gradients).expect("the gradient of the table");
                gradient.into_data().iter().collect()
            };
            let expected: Vec<f64> = count.iter().flat_map(|&count| [count; 4]).collect();
            assert_eq!(found, expected);
            let ones = x.grad(&gradients).expect("the gradient of the input");
            assert_eq!(ones.sum().into_scalar::<f64>(), 16.0);
        }
    }
}

#[test]
fn nothing_is_added_to_nothing() {
    let device = seq_transformer::device();
    for positions in [
        learned(5, 0, (&device, DType::F32)),
        PositionsConfig::Sinusoidal.init(4, &device),
    ] {
        let y = positions.forward(Tensor::zeros([2, 0, 4], &device), &[0]);
        assert_eq!(y.dims(), [2, 0, 4]);
    }
}

#[test]
fn a_config_is_the_same_once_saved() {
    for config in [PositionsConfig::learned(7), PositionsConfig::Sinusoidal] {
        let text = serde_json::to_string(&config).expect("JSON");
        assert_eq!(
            serde_json::from_str::<PositionsConfig>(&text).expect("a config"),
            config
        );
    }
}

#[test]
#[should_panic(
    expected = "position 5 was asked for, and there are 5: the table has shape [7, 4], the offset is 2"
)]
fn a_position_beyond_the_table_is_named() {
    let device = seq_transformer::device();
    learned(5, 2, (&device, DType::F32)).forward(Tensor::zeros([2, 2, 4], &device), &[0, 4]);
}

#[test]
#[should_panic(expected = "the input has shape [2, 3, 5], the positions [4]")]
fn another_width_is_named() {
    let device = seq_transformer::device();
    learned(5, 0, (&device, DType::F32)).forward(Tensor::zeros([2, 3, 5], &device), &[0]);
}

#[test]
#[should_panic(expected = "the input has shape [3, 1, 4], the offsets [2]")]
fn another_number_of_offsets_is_named() {
    let device = seq_transformer::device();
    learned(5, 0, (&device, DType::F32)).forward(Tensor::zeros([3, 1, 4], &device), &[0, 0]);
}
