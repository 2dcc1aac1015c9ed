//! The LSTM against what PyTorch and onnxruntime answer.

use seq_core::testing::Golden;
use seq_lstm::LstmConfig;

#[test]
fn golden_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    let begin = |d_input, d_hidden, _: &mut _| LstmConfig::new(d_input, d_hidden);
    Golden::new(folder).recurrent("lstm", begin).check();
}
