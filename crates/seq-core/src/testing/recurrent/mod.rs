//! What the tests of every [`Recurrent`] layer share.
//!
//! An architecture says how to make its configurations; what is checked of them is here.

pub mod checkpoint;
pub mod convert;
mod golden;
pub mod kernels;
pub mod memory;
pub mod training;

use burn::tensor::Device;

use super::{Conformance, backends};
use crate::recurrent::{Recurrent, RecurrentCell, RecurrentConfig};
use crate::{BackendName, is_cpu};

/// The laws of a sequence layer for the layers of `configure(d_input, d_hidden)`, which are also
/// compared with their [`reference`](Recurrent::reference).
///
/// `d_hidden` is one more than the width, and so odd at every other one and a whole number of registers
/// at 15; it is never equal to `d_input`.
pub fn conformance<K: RecurrentConfig<Cell: 'static>>(
    configure: impl Fn(usize, usize) -> K + 'static,
) -> Conformance<Recurrent<K::Cell>> {
    let make = move |width: usize, device: &_| configure(width.div_ceil(2), width + 1).init(device);
    Conformance::new(make).with_reference(Recurrent::reference)
}

/// A test for each configuration: a name, the check of [`Conformance`](crate::testing::Conformance)
/// that its layers must pass, and what makes it of the plain one.
///
/// ```text
/// seq_core::conformance_tests! { LstmConfig:
///     two_layers: check |config| config.with_num_layers(2);
///     reverse: check_whole |config| config.with_reverse(true);
/// }
/// ```
#[macro_export]
macro_rules! conformance_tests {
    ($config:ident: $($name:ident: $check:ident $configure:expr;)*) => {
        $(#[test]
        fn $name() {
            let configure: fn($config) -> $config = $configure;
            let make = move |d_input, d_hidden| configure($config::new(d_input, d_hidden));
            $crate::testing::recurrent::conformance(make).$check();
        })*
    };
}

/// The CPU backends to run on, which have fused kernels; none where `BURN_DEVICE` names another one.
pub fn cpu_backends() -> impl Iterator<Item = BackendName> {
    let backends = backends().into_iter();
    backends.filter(|backend| is_cpu(&backend.device()))
}

/// The devices of the [CPU backends](cpu_backends).
pub fn cpu_devices() -> impl Iterator<Item = Device> {
    cpu_backends().map(BackendName::device)
}

/// The state before a batch begins.
fn initial_state<C: RecurrentCell>(cell: &C, batch: usize) -> C::State {
    cell.initial_state(batch, &cell.weights().weight_ih.device())
}
