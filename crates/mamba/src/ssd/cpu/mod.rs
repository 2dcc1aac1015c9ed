//! The scan on slices. A thread owns heads of rows, and walks with them from span to span: a chunk of
//! steps, cut where a new sequence begins. A span is a few products of small matrices.

mod backward;
mod forward;
mod plan;

pub(crate) use backward::{Incoming, backward};
pub(crate) use forward::{Saved, forward};
pub(crate) use plan::Problem;
