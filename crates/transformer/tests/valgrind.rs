//! The kernels under a memory checker.

use burn::tensor::{Device, Distribution, Gradients, Tensor};
use seq_core::testing::recurrent::{cpu_backends, memory};
use seq_transformer::{
    Activation, Attention, AttentionDropout, Lengths, MultiHeadAttentionConfig, RotaryConfig,
    SequenceLayer,
};

fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Default, device)
}

fn check<const D: usize>(x: &Tensor<D>, gradients: &Gradients) {
    let gradient = x.grad(gradients).expect("the gradient of a tracked input");
    assert!(gradient.is_finite().all().into_scalar::<bool>());
}

/// Forward and backward at sizes around those of a register and of a block of queries or keys.
#[test]
fn attention() {
    for backend in cpu_backends() {
        let device = backend.device().autodiff();
        for [time_query, time_key, d_head, d_value] in
            [[1, 1, 1, 1], [33, 130, 5, 7], [130, 33, 17, 16]]
        {
            let x = |time, heads, width| random([2, time, heads, width], &device).require_grad();
            let inputs = [
                x(time_query, 4, d_head),
                x(time_key, 2, d_head),
                x(time_key, 2, d_value),
            ];
            let [query, key, value] = inputs.clone();
            let bias = random([1, 4, 1, time_key], &device).require_grad();
            let mask = random::<4>([2, 1, time_query, 1], &device).greater_elem(0.2);
            let attention = Attention {
                causal: true,
                window: Some(40),
                softcap: Some(2.0),
                alibi: Some(vec![0.1; 4]),
                mask: Some(mask),
                bias: Some(bias.clone()),
                key_lengths: Some(Lengths::new([time_key, time_key.div_ceil(2)])),
                dropout: Some(AttentionDropout { prob: 0.2, seed: 3 }),
                ..Attention::new(query, key, value)
            };
            let gradients = attention.run().sum().backward();
            inputs
                .iter()
                .chain([&bias])
                .for_each(|x| check(x, &gradients));
        }
    }
}

/// Steps of a stream by the kernel of the whole layer, and several at once, after caches of several sizes.
#[test]
fn steps() {
    for backend in cpu_backends() {
        let device = backend.device();
        for (heads, kv_heads, d_head) in [(1, 1, 2), (4, 2, 17), (6, 6, 40)] {
            let rotary = RotaryConfig::new(d_head).with_d_rotary(Some(2));
            let layer = MultiHeadAttentionConfig::new(19, heads)
                .with_num_kv_heads(Some(kv_heads))
                .with_head_width(Some(d_head))
                .with_rotary(Some(rotary))
                .with_window(Some(50))
                .init(&device);
            let (_, state) = layer.forward(random([3, 70, 19], &device), None);
            let (y, state) = layer.step(random([3, 19], &device), state);
            let (z, state) = layer.forward(random([3, 3, 19], &device), Some(state));
            let (last, _) = layer.step(random([3, 19], &device), state);
            let sum = y.sum() + z.sum() + last.sum();
            assert!(sum.is_finite().all().into_scalar::<bool>());
        }
    }
}

/// Rotations of both kinds and activations.
#[test]
fn elementwise() {
    for backend in cpu_backends() {
        let device = backend.device().autodiff();
        for width in [2, 34, 70] {
            let x = random([2, 3, 2, width], &device).require_grad();
            for interleaved in [false, true] {
                let rotary = RotaryConfig::new(width)
                    .with_interleaved(interleaved)
                    .init();
                let gradients = rotary.forward(x.clone(), &[0, 5]).sum().backward();
                check(&x, &gradients);
            }
            for activation in [
                Activation::Relu,
                Activation::Gelu,
                Activation::GeluTanh,
                Activation::Silu,
            ] {
                check(&x, &activation.forward(x.clone()).sum().backward());
            }
        }
    }
}

#[test]
fn kernels_keep_to_their_memory() {
    memory::under_valgrind("attention");
    memory::under_valgrind("steps");
    memory::under_valgrind("elementwise");
}
