//! The feed-forward layer against its parts.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{DType, Tensor};
use seq_core::testing::random::{Random, error};
use seq_transformer::{Activation, FeedForward, FeedForwardConfig, Mlp, MlpConfig, device};

use crate::activation::ALL;

/// What the documentation says, by Burn's own layers.
fn by_parts(layer: &FeedForward, x: Tensor<3>) -> Tensor<3> {
    let input = layer.input.forward(x.clone());
    let hidden = match &layer.gate {
        Some(gate) => layer.activation.reference(gate.forward(x)) * input,
        None => layer.activation.reference(input),
    };
    layer.output.forward(hidden)
}

#[test]
fn a_layer_is_its_parts() {
    let device = device();
    for activation in ALL {
        for (gated, bias) in [(false, true), (true, false), (true, true)] {
            let config = FeedForwardConfig::new(12, 31)
                .with_activation(activation)
                .with_gated(gated)
                .with_bias(bias);
            let layer = config.init(&device);
            assert_eq!(layer.gate.is_some(), gated);
            assert_eq!(layer.output.bias.is_some(), bias);
            let x = Random::new(3, &device, DType::F32).tensor("x", [2, 7, 12]);
            let error = error(layer.forward(x.clone()), by_parts(&layer, x));
            assert!(error < 3e-6, "{activation:?} {gated} {bias}: {error:e}");
        }
    }
}

#[test]
fn any_rank_is_rows() {
    let device = device();
    let layer = FeedForwardConfig::new(6, 10).init(&device);
    let x: Tensor<3> = Random::new(4, &device, DType::F32).tensor("x", [2, 3, 6]);
    let y = layer.forward(x.clone()).reshape([6, 6]);
    let rows = layer.forward(x.clone().reshape([6, 6]));
    assert!(error(rows, y.clone()) < 1e-6);
    let four = layer.forward(x.reshape([1, 3, 2, 6]));
    assert!(error(four.reshape([6, 6]), y) < 1e-6);
}

/// `U(-1 / sqrt(d_input), 1 / sqrt(d_input))`, biases too.
#[test]
fn weights_begin_as_those_of_pytorch() {
    let device = device();
    device.seed(5);
    let layer = FeedForwardConfig::new(64, 256)
        .with_gated(true)
        .init(&device);
    let maps = [
        &layer.input,
        layer.gate.as_ref().expect("a gate"),
        &layer.output,
    ];
    for (map, d_input) in maps.into_iter().zip([64.0_f64, 64.0, 256.0]) {
        let bias = map.bias.as_ref().expect("a bias").val();
        let bound = 1.0 / d_input.sqrt();
        for values in [map.weight.val().reshape([-1]), bias] {
            let largest: f64 = values.abs().max().into_scalar();
            assert!(
                (0.9 * bound..=bound * 1.000_001).contains(&largest),
                "{largest} of {bound}"
            );
        }
    }
}

/// Before the output map: what a map of ones and a bias of 7 makes of dropped elements is 7.
#[test]
fn dropout_is_before_the_output_and_in_training_alone() {
    let training = device().autodiff();
    training.seed(6);
    let config = FeedForwardConfig::new(1, 1)
        .with_activation(Activation::Relu)
        .with_dropout(0.25);
    let run = |device| {
        let map = |bias: f32| Linear {
            weight: Param::from_tensor(Tensor::ones([1, 1], device)),
            bias: Some(Param::from_tensor(Tensor::full([1], bias, device))),
        };
        let mut layer = config.init(device);
        (layer.input, layer.output) = (map(0.0), map(7.0));
        let y = layer.forward(Tensor::<2>::ones([4000, 1], device));
        y.into_data().iter::<f32>().collect::<Vec<_>>()
    };
    let y = run(&training);
    let dropped = y.iter().filter(|&&y| y == 7.0).count();
    let kept = y
        .iter()
        .filter(|&&y| (y - 7.0 - 1.0 / 0.75).abs() < 1e-5)
        .count();
    assert_eq!(dropped + kept, 4000);
    // Five standard deviations.
    assert!((863..=1137).contains(&dropped), "{dropped}");
    assert!(run(&device()).iter().all(|&y| y == 8.0));
}

#[test]
fn an_mlp_of_one_layer_is_the_layer() {
    let device = device();
    let layer = FeedForwardConfig::new(4, 8).init(&device);
    let x: Tensor<3> = Random::new(7, &device, DType::F32).tensor("x", [2, 3, 4]);
    let (y, balance) = Mlp::from(layer.clone()).forward(x.clone(), None);
    assert!(balance.is_none());
    assert_eq!(y.into_data(), layer.forward(x).into_data());
}

#[test]
fn configurations_are_saved_and_loaded() {
    let config = FeedForwardConfig::new(4, 8).with_activation(Activation::GeluTanh);
    let text = serde_json::to_string(&MlpConfig::from(config)).expect("a configuration");
    assert!(text.contains("GeluTanh"), "{text}");
    let loaded: MlpConfig = serde_json::from_str(&text).expect("what was written");
    assert_eq!(
        serde_json::to_string(&loaded).expect("a configuration"),
        text
    );
}

#[test]
#[should_panic(expected = "the input has shape [2, 5], the weight [4, 8]")]
fn another_width_is_named() {
    let device = device();
    let layer = FeedForwardConfig::new(4, 8).init(&device);
    layer.forward(Tensor::<2>::ones([2, 5], &device));
}
