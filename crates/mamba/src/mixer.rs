//! What the layers of Mamba, Mamba-2 and Mamba-3 have in common.

use burn::module::Param;
use burn::nn::{Initializer, Linear};
use burn::tensor::{Device, Distribution, Tensor};
use seq_core::convolution::CausalConv;
use seq_core::{ConfigError, Lengths, linear};

/// What a call says of the sequences in its input, and by which body it runs.
#[derive(Default)]
pub(crate) struct Sequences<'a> {
    pub lengths: Option<&'a Lengths>,
    pub resets: Option<Vec<Vec<bool>>>,
    /// Whether by the plain tensor operations that specify the kernels.
    pub reference: bool,
}

impl Sequences<'_> {
    /// `x` with zeros for the padding: what that holds, NaN perhaps, must not reach a gradient.
    pub fn clear(&self, x: Tensor<3>) -> Tensor<3> {
        match self.lengths {
            Some(lengths) => lengths.clear(x),
            None => x,
        }
    }

    /// The causal convolution of a layer and its SiLU, and the last inputs.
    pub fn convolve(
        &self,
        x: Tensor<3>,
        weight: &Param<Tensor<2>>,
        bias: Option<&Param<Tensor<1>>>,
        state: Option<Tensor<3>>,
    ) -> (Tensor<3>, Tensor<3>) {
        let conv = CausalConv {
            bias: bias.map(Param::val),
            silu: true,
            state,
            lengths: self.lengths.cloned(),
            resets: self.resets.clone(),
            ..CausalConv::new(x, weight.val())
        };
        match self.reference {
            true => conv.reference(),
            false => conv.run(),
        }
    }

    /// The projection out of a layer.
    pub fn project_out(&self, y: Tensor<3>, out_proj: &Linear) -> Tensor<3> {
        let y = linear(y, out_proj.weight.val(), bias(out_proj));
        match out_proj.bias {
            Some(_) => self.clear(y),
            None => y,
        }
    }
}

pub(crate) fn bias(linear: &Linear) -> Option<Tensor<1>> {
    linear.bias.as_ref().map(Param::val)
}

/// `width` columns of a projection, from `first` on: parts of one product would have to be copied apart.
pub(crate) fn project(projection: &Linear, x: Tensor<3>, first: usize, width: usize) -> Tensor<3> {
    let weight = projection.weight.val().narrow(1, first, width);
    let bias = bias(projection).map(|bias| bias.narrow(0, first, width));
    linear(x, weight, bias)
}

/// Makes sure that an input fits a layer.
pub(crate) fn check_width(shape: &[usize], d_model: usize) {
    assert_eq!(
        shape.last(),
        Some(&d_model),
        "the input has shape {shape:?}, the layer d_model {d_model}"
    );
}

/// How the taps of a convolution and their biases begin.
pub(crate) fn conv_initializer(d_conv: usize) -> Initializer {
    let bound = 1.0 / (d_conv as f64).sqrt();
    Initializer::Uniform {
        min: -bound,
        max: bound,
    }
}

/// `count` biases whose softplus are step sizes between the smallest and the largest, evenly spread on a
/// logarithmic scale, none below `floor`.
pub(crate) fn dt_bias(
    count: usize,
    [min, max]: [f64; 2],
    floor: f64,
    device: &Device,
) -> Tensor<1> {
    let logarithms = Distribution::Uniform(min.ln(), max.ln());
    let dt = Tensor::<1>::random([count], logarithms, device);
    inverse_softplus(dt.exp().clamp_min(floor))
}

/// What the softplus of is `x`.
fn inverse_softplus(x: Tensor<1>) -> Tensor<1> {
    // log(e^x - 1) without a difference of nearly equal numbers.
    x.clone() + (-(-x).exp() + 1.0).log()
}

/// Makes sure of the bounds of initial step sizes, and of what step sizes are clipped to.
pub(crate) fn validate_dt(
    [min, max]: [f64; 2],
    limit: Option<[f64; 2]>,
) -> Result<(), ConfigError> {
    ConfigError::unless(max >= min, "dt_max", "at least dt_min", max)?;
    let [low, high] = limit.unwrap_or([0.0, 1.0]);
    let fits = 0.0 <= low && low <= high;
    let found = format!("[{low}, {high}]");
    ConfigError::unless(fits, "dt_limit", "[smallest, largest], from 0 on", found)
}
