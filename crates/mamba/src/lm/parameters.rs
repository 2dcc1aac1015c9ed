//! The parameters of the layers by the names of the reference code and of Hugging Face, which are the same.

use burn::module::Param;
use burn::tensor::{Tensor, TensorCreationOptions, TensorData};
use seq_core::checkpoint::{Checkpoint, CheckpointError};

use super::Mixer;
use crate::{Mamba, Mamba2, Mamba3};

/// A parameter, and how a file has it.
pub(super) enum Stored<'a> {
    Vector(&'a mut Param<Tensor<1>>),
    Matrix(&'a mut Param<Tensor<2>>),
    /// A matrix with rows and columns exchanged, as PyTorch has the weights of linear maps.
    Turned(&'a mut Param<Tensor<2>>),
    /// `[rows, 1, columns]`: the taps of a convolution, or what a head has one of.
    Taps(&'a mut Param<Tensor<2>>),
    /// A matrix as one row.
    Flat(&'a mut Param<Tensor<2>>),
}

impl Stored<'_> {
    /// Replaces the parameter. Its random values are drawn only when they are looked at.
    pub fn take(
        self,
        name: &str,
        checkpoint: &mut Checkpoint,
        options: &TensorCreationOptions,
    ) -> Result<(), CheckpointError> {
        let set = |param: &mut Param<Tensor<2>>, tensor| *param = Param::from_tensor(tensor);
        match self {
            Self::Vector(param) => {
                let shape = param.lazy_shape().dims::<1>();
                *param = Param::from_tensor(checkpoint.take(name, shape, options.clone())?);
            }
            Self::Matrix(param) => {
                let shape = param.lazy_shape().dims::<2>();
                set(param, checkpoint.take(name, shape, options.clone())?);
            }
            Self::Turned(param) => {
                let [rows, columns] = param.lazy_shape().dims();
                let tensor: Tensor<2> = checkpoint.take(name, [columns, rows], options.clone())?;
                // A view would be copied by every product.
                let device = tensor.device();
                let dtype = tensor.dtype();
                let turned = tensor.transpose().into_data();
                set(param, Tensor::from_data(turned, (&device, dtype)));
            }
            Self::Taps(param) => {
                let [width, d_conv] = param.lazy_shape().dims();
                let taps: Tensor<3> = checkpoint.take(name, [width, 1, d_conv], options.clone())?;
                set(param, taps.reshape([width, d_conv]));
            }
            Self::Flat(param) => {
                let [rows, columns] = param.lazy_shape().dims();
                let row: Tensor<1> = checkpoint.take(name, [rows * columns], options.clone())?;
                set(param, row.reshape([rows, columns]));
            }
        }
        Ok(())
    }

    /// The elements as a file has them.
    pub fn data(self) -> TensorData {
        match self {
            Self::Vector(param) => param.val().into_data(),
            Self::Matrix(param) => param.val().into_data(),
            Self::Turned(param) => param.val().transpose().into_data(),
            Self::Taps(param) => param.val().unsqueeze_dim::<3>(1).into_data(),
            Self::Flat(param) => param.val().reshape([-1]).into_data(),
        }
    }
}

/// The parameters of a layer by name.
pub(super) fn parameters(mixer: &mut Mixer) -> Vec<(&'static str, Stored<'_>)> {
    match mixer {
        Mixer::Mamba(layer) => of_mamba(layer),
        Mixer::Mamba2(layer) => of_mamba2(layer),
        Mixer::Mamba3(layer) => of_mamba3(layer),
    }
}

fn of_mamba(layer: &mut Mamba) -> Vec<(&'static str, Stored<'_>)> {
    let biases = [
        ("in_proj.bias", layer.in_proj.bias.as_mut()),
        ("conv1d.bias", layer.conv_bias.as_mut()),
        ("dt_proj.bias", layer.dt_proj.bias.as_mut()),
        ("out_proj.bias", layer.out_proj.bias.as_mut()),
    ];
    let mut all = present(biases);
    all.extend([
        ("in_proj.weight", Stored::Turned(&mut layer.in_proj.weight)),
        ("conv1d.weight", Stored::Taps(&mut layer.conv_weight)),
        ("x_proj.weight", Stored::Turned(&mut layer.x_proj.weight)),
        ("dt_proj.weight", Stored::Turned(&mut layer.dt_proj.weight)),
        ("A_log", Stored::Matrix(&mut layer.a_log)),
        ("D", Stored::Vector(&mut layer.d)),
        (
            "out_proj.weight",
            Stored::Turned(&mut layer.out_proj.weight),
        ),
    ]);
    all
}

fn of_mamba2(layer: &mut Mamba2) -> Vec<(&'static str, Stored<'_>)> {
    let vectors = [
        ("in_proj.bias", layer.in_proj.bias.as_mut()),
        ("conv1d.bias", layer.conv_bias.as_mut()),
        ("out_proj.bias", layer.out_proj.bias.as_mut()),
        ("norm.weight", layer.norm_weight.as_mut()),
    ];
    let mut all = present(vectors);
    all.extend([
        ("in_proj.weight", Stored::Turned(&mut layer.in_proj.weight)),
        ("conv1d.weight", Stored::Taps(&mut layer.conv_weight)),
        ("dt_bias", Stored::Vector(&mut layer.dt_bias)),
        ("A_log", Stored::Vector(&mut layer.a_log)),
        ("D", Stored::Flat(&mut layer.d)),
        (
            "out_proj.weight",
            Stored::Turned(&mut layer.out_proj.weight),
        ),
    ]);
    all
}

fn of_mamba3(layer: &mut Mamba3) -> Vec<(&'static str, Stored<'_>)> {
    let mut all = present([("norm.weight", layer.norm_weight.as_mut())]);
    all.extend([
        ("in_proj.weight", Stored::Turned(&mut layer.in_proj.weight)),
        ("dt_bias", Stored::Vector(&mut layer.dt_bias)),
        ("B_bias", Stored::Taps(&mut layer.b_bias)),
        ("C_bias", Stored::Taps(&mut layer.c_bias)),
        ("B_norm.weight", Stored::Vector(&mut layer.b_norm_weight)),
        ("C_norm.weight", Stored::Vector(&mut layer.c_norm_weight)),
        ("D", Stored::Vector(&mut layer.d)),
        (
            "out_proj.weight",
            Stored::Turned(&mut layer.out_proj.weight),
        ),
    ]);
    all
}

fn present<'a, const N: usize>(
    vectors: [(&'static str, Option<&'a mut Param<Tensor<1>>>); N],
) -> Vec<(&'static str, Stored<'a>)> {
    let vectors = vectors.into_iter();
    vectors
        .filter_map(|(name, vector)| Some((name, Stored::Vector(vector?))))
        .collect()
}
