//! The kernels under a memory checker.

use seq_core::testing::recurrent::memory;
use seq_rnn::RnnConfig;

#[test]
fn kernels() {
    memory::run_kernels(RnnConfig::new);
    memory::run_kernels(|d_input, d_hidden| {
        RnnConfig::new(d_input, d_hidden).with_independent(true)
    });
}

#[test]
fn kernels_keep_to_their_memory() {
    memory::under_valgrind("kernels");
}
