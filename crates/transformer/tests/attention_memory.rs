//! What attention allocates: nothing that grows with the square of the sequence, and in a step with a cache
//! nothing that grows with the context.

use std::sync::{Mutex, PoisonError};

use burn::tensor::{Device, Distribution, Tensor};
use seq_core::cpu::set_threads;
use seq_core::testing::recurrent::cpu_backends;
use seq_core::testing::recurrent::memory::{Counting, allocated};
use seq_transformer::{
    Attention, MultiHeadAttention, MultiHeadAttentionConfig, RotaryConfig, SequenceLayer,
};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Held by the test that counts: the allocations of all threads are counted together.
static COUNTING: Mutex<()> = Mutex::new(());

/// Times the inputs, at the most; measured: 1.01.
const FORWARD: f64 = 1.5;

/// The same with the gradients of all three; measured: 4.4.
const BACKWARD: f64 = 6.0;

/// Times the scores of all queries and keys, at the most; measured: 0.53.
const SCORES: f64 = 0.9;

/// Allocations of a step at the most; measured: 20 and 16.
const COUNT: usize = 24;

/// Bytes for the bookkeeping of tensors; measured: 272 and 368.
const BOOKKEEPING: usize = 512;

const TIME: usize = 2048;
const HEADS: usize = 4;
const D_HEAD: usize = 64;

/// Bytes of a query, a key, a value or an output.
const TENSOR: usize = TIME * HEADS * D_HEAD * size_of::<f32>();

fn causal(device: &Device) -> Attention {
    let shape = [1, TIME, HEADS, D_HEAD];
    let x = || Tensor::<4>::random(shape, Distribution::Default, device);
    let [query, key, value] = [(); 3].map(|()| match device.is_autodiff() {
        true => x().require_grad(),
        false => x(),
    });
    Attention {
        causal: true,
        ..Attention::new(query, key, value)
    }
}

#[test]
fn memory_grows_with_the_sequence_not_with_its_square() {
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    set_threads(2);
    for backend in cpu_backends() {
        let attention = causal(&backend.device());
        let (count, forward) = allocated(|| drop(attention.run()));
        assert!(count > 0, "`Counting` is not the global allocator");
        let attention = causal(&backend.device().autodiff());
        let leaves = [&attention.query, &attention.key, &attention.value].map(Tensor::clone);
        let (_, backward) = allocated(|| {
            let gradients = attention.run().sum().backward();
            assert!(leaves.iter().all(|x| x.grad(&gradients).is_some()));
        });
        let inputs = |bytes| bytes as f64 / (3 * TENSOR) as f64;
        let (forward, backward) = (inputs(forward), inputs(backward));
        println!("{backend}: {forward:.2} times the inputs forward, {backward:.2} with gradients");
        // The output is a third of the inputs, and so are its gradient and those of each input; the scores would be
        // eleven times the inputs.
        assert!(
            forward < FORWARD,
            "{backend}: {forward:.2} times the inputs"
        );
        assert!(
            backward < BACKWARD,
            "{backend}: {backward:.2} times the inputs"
        );
    }
}

/// The reference body, which other backends run, makes some of the scores at a time, and in its backward pass again.
#[test]
fn the_reference_never_holds_all_scores() {
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    let [queries, keys] = [8192, 4096];
    let all = queries * keys * size_of::<f32>();
    // A CPU is enough: the body is made of Burn's public operations.
    let Some(backend) = cpu_backends().next() else {
        return;
    };
    let device = backend.device().autodiff();
    let x = |time| Tensor::<4>::random([1, time, 1, 2], Distribution::Default, &device);
    let query = x(queries).require_grad();
    let attention = Attention {
        causal: true,
        ..Attention::new(query.clone(), x(keys), x(keys))
    };
    let (count, bytes) = allocated(|| {
        let gradients = attention.reference().sum().backward();
        assert!(query.grad(&gradients).is_some());
    });
    assert!(count > 0, "`Counting` is not the global allocator");
    let share = bytes as f64 / all as f64;
    println!("{share:.2} times all scores");
    // A graph that keeps every step of every part holds them more than six times.
    assert!(share < SCORES, "{share:.2} times all scores");
}

/// Allocations and bytes of a step, after `context` others, with a clone of nothing held elsewhere.
fn step(layer: &MultiHeadAttention, context: usize, device: &Device) -> (usize, usize) {
    let width = layer.d_input();
    let x = Tensor::<3>::random([1, context, width], Distribution::Default, device);
    let (_, state) = layer.forward(x, None);
    let x = Tensor::<2>::random([1, width], Distribution::Default, device);
    // The first makes room for as many again, the second finds everything warm.
    let (_, state) = layer.step(x.clone(), state);
    let (_, state) = layer.step(x.clone(), state);
    let mut state = Some(state);
    allocated(|| {
        let (y, next) = layer.step(x, state.take().expect("the state"));
        assert_eq!(y.dims(), [1, width]);
        state = Some(next);
    })
}

#[test]
fn a_step_allocates_the_same_whatever_the_context() {
    let _alone = COUNTING.lock().unwrap_or_else(PoisonError::into_inner);
    set_threads(2);
    for backend in cpu_backends() {
        let device = backend.device();
        let rotary = RotaryConfig::new(16);
        let layer = MultiHeadAttentionConfig::new(64, 4)
            .with_num_kv_heads(Some(2))
            .with_rotary(Some(rotary))
            .init(&device);
        let vector = layer.d_input() * size_of::<f32>();
        let steps = [100, 400, 1600].map(|context| step(&layer, context, &device));
        for (count, bytes) in steps {
            println!("{backend}: {count} allocations, {bytes} bytes");
            assert!(count > 0, "`Counting` is not the global allocator");
            assert!(count < COUNT, "{backend}: {count} allocations");
            assert_eq!(
                count, steps[0].0,
                "{backend}: allocations of another context"
            );
            // The output is one such vector.
            assert!(bytes < vector + BOOKKEEPING, "{backend}: {bytes} bytes");
        }
    }
}
