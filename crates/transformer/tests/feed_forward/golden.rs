//! What PyTorch and transformers answer, see `tests/data/feed_forward.py`.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{DType, Device, Tensor, TensorData};
use seq_core::testing::random::error;
use seq_core::testing::recurrent::cpu_devices;
use seq_transformer::{
    Activation, FeedForward, FeedForwardConfig, Lengths, MixtureOfExpertsConfig,
};
use serde::Deserialize;
use serde_json::Value;

use crate::activation::ALL;

fn golden() -> Value {
    serde_json::from_str(include_str!("../data/feed_forward.json")).expect("JSON")
}

fn tensor<const D: usize>(value: &Value, device: &Device) -> Tensor<D> {
    #[derive(Deserialize)]
    struct Stored {
        shape: Vec<usize>,
        values: Vec<f64>,
    }
    let stored = Stored::deserialize(value).expect("a tensor");
    let data = TensorData::new(stored.values, stored.shape);
    Tensor::from_data(data, (device, DType::F64))
}

/// PyTorch's weights are `[d_output, d_input]`.
fn map(weight: Tensor<2>, bias: Option<Tensor<1>>) -> Linear {
    Linear {
        weight: Param::from_tensor(weight.transpose().detach().require_grad()),
        bias: bias.map(Param::from_tensor),
    }
}

#[test]
fn activations_are_those_of_transformers() {
    let golden = golden();
    for device in cpu_devices() {
        let device = device.autodiff();
        for activation in ALL {
            let x: Tensor<1> = tensor(&golden["activations"]["x"], &device).require_grad();
            let expected = &golden["activations"]["of"][format!("{activation:?}")];
            let y = activation.forward(x.clone());
            let gradient = x.grad(&y.clone().sum().backward()).expect("a gradient");
            let device = device.clone().inner();
            for (found, name) in [(y.inner(), "y"), (gradient, "gradient")] {
                // The zero of ReLU's derivative at 0 is PyTorch's, too.
                let error = error(found, tensor(&expected[name], &device));
                // Measured: 4.3e-15.
                assert!(error < 1e-14, "{activation:?} {name}: {error:e}");
            }
        }
    }
}

fn answers_as(golden: &Value, device: &Device, layer: FeedForward) {
    let autodiff = device.clone().autodiff();
    let x: Tensor<3> = tensor(&golden["x"], &autodiff).require_grad();
    let y = layer.forward(x.clone());
    let probe = tensor(&golden["probe"], &autodiff);
    let gradients = (y.clone() * probe).sum().backward();
    let gradient = x.grad(&gradients).expect("a gradient");
    assert!(error(y.inner(), tensor(&golden["y"], device)) < 2e-15);
    assert!(error(gradient, tensor(&golden["gradient"], device)) < 2e-15);
}

#[test]
fn a_layer_is_that_of_pytorchs_encoder() {
    let golden = &golden()["encoder"];
    for device in cpu_devices() {
        let autodiff = device.clone().autodiff();
        let read = |name: &str| tensor(&golden[name], &autodiff);
        let bias = |name: &str| Some(tensor(&golden[name], &autodiff));
        let mut layer = FeedForwardConfig::new(4, 7).init(&autodiff);
        layer.input = map(read("input"), bias("input_bias"));
        layer.output = map(read("output"), bias("output_bias"));
        answers_as(golden, &device, layer);
    }
}

#[test]
fn a_gated_layer_is_that_of_llama() {
    let golden = &golden()["llama"];
    let config = FeedForwardConfig::new(4, 7)
        .with_activation(Activation::Silu)
        .with_gated(true)
        .with_bias(false);
    for device in cpu_devices() {
        let autodiff = device.clone().autodiff();
        let read = |name: &str| map(tensor(&golden[name], &autodiff), None);
        let mut layer = config.init(&autodiff);
        layer.input = read("input");
        layer.gate = Some(read("gate"));
        layer.output = read("output");
        answers_as(golden, &device, layer);
    }
}

/// Output, loss and gradients. Mixtral's router computes its probabilities in f32, whatever the rest does.
#[test]
fn a_mixture_is_that_of_mixtral() {
    let golden = &golden()["mixtral"];
    for device in cpu_devices() {
        let autodiff = device.clone().autodiff();
        let read = |name: &str| tensor::<3>(&golden[name], &autodiff);
        let part = |name: &str, e| map(read(name).narrow(0, e, 1).squeeze_dim(0), None);
        let mut layer = MixtureOfExpertsConfig::new(4, 6, 5).init(&autodiff);
        layer.router = map(tensor(&golden["router"], &autodiff), None);
        for (e, expert) in layer.experts.iter_mut().enumerate() {
            expert.input = part("input", e);
            expert.gate = Some(part("gate", e));
            expert.output = part("output", e);
        }
        let x = read("x").require_grad();
        let lengths: Vec<usize> = Vec::deserialize(&golden["lengths"]).expect("lengths");
        let masked = layer
            .forward(x.clone(), Some(&Lengths::new(lengths)))
            .balance;
        let routed = layer.forward(x.clone(), None);

        let tolerance = 1e-6;
        let close = |found: Tensor<1>, name: &str| {
            let found: f64 = found.into_scalar();
            let expected = golden[name].as_f64().expect("a number");
            assert!(
                (found - expected).abs() < tolerance,
                "{name}: {found}, expected {expected}"
            );
        };
        close(routed.balance.clone(), "balance");
        close(masked.clone(), "masked_balance");
        let same = |found: Tensor<3>, expected: Tensor<3>, name: &str| {
            let error = error(found, expected);
            assert!(error < tolerance, "{name}: {error:e}");
        };
        same(routed.y.clone().inner(), tensor(&golden["y"], &device), "y");

        let loss = (routed.y * read("probe")).sum() + routed.balance;
        let gradients = loss.backward();
        let x_gradient = x.grad(&gradients).expect("a gradient");
        same(
            x_gradient,
            tensor(&golden["x_gradient"], &device),
            "x_gradient",
        );
        let gradient = |layer: &Linear| {
            let weight = layer.weight.val();
            // An expert that no token was given to has none.
            let gradient = weight.grad(&gradients);
            let gradient = gradient.unwrap_or_else(|| weight.inner().zeros_like());
            gradient.transpose().unsqueeze_dim::<3>(0)
        };
        let two = |name: &str| tensor::<2>(&golden[name], &device).unsqueeze_dim::<3>(0);
        same(
            gradient(&layer.router),
            two("router_gradient"),
            "router_gradient",
        );
        for (e, expert) in layer.experts.iter().enumerate() {
            let expected: Tensor<3> = tensor(&golden["output_gradient"], &device);
            same(
                gradient(&expert.output),
                expected.narrow(0, e, 1),
                "output_gradient",
            );
        }
        let masked = masked.backward();
        let masked = layer.router.weight.val().grad(&masked).expect("a gradient");
        let name = "masked_router_gradient";
        same(masked.transpose().unsqueeze_dim(0), two(name), name);
    }
}
