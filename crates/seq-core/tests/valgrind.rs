//! The kernels under a memory checker.

use burn::tensor::{Distribution, Tensor};
use seq_core::Lengths;
use seq_core::scan::{Complex, ComplexDecay, ComplexScan, Decay, LinearScan};
use seq_core::testing::recurrent::{cpu_backends, memory};

/// Forward and backward at sizes around those of registers and of a chunk, and with several threads,
/// with lengths and resets.
#[test]
fn scans() {
    for backend in cpu_backends() {
        let device = backend.device().autodiff();
        for [time, width] in [[1, 1], [65, 15], [66, 130], [130, 259]] {
            let random = |shape: [usize; 3]| {
                Tensor::<3>::random(shape, Distribution::Default, &device).require_grad()
            };
            let x = Complex::new(random([2, time, width]), random([2, time, width]));
            let decays = [
                ComplexDecay::Varying(x.clone().map(|plane| plane * 0.5)),
                ComplexDecay::Constant(
                    x.clone()
                        .map(|plane| plane.slice([0..1, 0..1]).reshape([-1])),
                ),
            ];
            for decay in decays {
                let scan = ComplexScan {
                    lengths: Some(Lengths::new([time, time / 2])),
                    resets: Some(vec![vec![true; time], vec![false; time]]),
                    ..ComplexScan::new(decay, x.clone())
                };
                let (states, last) = scan.run();
                let (real, _) = LinearScan::new(Decay::Varying(x.im.clone()), x.re.clone()).run();
                let loss = states.re.sum() + states.im.sum() + last.re.sum() + real.sum();
                let gradient = x.re.grad(&loss.backward()).expect("a gradient");
                assert_eq!(gradient.dims(), [2, time, width]);
            }
        }
    }
}

#[test]
fn kernels_keep_to_their_memory() {
    memory::under_valgrind("scans");
}
