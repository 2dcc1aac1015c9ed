//! The kernels under a memory checker.

use seq_core::testing::recurrent::memory;
use seq_lstm::LstmConfig;

#[test]
fn kernels() {
    memory::run_kernels(|d_input, d_hidden| LstmConfig::new(d_input, d_hidden).with_peephole(true));
}

#[test]
fn kernels_keep_to_their_memory() {
    memory::under_valgrind("kernels");
}
