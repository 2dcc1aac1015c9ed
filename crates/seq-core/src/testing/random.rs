//! Random tensors, and the gradients of what is made of them.

use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Reads the gradient of a leaf, in one row.
type Leaf = (&'static str, Box<dyn Fn(&Gradients) -> Option<Tensor<1>>>);

/// Random tensors, each a leaf of the graph where the device has one. They are the same for the same
/// seed, which those of the device are not while other tests draw from its generator.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::DType;
/// use seq_core::testing::random::Random;
///
/// let device = seq_core::device();
/// let x = || Random::new(7, &device, DType::F32).tensor("x", [2, 3]);
/// x().into_data().assert_eq(&x().into_data(), true);
/// # }
/// ```
pub struct Random<'a> {
    device: &'a Device,
    dtype: DType,
    generator: StdRng,
    leaves: Vec<Leaf>,
}

impl<'a> Random<'a> {
    /// Tensors of a seed, on a device and of a float type.
    pub fn new(seed: u64, device: &'a Device, dtype: DType) -> Self {
        Self {
            device,
            dtype,
            generator: StdRng::seed_from_u64(seed),
            leaves: Vec::new(),
        }
    }

    /// A tensor of numbers from -1 to 1. [`differentiate`] calls its gradient `name`.
    pub fn tensor<const D: usize>(&mut self, name: &'static str, shape: [usize; D]) -> Tensor<D> {
        self.between(name, shape, -1.0, 1.0)
    }

    /// A tensor of numbers from `low` to `high`. [`differentiate`] calls its gradient `name`.
    ///
    /// # Panics
    ///
    /// When `low` is not below `high`.
    pub fn between<const D: usize>(
        &mut self,
        name: &'static str,
        shape: [usize; D],
        low: f64,
        high: f64,
    ) -> Tensor<D> {
        let count = shape.iter().product();
        let values = (0..count).map(|_| self.generator.random_range(low..high));
        let data = TensorData::new(values.collect::<Vec<f64>>(), shape);
        let x = Tensor::<D>::from_data(data, (self.device, self.dtype));
        if !self.device.is_autodiff() {
            return x;
        }
        let x = x.detach().require_grad();
        let leaf = x.clone();
        let read = move |gradients: &Gradients| Some(leaf.grad(gradients)?.reshape([-1]));
        self.leaves.push((name, Box::new(read)));
        x
    }
}

/// The largest difference, relative to one plus the largest value.
pub fn error<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f64 {
    let scale: f64 = expected.clone().abs().max().into_scalar();
    let difference: f64 = (found - expected).abs().max().into_scalar();
    difference / (1.0 + scale)
}

/// Outputs and last states that `run` makes of random tensors, and the gradients of their sum weighed at
/// random.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{DType, Tensor};
/// use seq_core::testing::random::{Random, differentiate, error};
///
/// let double = |by: fn(Tensor<2>) -> Tensor<2>| {
///     let run = |random: &mut Random<'_>| {
///         let x = random.tensor("x", [2, 3]);
///         (by(x.clone()), x)
///     };
///     differentiate(7, &seq_core::device(), DType::F32, run)
/// };
/// let pairs = double(|x| x.clone() + x).into_iter().zip(double(|x| x * 2.0));
/// for ((name, found), (_, expected)) in pairs {
///     assert!(error(found, expected) < 1e-6, "{name}");
/// }
/// # }
/// ```
pub fn differentiate<const D: usize>(
    seed: u64,
    device: &Device,
    dtype: DType,
    run: impl FnOnce(&mut Random<'_>) -> (Tensor<D>, Tensor<D>),
) -> Vec<(&'static str, Tensor<1>)> {
    let device = device.clone().autodiff();
    let mut random = Random::new(seed, &device, dtype);
    let (y, state) = run(&mut random);
    let mut weighed = |x: &Tensor<D>| (x.clone() * random.tensor("weights", x.dims())).sum();
    let loss = weighed(&y) + weighed(&state);
    let gradients = loss.backward();
    let mut values = vec![
        ("y", y.inner().reshape([-1])),
        ("the last state", state.inner().reshape([-1])),
    ];
    for (name, read) in &random.leaves {
        values.extend(read(&gradients).map(|gradient| (*name, gradient)));
    }
    values
}
