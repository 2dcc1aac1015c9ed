//! The GRU against what PyTorch and onnxruntime answer.

use seq_core::testing::Golden;
use seq_gru::GruConfig;

#[test]
fn golden_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let begin = |d_input, d_hidden, _: &mut _| GruConfig::new(d_input, d_hidden);
    Golden::new(folder).recurrent("gru", begin).check();
}
