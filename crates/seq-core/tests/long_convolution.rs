//! What must always hold of the long convolutions.
#![cfg(all(feature = "testing", any(feature = "ndarray", feature = "flex")))]

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::BackendName;
use seq_core::convolution::{long_convolution, two_sided_convolution};
use seq_core::testing::recurrent::{cpu_backends, memory};

/// Values that lie as those of a tensor of the given shape.
fn random(rng: &mut StdRng, shape: &[usize]) -> Vec<f64> {
    let count = shape.iter().product();
    (0..count).map(|_| rng.random_range(-1.0..1.0)).collect()
}

/// An input, its kernels and what the outputs are weighed with.
struct Case {
    sizes: [usize; 5],
    x: Vec<f64>,
    kernel: Vec<f64>,
    ahead: Vec<f64>,
    probe: Vec<f64>,
}

impl Case {
    fn new(sizes @ [batch, time, width, length, later]: [usize; 5]) -> Self {
        let mut rng = StdRng::seed_from_u64(time as u64);
        Self {
            sizes,
            x: random(&mut rng, &[batch, time, width]),
            kernel: random(&mut rng, &[width, length]),
            ahead: random(&mut rng, &[width, later]),
            probe: random(&mut rng, &[batch, time, width]),
        }
    }

    /// Outputs, and the gradients of x and both kernels, by the sums that define them.
    fn direct(&self) -> [Vec<f64>; 4] {
        let [batch, time, width, length, later] = self.sizes;
        let mut y = vec![0.0; self.x.len()];
        let mut dx = vec![0.0; self.x.len()];
        let mut dkernel = vec![0.0; self.kernel.len()];
        let mut dahead = vec![0.0; self.ahead.len()];
        for (row, t, j, c) in (0..batch).flat_map(|row| {
            (0..time * time * width)
                .map(move |i| (row, i / width / time, i / width % time, i % width))
        }) {
            let (to, from) = ((row * time + t) * width + c, (row * time + j) * width + c);
            let (tap, dtap) = match t.checked_sub(j) {
                Some(lag) if lag < length => (
                    self.kernel[c * length + lag],
                    &mut dkernel[c * length + lag],
                ),
                None if j - t - 1 < later => {
                    let at = c * later + j - t - 1;
                    (self.ahead[at], &mut dahead[at])
                }
                _ => continue,
            };
            y[to] += tap * self.x[from];
            dx[from] += tap * self.probe[to];
            *dtap += self.x[from] * self.probe[to];
        }
        [y, dx, dkernel, dahead]
    }

    /// The same by the kernels; `strided` gives them views that lie in another order.
    fn fused(&self, device: &Device, dtype: DType, strided: bool) -> [Vec<f64>; 4] {
        let [batch, time, width, length, later] = self.sizes;
        let options = (&device.clone().autodiff(), dtype);
        let data = |values: &[f64], shape: Vec<usize>| TensorData::new(values.to_vec(), shape);
        let cube = |values: &[f64]| {
            Tensor::<3>::from_data(data(values, vec![batch, time, width]), options)
        };
        let rows = |values: &[f64], length: usize| {
            Tensor::<2>::from_data(data(values, vec![width, length]), options)
        };
        let x = cube(&self.x).require_grad();
        let kernel = rows(&self.kernel, length).require_grad();
        let ahead = rows(&self.ahead, later).require_grad();
        // Twice turned by a product in between, which lies in the order of its operand.
        let turn = |x: Tensor<3>| match strided {
            true => (x.swap_dims(1, 2) * 1.0).swap_dims(1, 2),
            false => x,
        };
        let y = match later {
            0 => long_convolution(turn(x.clone()), kernel.clone()),
            _ => two_sided_convolution(turn(x.clone()), kernel.clone(), ahead.clone()),
        };
        let gradients = (y.clone() * cube(&self.probe)).sum().backward();
        let values = |data: TensorData| data.iter::<f64>().collect::<Vec<_>>();
        let dx = x.grad(&gradients).expect("the gradient of x");
        let dkernel = kernel.grad(&gradients).expect("the gradient of the kernel");
        let dahead = ahead.grad(&gradients).map(Tensor::into_data).map(values);
        [
            values(y.into_data()),
            values(dx.into_data()),
            values(dkernel.into_data()),
            dahead.unwrap_or_else(|| vec![0.0; width * later]),
        ]
    }

    fn check(&self, device: &Device) {
        let direct = self.direct();
        // Measured: 3.1e-7 and 1.8e-15 of the largest value.
        for (dtype, tolerance) in [(DType::F32, 2e-6), (DType::F64, 1e-14)] {
            let fused = self.fused(device, dtype, self.sizes[1].is_multiple_of(2));
            for (part, (found, expected)) in fused.iter().zip(&direct).enumerate() {
                assert_eq!(found.len(), expected.len());
                let scale = expected.iter().fold(1.0_f64, |max, x| max.max(x.abs()));
                let pairs = found.iter().zip(expected);
                let error = pairs.fold(0.0_f64, |max, (a, b)| max.max((a - b).abs())) / scale;
                assert!(
                    error < tolerance,
                    "part {part} of {:?}: {error:e} in {dtype:?}",
                    self.sizes
                );
            }
        }
    }
}

fn devices() -> impl Iterator<Item = Device> {
    cpu_backends().map(BackendName::device)
}

#[test]
fn outputs_and_gradients_are_the_direct_sums() {
    for device in devices() {
        for time in 1..=40_usize {
            let width = 1 + time * 7 % 37;
            for length in [1, time, time + 3, time.div_ceil(2)] {
                Case::new([1 + time % 3, time, width, length, 0]).check(&device);
                Case::new([1 + time % 2, time, width, length, time + 1 - time / 2]).check(&device);
            }
        }
        for time in [127, 130, 257] {
            Case::new([2, time, 3, time, time]).check(&device);
        }
    }
}

#[test]
#[should_panic(expected = "a kernel [5, 3] does not fit an input [2, 7, 4]")]
fn widths_that_differ_are_named() {
    let device = seq_core::device();
    let x = Tensor::ones([2, 7, 4], &device);
    long_convolution(x, Tensor::ones([5, 3], &device));
}

/// Forward and backward at sizes around those of a cache line and of a tile.
#[test]
fn kernels() {
    for device in devices() {
        for sizes in [[1, 1, 1, 1, 0], [2, 9, 17, 5, 3], [1, 33, 35, 33, 32]] {
            Case::new(sizes).check(&device);
        }
    }
}

#[test]
fn kernels_keep_to_their_memory() {
    memory::under_valgrind("kernels");
}
