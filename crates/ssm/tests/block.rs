//! The laws of a sequence layer for blocks and stacks of them.

use burn::module::ModuleDisplay;
use burn::nn::{LayerNormConfig, LinearConfig};
use burn::tensor::{Device, Tensor};
use seq_core::blocks::Stack;
use seq_core::testing::Conformance;
use seq_ssm::{Mixing, S4BlockConfig, S4Config, S5, S5Config, SequenceLayer};

fn s5(size: usize, device: &Device) -> S5 {
    S5Config::new(size)
        .with_d_state(4)
        .with_dt_min(0.05)
        .with_dt_max(0.5)
        .init(device)
}

fn check<L: SequenceLayer + ModuleDisplay + 'static>(
    layer: fn(usize, &Device) -> L,
    config: S4BlockConfig,
) {
    // With fewer features a norm keeps little more than their signs, unless its epsilon is large.
    let config = config.with_norm_eps(0.5);
    Conformance::new(move |size, device| config.init(layer(size + 1, device), device)).check();
}

#[test]
fn norm_first_and_a_gate() {
    check(s5, S4BlockConfig::new());
}

#[test]
fn norm_last_and_no_gate() {
    let config = S4BlockConfig::new()
        .with_prenorm(false)
        .with_mixing(Mixing::Linear);
    check(s5, config);
}

#[test]
fn around_s4() {
    let s4 = |size: usize, device: &Device| S4Config::new(size).with_d_state(4).init(device);
    check(s4, S4BlockConfig::new().with_dropout(0.3));
}

#[test]
fn a_stack_with_a_map_and_a_norm() {
    let make = |size: usize, device: &Device| {
        let d_model = size + 2;
        let block = |_| {
            S4BlockConfig::new()
                .with_norm_eps(0.5)
                .init(s5(d_model, device), device)
        };
        let norm = LayerNormConfig::new(d_model).with_epsilon(0.5);
        Stack::new((0..2).map(block).collect())
            .with_input(LinearConfig::new(size, d_model).init(device))
            .with_norm(norm.init(device))
    };
    Conformance::new(make).check();
}

#[test]
fn a_bare_stack() {
    let make = |size: usize, device: &Device| Stack::new(vec![s5(size, device), s5(size, device)]);
    Conformance::new(make).check();
}

#[test]
#[should_panic(expected = "layer 1 has d_input 4, the one before it d_output 3")]
fn layers_that_do_not_fit_are_named() {
    let device = seq_ssm::device();
    Stack::new(vec![s5(3, &device), s5(4, &device)]);
}

#[test]
#[should_panic(expected = "the map gives a width of 2, the first layer has d_input 3")]
fn a_map_that_does_not_fit_is_named() {
    let device = seq_ssm::device();
    let input = LinearConfig::new(1, 2).init(&device);
    Stack::new(vec![s5(3, &device)]).with_input(input);
}

#[test]
#[should_panic(expected = "the norm has a width of 2, the last layer d_output 3")]
fn a_norm_that_does_not_fit_is_named() {
    let device = seq_ssm::device();
    let norm = LayerNormConfig::new(2).init(&device);
    Stack::new(vec![s5(3, &device)]).with_norm(norm);
}

#[test]
#[should_panic(expected = "the state is of 1 layers, the stack has 2")]
fn a_state_of_another_stack_is_named() {
    let device = seq_ssm::device();
    let stack = Stack::new(vec![s5(3, &device), s5(3, &device)]);
    let mut state = stack.initial_state(2, &device);
    state.pop();
    stack.step(Tensor::ones([2, 3], &device), state);
}

#[test]
#[should_panic(expected = "the input has shape [2, 5, 4], the block d_model 3")]
fn a_wrong_width_is_named() {
    let device = seq_ssm::device();
    let block = S4BlockConfig::new().init(s5(3, &device), &device);
    block.forward(Tensor::ones([2, 5, 4], &device), None);
}

#[test]
fn impossible_options_are_named() {
    let error = S4BlockConfig::new()
        .with_dropout(1.0)
        .validate()
        .unwrap_err();
    assert_eq!(error.to_string(), "dropout must be in [0, 1), is 1");
    let error = S4BlockConfig::new()
        .with_norm_eps(0.0)
        .validate()
        .unwrap_err();
    assert_eq!(error.to_string(), "norm_eps must be positive, is 0");
}
