//! The CPU kit: what the fused kernels of every architecture are made of.
//!
//! Kernels are written once for `f32` and `f64` and for every instruction set ([`Real`], [`Simd`]),
//! run on a [`Team`] of threads that meet at a spinning barrier, and take their tensors as slices.

mod buffer;
pub mod math;
mod parts;
mod product;
mod real;
mod slices;
mod team;
pub mod tile;

pub(crate) use buffer::keeps_memory;
pub use buffer::{Buffer, Shared, keep_memory, prefetch, reserve};
pub use parts::{Parts, SharedParts};
pub use product::{Matrix, Panels, product, product_of, product_steps, product_with};
pub use real::{Arch, Real, Simd, WithSimd};
pub use slices::{CpuTensor, Slice};
pub use team::{Member, Team, set_threads, threads};
