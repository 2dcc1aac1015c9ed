//! Causal convolutions over time, a kernel for each channel: [`CausalConv`] with the few taps before a
//! selective scan, and [`long_convolution`] and [`two_sided_convolution`] with kernels as long as the
//! sequence.

mod causal;
mod long;

pub use causal::CausalConv;
pub use long::{long_convolution, two_sided_convolution};
