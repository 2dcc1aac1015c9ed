//! The laws of a sequence layer for S4, and its kernel against the formulas of the paper.

use burn::tensor::Device;
use seq_core::testing::Conformance;
use seq_ssm::{S4, S4Config};

fn make(size: usize, device: &Device) -> S4 {
    // Large steps, so that a few of them see the whole system.
    S4Config::new(size)
        .with_d_state(2 * (size % 4 + 1))
        .with_dt_min(0.05)
        .with_dt_max(0.5)
        .init(device)
}

#[test]
fn laws() {
    Conformance::new(make)
        .with_reference(|s4: &S4, x, lengths, state| s4.reference(x, lengths, state))
        .check();
}

#[test]
fn laws_at_another_rate() {
    Conformance::new(|size, device| make(size, device).with_rate(1.7))
        .with_reference(|s4: &S4, x, lengths, state| s4.reference(x, lengths, state))
        .check();
}
