//! The kernels under a memory checker.

use seq_core::testing::recurrent::memory;
use seq_gru::GruConfig;

#[test]
fn kernels() {
    memory::run_kernels(GruConfig::new);
    memory::run_kernels(|d_input, d_hidden| {
        GruConfig::new(d_input, d_hidden).with_reset_after(false)
    });
}

#[test]
fn kernels_keep_to_their_memory() {
    memory::under_valgrind("kernels");
}
