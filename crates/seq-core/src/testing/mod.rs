//! What the tests of every architecture share: [`Conformance`], the laws of
//! [`SequenceLayer`](crate::SequenceLayer), and [`Golden`], comparison with what other
//! implementations answered.
//!
//! Both run on every backend of the build, in f32 and, where the device has it, in f64.

mod compare;
mod conformance;
mod golden;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use conformance::Conformance;
pub use golden::{Golden, Run};

/// Turns a panic into an error that says where it came from.
fn guarded<T>(body: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(format!("panicked: {}", text.unwrap_or("without a message")))
    })
}
