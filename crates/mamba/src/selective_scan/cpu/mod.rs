//! The scan on slices. A thread owns registers of neighbouring channels, and walks with each through a
//! chunk of steps at a time, the states in registers.

mod backward;
mod forward;
mod plan;

pub(crate) use backward::{Incoming, backward};
pub(crate) use forward::{Saved, forward};
pub(crate) use plan::{Problem, Projected};

/// Steps of a chunk. The backward pass makes the states inside a chunk again from the one at its
/// beginning: they then fit the second-level cache, and a thirty-second of all states is stored.
const CHUNK: usize = 32;
