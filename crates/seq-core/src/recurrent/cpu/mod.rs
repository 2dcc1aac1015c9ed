//! The time loop on slices, for every cell.

mod backward;
mod forward;
mod plan;
mod step;

pub(crate) use backward::{Gradients, Incoming, backward};
pub(crate) use forward::{Outputs, Saved, forward};
pub(crate) use plan::Problem;
pub(crate) use step::step;
