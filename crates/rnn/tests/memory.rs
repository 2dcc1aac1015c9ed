//! What inference allocates does not depend on how many steps there are.

use seq_core::testing::recurrent::memory::{self, Counting};
use seq_rnn::RnnConfig;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn inference_allocates_nothing_in_the_time_loop() {
    let plain = RnnConfig::new(8, 64);
    memory::inference_allocates_nothing_in_the_time_loop(&plain);
    let independent = plain.with_independent(true);
    memory::inference_allocates_nothing_in_the_time_loop(&independent);
}
