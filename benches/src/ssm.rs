//! The workloads of state-space models: the convolution with a kernel as long as the sequence.

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use seq_core::convolution::long_convolution;

use crate::{Agreement, Case, Disagreement, Profile, Workload};

/// What the workloads are called by.
pub const NAME: &str = "ssm";

const WIDTH: usize = 512;

/// The last is a prime, which no transform of its own size is fast for.
const LENGTHS: [usize; 4] = [1024, 8192, 65536, 65521];

/// More for the full profile.
const MORE: [usize; 2] = [1009, 32768];

pub fn cases(profile: Profile) -> Vec<Case> {
    let more = match profile {
        Profile::Quick => &[][..],
        Profile::Full => &MORE,
    };
    LENGTHS.iter().chain(more).map(|&time| case(time)).collect()
}

fn case(time: usize) -> Case {
    // Three transforms of twice the length, as they are usually counted, and the product between them.
    let size = 2.0 * time as f64;
    let flops = WIDTH as f64 * (3.0 * 2.5 * size * size.log2() + 3.0 * size);
    Case {
        name: format!("s4d_fft/L{time}"),
        flops,
        steps: 1,
        scaling: false,
        checked: true,
        reads: 0.0,
        inputs: None,
        baseline: None,
        build: Box::new(move |device| Box::new(Convolution::new(time, device))),
    }
}

struct Convolution {
    device: Device,
    /// `[1, time, WIDTH]`
    x: Tensor<3>,
    /// `[WIDTH, time]`
    kernel: Tensor<2>,
}

impl Convolution {
    fn new(time: usize, device: &Device) -> Self {
        device.seed(0);
        let normal = Distribution::Normal(0.0, 1.0);
        Self {
            x: Tensor::random([1, time, WIDTH], normal, device),
            kernel: Tensor::random([WIDTH, time], normal, device),
            device: device.clone(),
        }
    }
}

impl Workload for Convolution {
    fn ours(&self) {
        drop(long_convolution(self.x.clone(), self.kernel.clone()));
        self.device.sync().expect("the device finishes its work");
    }

    fn baseline(&self) {
        unreachable!("it is compared with sums alone");
    }

    fn num_params(&self) -> usize {
        0
    }

    /// Compares some steps of some channels with their sums, in `f64`.
    fn check(&self) -> Result<Agreement, Disagreement> {
        let [_, time, _] = self.x.dims();
        let y = long_convolution(self.x.clone(), self.kernel.clone());
        let mut agreement = Agreement::default();
        for channel in [0, 1, WIDTH / 2 + 1, WIDTH - 1] {
            let values = |x: Tensor<3>| {
                let channel: Tensor<1> = x.narrow(2, channel, 1).reshape([-1]);
                let data = channel.into_data().convert::<f64>();
                data.try_into_vec::<f64>().expect("f64")
            };
            let kernel = self.kernel.clone().swap_dims(0, 1).unsqueeze();
            let (x, kernel, y) = (values(self.x.clone()), values(kernel), values(y.clone()));
            let steps: Vec<usize> = (0..16).map(|i| i * (time - 1) / 15).collect();
            let sum = |&step: &usize| {
                let x = x[..=step].iter().rev();
                x.zip(&kernel).map(|(x, kernel)| x * kernel).sum::<f64>()
            };
            let row = |values: Vec<f64>| {
                let shape = [values.len()];
                Tensor::<1>::from_data(TensorData::new(values, shape), &Device::default())
            };
            agreement = agreement.compare(
                &format!("channel {channel}"),
                row(steps.iter().map(|&step| y[step]).collect()),
                row(steps.iter().map(sum).collect()),
            )?;
        }
        Ok(agreement)
    }
}

#[cfg(test)]
mod tests {
    use seq_core::BackendName;

    use super::*;

    #[test]
    fn a_convolution_is_its_sums() {
        for backend in BackendName::compiled() {
            for time in [1, 2, 17] {
                let convolution = Convolution::new(time, &backend.device());
                if let Err(error) = convolution.check() {
                    panic!("{time} steps on {backend}: {error}");
                }
            }
        }
    }
}
