//! The time loop on slices, for every cell.

mod backward;
mod forward;
mod pack;
mod plan;
mod retreat;

pub(crate) use backward::{Gradients, Incoming, backward};
pub(crate) use forward::{Outputs, Saved, forward};
pub(crate) use pack::Packed;
pub(crate) use plan::Problem;
