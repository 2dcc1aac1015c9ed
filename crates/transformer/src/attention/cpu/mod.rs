//! Attention on slices, in tiles with a running softmax.
//!
//! A register holds one key's scores with as many queries as it has lanes: the queries of a block lie side by side,
//! transposed, so that maxima and sums over keys need no step across lanes, and keys, values and their
//! gradients are read in rows as they are.

mod backward;
mod decode;
mod forward;
mod plan;

pub(super) use backward::{Given, backward};
pub(crate) use decode::{FEW, attend, part_size};
pub(super) use forward::forward;
pub(crate) use plan::Problem;
pub(super) use plan::Spread;
