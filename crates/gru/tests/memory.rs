//! What inference allocates does not depend on how many steps there are.

use seq_core::testing::recurrent::memory::{self, Counting};
use seq_gru::GruConfig;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn inference_allocates_nothing_in_the_time_loop() {
    let after = GruConfig::new(8, 64);
    memory::inference_allocates_nothing_in_the_time_loop(&after);
    memory::inference_allocates_nothing_in_the_time_loop(&after.with_reset_after(false));
}
