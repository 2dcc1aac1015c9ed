//! Weights from modules of Burn and from Keras' arrays.

use burn::module::Param;
use burn::nn::GateController;
use burn::tensor::{Device, Distribution, Tensor};

use crate::device::read;
use crate::testing::compare;

/// Checks that two results differ by at most 1e-6 of one plus the largest value; measured on
/// conversions are 9e-8.
///
/// # Panics
///
/// When they differ by more, or in shape.
pub fn assert_close<const D: usize>(found: &Tensor<D>, expected: &Tensor<D>) {
    let values = |tensor| vec![("it".to_owned(), read(tensor))];
    compare::close(&values(found), &values(expected), 1e-6)
        .unwrap_or_else(|error| panic!("{error}"));
}

/// Values between -1 and 1.
pub fn uniform<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::random(shape, Distribution::Uniform(-1.0, 1.0), device)
}

/// Fills the biases of Burn's gates with random values: they begin at zero, which would hide a wrong
/// order.
pub fn shake<'a>(gates: impl IntoIterator<Item = &'a mut GateController>) {
    for gate in gates {
        for linear in [&mut gate.input_transform, &mut gate.hidden_transform] {
            linear.bias = linear.bias.take().map(|bias| {
                let bias = bias.val();
                Param::from_tensor(uniform(bias.dims(), &bias.device()))
            });
        }
    }
}
