use burn::module::Param;
use burn::tensor::{Tensor, TensorCreationOptions};
use seq_core::checkpoint::{Checkpoint, CheckpointError};

/// A parameter, or several that are one in a file, and how the file has them.
pub(crate) enum Stored<'a> {
    Vector(&'a mut Param<Tensor<1>>),
    Matrix(&'a mut Param<Tensor<2>>),
    /// A matrix with rows and columns exchanged, as PyTorch has the weights of linear maps.
    Turned(&'a mut Param<Tensor<2>>),
    /// Matrices side by side, as GPT-2 has queries, keys and values.
    Joined([&'a mut Param<Tensor<2>>; 3]),
    /// Vectors one after the other, for so many heads: of each head the part of the first, of the second and of the
    /// third, as GPT-NeoX has them; with one head the vectors as they are.
    JoinedVectors([&'a mut Param<Tensor<1>>; 3], usize),
    /// The same of exchanged matrices.
    JoinedTurned([&'a mut Param<Tensor<2>>; 3], usize),
}

impl Stored<'_> {
    /// Replaces the parameter. Its random values are drawn only when they are looked at.
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
                let tensor: Tensor<2> = checkpoint.take(name, [columns, rows], options.clone())?;
                *param = whole(tensor.transpose());
            }
            Self::Joined(params) => {
                let widths = params.each_ref().map(|param| param.lazy_shape().dims::<2>());
                let [rows, _] = widths[0];
                let all = widths.iter().map(|[_, columns]| columns).sum();
                let tensor: Tensor<2> = checkpoint.take(name, [rows, all], options.clone())?;
                let mut first = 0;
                for (param, [_, columns]) in params.into_iter().zip(widths) {
                    *param = whole(tensor.clone().narrow(1, first, columns));
                    first += columns;
                }
            }
            Self::JoinedVectors(params, heads) => {
                let [width] = params[0].lazy_shape().dims();
                let tensor: Tensor<1> = checkpoint.take(name, [3 * width], options.clone())?;
                let parts: Tensor<3> = tensor.reshape([heads, 3, width / heads]);
                for (index, param) in params.into_iter().enumerate() {
                    let part = parts.clone().narrow(1, index, 1);
                    *param = whole(part.reshape([width]));
                }
            }
            Self::JoinedTurned(params, heads) => {
                let [rows, columns] = params[0].lazy_shape().dims();
                let shape = [3 * columns, rows];
                let tensor: Tensor<2> = checkpoint.take(name, shape, options.clone())?;
                let parts: Tensor<4> = tensor.reshape([heads, 3, columns / heads, rows]);
                for (index, param) in params.into_iter().enumerate() {
                    let part: Tensor<2> =
                        parts.clone().narrow(1, index, 1).reshape([columns, rows]);
                    *param = whole(part.transpose());
                }
            }
        }
        Ok(())
    }
}

/// A parameter of its own memory: a view would be copied by every product.
fn whole<const D: usize>(tensor: Tensor<D>) -> Param<Tensor<D>> {
    let (device, dtype) = (tensor.device(), tensor.dtype());
    Param::from_tensor(Tensor::from_data(tensor.into_data(), (&device, dtype)))
}
