//! What PyTorch, ONNX and Hugging Face answer.

use seq_core::testing::Golden;

#[path = "golden/attention.rs"]
mod attention;

#[test]
fn golden_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    Golden::new(folder)
        .kind("attention", "sdpa", attention::sdpa)
        .kind("attention", "sdpa_onnx", attention::sdpa_onnx)
        .check();
}
