//! The kernels under a memory checker.

use burn::tensor::{Distribution, Tensor};
use seq_core::testing::recurrent::{cpu_backends, memory};
use seq_mamba::{Lengths, Mamba2Config, Projection, SelectiveScan, SequenceLayer, Ssd, SsdDecay};

/// Forward and backward at sizes around those of a register and of a chunk, with lengths and resets.
#[test]
fn kernels() {
    for backend in cpu_backends() {
        let device = backend.device().autodiff();
        for [time, d_inner, d_state] in [[1, 1, 1], [33, 7, 5], [70, 34, 9]] {
            let random =
                |shape: [usize; 3]| Tensor::<3>::random(shape, Distribution::Default, &device);
            let x = || random([2, time, d_inner]).require_grad();
            let (u, a) = (x(), -Tensor::<2>::ones([d_inner, d_state], &device));
            let varying = random([2, time, d_state]).unsqueeze_dim(2);
            let scan = SelectiveScan {
                d: Some(Tensor::ones([d_inner], &device)),
                z: Some(x()),
                lengths: Some(Lengths::new([time, time / 2])),
                resets: Some(vec![vec![true; time], vec![false; time]]),
                ..SelectiveScan::new(
                    u.clone(),
                    x(),
                    a.clone(),
                    Projection::Varying(varying),
                    Projection::Constant(a),
                )
            };
            let (y, state) = scan.run();
            let gradients = (y.sum() + state.sum()).backward();
            let gradient = u.grad(&gradients).expect("the gradient of a tracked input");
            assert!(gradient.is_finite().all().into_scalar::<bool>());
        }
    }
}

/// The same of the scan of Mamba-2.
#[test]
fn ssd_kernels() {
    for backend in cpu_backends() {
        let device = backend.device().autodiff();
        for [time, heads, head_dim, d_state] in [[1, 1, 1, 1], [33, 2, 3, 5], [70, 4, 17, 9]] {
            let random =
                |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, &device);
            let x = random([2, time, heads, head_dim]).require_grad();
            let projected = || random([2, time, heads.div_ceil(2), d_state]);
            let decay = -Tensor::<3>::ones([2, time, heads], &device);
            let scan = Ssd {
                d: Some(Tensor::ones([heads, 1], &device)),
                state: Some(random([2, heads, head_dim, d_state])),
                lengths: Some(Lengths::new([time, time / 2])),
                resets: Some(vec![vec![true; time], vec![false; time]]),
                chunk_size: 19,
                ..Ssd::new(
                    x.clone(),
                    SsdDecay::Logarithm(decay),
                    projected(),
                    projected(),
                )
            };
            let (y, state) = scan.run();
            let gradients = (y.sum() + state.sum()).backward();
            let gradient = x.grad(&gradients).expect("the gradient of a tracked input");
            assert!(gradient.is_finite().all().into_scalar::<bool>());
        }
    }
}

/// The gated norm and the step of a stream, with one thread and with two.
#[test]
fn mamba2_kernels() {
    for backend in cpu_backends() {
        for (d_model, norm_before_gate) in [(1, false), (18, true), (200, false)] {
            let config = Mamba2Config::new(d_model)
                .with_head_dim(1)
                .with_n_groups(2)
                .with_d_state(17)
                .with_norm_before_gate(norm_before_gate);
            let device = backend.device();
            let mamba = config.init(&device);
            let x = Tensor::<2>::random([3, d_model], Distribution::Default, &device);
            let state = mamba.initial_state(3, &device);
            let (y, state) = mamba.step(x.clone(), state);
            let (z, _) = mamba.step(x, state);
            assert!((y + z).is_finite().all().into_scalar::<bool>());

            let device = device.autodiff();
            let mamba = config.init(&device);
            let x = Tensor::<3>::random([2, 5, d_model], Distribution::Default, &device);
            let x = x.require_grad();
            let gradients = mamba.forward(x.clone(), None).0.sum().backward();
            let gradient = x.grad(&gradients).expect("the gradient of a tracked input");
            assert!(gradient.is_finite().all().into_scalar::<bool>());
        }
    }
}

#[test]
fn kernels_keep_to_their_memory() {
    memory::under_valgrind("kernels");
    memory::under_valgrind("ssd_kernels");
    memory::under_valgrind("mamba2_kernels");
}
