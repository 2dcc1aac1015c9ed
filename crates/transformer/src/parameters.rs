//! Parameters by the names that files have for them.

use burn::module::Param;
use burn::nn::{Linear, RmsNorm};
use burn::tensor::{Tensor, TensorCreationOptions, TensorData};
use seq_core::blocks::{LayerNorm, Norm};
use seq_core::checkpoint::{Checkpoint, CheckpointError};

/// Parameters, and how a file has them.
pub(crate) enum Stored<'a> {
    Vector(&'a mut Param<Tensor<1>>),
    Matrix(&'a mut Param<Tensor<2>>),
    /// A matrix with rows and columns exchanged, as PyTorch has the weights of linear maps.
    Turned(&'a mut Param<Tensor<2>>),
    /// Three vectors in one, those of a head side by side: `[heads, 3, width / heads]`.
    Vectors([&'a mut Param<Tensor<1>>; 3], Heads),
    /// Three matrices in one, whose columns lie as the elements of `Vectors`.
    Matrices([&'a mut Param<Tensor<2>>; 3], Heads),
    /// As `Matrices`, rows and columns exchanged.
    MatricesTurned([&'a mut Param<Tensor<2>>; 3], Heads),
}

/// For how many heads queries, keys and values lie together; one if each of them lies by itself.
type Heads = usize;

/// Parameters by name.
pub(crate) type Parameters<'a> = Vec<(String, Stored<'a>)>;

impl Stored<'_> {
    /// Replaces the parameters. Their random values are drawn only when they are looked at.
    pub fn take(
        self,
        name: &str,
        checkpoint: &mut Checkpoint,
        options: &TensorCreationOptions,
    ) -> Result<(), CheckpointError> {
        match self {
            Self::Vector(param) => {
                let shape = param.lazy_shape().dims::<1>();
                *param = Param::from_tensor(checkpoint.take(name, shape, options.clone())?);
            }
            Self::Matrix(param) => {
                let shape = param.lazy_shape().dims::<2>();
                *param = Param::from_tensor(checkpoint.take(name, shape, options.clone())?);
            }
            Self::Turned(param) => {
                let [rows, columns] = param.lazy_shape().dims();
                let tensor = checkpoint.take::<2>(name, [columns, rows], options.clone())?;
                *param = Param::from_tensor(by_itself(tensor.transpose()));
            }
            Self::Vectors(params, heads) => {
                let [width] = params[0].lazy_shape().dims();
                let tensor: Tensor<1> = checkpoint.take(name, [3 * width], options.clone())?;
                let tensor = tensor.reshape([heads, 3, width / heads]);
                for (i, param) in params.into_iter().enumerate() {
                    let part = tensor.clone().narrow(1, i, 1).reshape([width]);
                    *param = Param::from_tensor(by_itself(part));
                }
            }
            Self::Matrices(params, heads) => {
                let [rows, columns] = params[0].lazy_shape().dims();
                let tensor = checkpoint.take(name, [rows, 3 * columns], options.clone())?;
                part(tensor, heads, params);
            }
            Self::MatricesTurned(params, heads) => {
                let [rows, columns] = params[0].lazy_shape().dims();
                let shape = [3 * columns, rows];
                let tensor = checkpoint.take::<2>(name, shape, options.clone())?;
                part(tensor.transpose(), heads, params);
            }
        }
        Ok(())
    }

    /// The elements as a file has them.
    pub fn data(self) -> TensorData {
        let matrices = |params: [&mut Param<Tensor<2>>; 3], heads| {
            let [rows, columns] = params[0].dims();
            let parts = params.map(|param| param.val().reshape([rows, heads, 1, columns / heads]));
            Tensor::cat(parts.to_vec(), 2).reshape([rows, 3 * columns])
        };
        match self {
            Self::Vector(param) => param.val().into_data(),
            Self::Matrix(param) => param.val().into_data(),
            Self::Turned(param) => param.val().transpose().into_data(),
            Self::Vectors(params, heads) => {
                let [width] = params[0].dims();
                let parts = params.map(|param| param.val().reshape([heads, 1, width / heads]));
                Tensor::cat(parts.to_vec(), 1)
                    .reshape([3 * width])
                    .into_data()
            }
            Self::Matrices(params, heads) => matrices(params, heads).into_data(),
            Self::MatricesTurned(params, heads) => matrices(params, heads).transpose().into_data(),
        }
    }
}

/// Parts `[rows, 3 columns]`.
fn part(tensor: Tensor<2>, heads: Heads, params: [&mut Param<Tensor<2>>; 3]) {
    let [rows, columns] = tensor.dims();
    let columns = columns / 3;
    let tensor = tensor.reshape([rows, heads, 3, columns / heads]);
    for (i, param) in params.into_iter().enumerate() {
        let part = tensor.clone().narrow(2, i, 1).reshape([rows, columns]);
        *param = Param::from_tensor(by_itself(part));
    }
}

/// A tensor of its own: a view would keep the whole, and be copied by every use.
pub(crate) fn by_itself<const D: usize>(view: Tensor<D>) -> Tensor<D> {
    let place = (&view.device(), view.dtype());
    Tensor::from_data(view.into_data(), place)
}

/// The weight of a linear map as PyTorch has it, and its bias if there is one.
pub(crate) fn linear<'a>(all: &mut Parameters<'a>, name: &str, map: &'a mut Linear) {
    all.push((format!("{name}.weight"), Stored::Turned(&mut map.weight)));
    bias(all, name, map.bias.as_mut());
}

/// A linear map as GPT-2's `Conv1D` has it, `[d_input, d_output]`.
pub(crate) fn conv1d<'a>(all: &mut Parameters<'a>, name: &str, map: &'a mut Linear) {
    all.push((format!("{name}.weight"), Stored::Matrix(&mut map.weight)));
    bias(all, name, map.bias.as_mut());
}

/// A norm's weight, and its bias if there is one.
pub(crate) fn norm<'a>(all: &mut Parameters<'a>, name: &str, norm: &'a mut Norm) {
    let (weight, beta) = match norm {
        Norm::Layer(LayerNorm { gamma, beta, .. }) => (gamma, beta.as_mut()),
        Norm::Rms(RmsNorm { gamma, .. }) => (gamma, None),
    };
    all.push((format!("{name}.weight"), Stored::Vector(weight)));
    bias(all, name, beta);
}

fn bias<'a>(all: &mut Parameters<'a>, name: &str, bias: Option<&'a mut Param<Tensor<1>>>) {
    let bias = bias.map(|bias| (format!("{name}.bias"), Stored::Vector(bias)));
    all.extend(bias);
}
