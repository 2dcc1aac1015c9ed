//! What inference allocates does not depend on how many steps there are.

use seq_core::testing::recurrent::memory::{self, Counting};
use seq_lstm::LstmConfig;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn inference_allocates_nothing_in_the_time_loop() {
    memory::inference_allocates_nothing_in_the_time_loop(&LstmConfig::new(8, 64));
}
