//! The scan on slices. A thread owns registers of neighbouring columns, and walks with a few at a time
//! through a chunk of steps, their states in registers.

mod backward;
mod forward;
mod numbers;
mod walk;

pub(super) use backward::{Incoming, Saved, backward};
pub(super) use forward::forward;
pub(super) use walk::Problem;
