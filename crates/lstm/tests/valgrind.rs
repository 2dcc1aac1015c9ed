//! The kernels under a memory checker.

use std::process::Command;

use burn::tensor::{Distribution, Tensor};
use seq_lstm::{Lengths, LstmConfig, SequenceLayer};

/// Forward, backward and step at sizes around those of a register, with and without lengths.
#[test]
fn kernels() {
    for backend in seq_core::BackendName::compiled() {
        if !["ndarray", "flex"].contains(&backend.name()) {
            continue;
        }
        let device = backend.device().autodiff();
        for (batch, time, d_input, d_hidden) in [(1, 1, 1, 1), (2, 3, 5, 7), (7, 2, 9, 33)] {
            let config = LstmConfig::new(d_input, d_hidden).with_peephole(true);
            let lstm = config.init(&device);
            let shape = [batch, time, d_input];
            let x = Tensor::<3>::random(shape, Distribution::Default, &device).require_grad();
            let lengths = Lengths::new((0..batch).map(|row| row % (time + 1)));
            let (y, state) = lstm.forward_padded(x.clone(), &lengths, None);
            let (z, _) = lstm.step(x.clone().narrow(1, 0, 1).squeeze_dim(1), state);
            let gradients = (y.sum() + z.sum()).backward();
            let x = x
                .grad(&gradients)
                .expect("the gradient of a tracked input")
                .into_data();
            let values = x.as_slice::<f32>().expect("f32");
            assert!(values.iter().all(|value| value.is_finite()), "{values:?}");
        }
        // Packed weights that are used again.
        let lstm = LstmConfig::new(5, 33).init(&backend.device());
        let x = Tensor::<3>::random([1, 40, 5], Distribution::Default, &backend.device());
        let (_, state) = lstm.forward(x.clone(), None);
        let (y, _) = lstm.forward(x, Some(state));
        assert!(y.is_finite().all().into_scalar::<bool>());
    }
}

/// Runs the test above in a process of its own under valgrind, where that is installed.
#[test]
fn kernels_keep_to_their_memory() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("valgrind is not installed: the kernels were run without it");
        return;
    }
    let test = std::env::current_exe().expect("the path of this test");
    // Addresses alone: of values, optimised code looks at enum tags before it knows that they count,
    // and the kernels' own memory is poisoned in debug builds.
    let output = Command::new("valgrind")
        .args(["--quiet", "--undef-value-errors=no", "--error-exitcode=9"])
        .arg(test)
        .args(["--exact", "kernels", "--test-threads=1"])
        .env("SEQ_NUM_THREADS", "2")
        .env("RAYON_NUM_THREADS", "1")
        .output()
        .expect("valgrind runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "valgrind: {}\n{text}",
        output.status
    );
}
