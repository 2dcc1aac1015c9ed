//! What a step of a stream allocates for its rotary positions.

use burn::tensor::Tensor;
use seq_core::testing::recurrent::cpu_backends;
use seq_core::testing::recurrent::memory::{Counting, allocated};
use seq_transformer::RotaryConfig;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bookkeeping of a tensor of four axes.
const BOOKKEEPING: usize = 1024;

#[test]
fn a_step_allocates_its_output_alone() {
    for backend in cpu_backends() {
        let rotary = RotaryConfig::new(64).init();
        let shape = [1, 1, 32, 64];
        let x = Tensor::<4>::zeros(shape, &backend.device());
        let output = shape.iter().product::<usize>() * size_of::<f32>();
        let step = |offset| {
            let x = x.clone();
            allocated(|| assert_eq!(rotary.forward(x, &[offset]).dims(), shape))
        };
        let (growing, _) = step(700);
        assert!(growing > 0, "`Counting` is not the global allocator");
        let (count, bytes) = step(0);
        println!("{backend}: {count} allocations, {bytes} bytes");
        assert!(bytes < output + BOOKKEEPING, "{backend}: {bytes} bytes");
        for offset in [1, 64, 699] {
            assert_eq!(step(offset).0, count, "{backend}");
        }
        // What is used nowhere else is turned where it lies.
        let own = x.clone() + 1.0;
        let (_, bytes) = allocated(|| drop(rotary.forward(own, &[3])));
        println!("{backend}: {bytes} bytes in place");
        assert!(bytes < BOOKKEEPING, "{backend}: {bytes} bytes in place");
    }
}
