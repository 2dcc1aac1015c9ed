//! What PyTorch, ONNX and Hugging Face answer.

use seq_core::testing::Golden;

#[path = "golden/attention.rs"]
mod attention;
#[path = "golden/causal_lm.rs"]
mod causal_lm;
#[path = "golden/encoder.rs"]
mod encoder;
#[path = "golden/layers.rs"]
mod layers;

#[test]
fn golden_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    Golden::new(folder)
        .kind("attention", "sdpa", attention::sdpa)
        .kind("attention", "sdpa_onnx", attention::sdpa_onnx)
        .kind("transformer", "causal_lm", causal_lm::case)
        .kind("transformer", "encoder", encoder::case)
        .kind("transformer", "encoder_layer", layers::encoder)
        .kind("transformer", "decoder_layer", layers::decoder)
        .check();
}
