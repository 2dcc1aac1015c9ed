use burn::module::Param;
use burn::tensor::{Tensor, TensorCreationOptions, TensorData};
use seq_core::checkpoint::{Checkpoint, CheckpointError};

/// Parameters, and how a file has them.
pub enum Stored<'a> {
    Vector(&'a mut Param<Tensor<1>>),
    /// A matrix with rows and columns exchanged, as PyTorch has the weights of linear maps.
    Turned(&'a mut Param<Tensor<2>>),
    /// Vectors of one length in one.
    Vectors([&'a mut Param<Tensor<1>>; 3]),
    /// Matrices of one shape, turned, one below the other.
    Stacked([&'a mut Param<Tensor<2>>; 3]),
}

/// Parameters by name.
pub type Parameters<'a> = Vec<(String, Stored<'a>)>;

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
            Self::Turned(param) => {
                let [rows, columns] = param.lazy_shape().dims();
                let tensor = checkpoint.take(name, [columns, rows], options.clone())?;
                *param = Param::from_tensor(turned(tensor));
            }
            Self::Vectors(params) => {
                let [width] = params[0].lazy_shape().dims();
                let tensor: Tensor<1> = checkpoint.take(name, [3 * width], options.clone())?;
                for (i, param) in params.into_iter().enumerate() {
                    // A view would keep all three, and be copied by every use.
                    let part = tensor.clone().narrow(0, i * width, width);
                    let place = (&part.device(), part.dtype());
                    *param = Param::from_tensor(Tensor::from_data(part.into_data(), place));
                }
            }
            Self::Stacked(params) => {
                let [rows, columns] = params[0].lazy_shape().dims();
                let shape = [3 * columns, rows];
                let tensor: Tensor<2> = checkpoint.take(name, shape, options.clone())?;
                for (i, param) in params.into_iter().enumerate() {
                    let part = tensor.clone().narrow(0, i * columns, columns);
                    *param = Param::from_tensor(turned(part));
                }
            }
        }
        Ok(())
    }

    /// The elements as a file has them.
    pub fn data(self) -> TensorData {
        match self {
            Self::Vector(param) => param.val().into_data(),
            Self::Turned(param) => param.val().transpose().into_data(),
            Self::Vectors(params) => {
                let parts = params.map(|param| param.val());
                Tensor::cat(parts.to_vec(), 0).into_data()
            }
            Self::Stacked(params) => {
                let parts = params.map(|param| param.val().transpose());
                Tensor::cat(parts.to_vec(), 0).into_data()
            }
        }
    }
}

/// The transposed matrix by itself; a view would be copied by every product.
fn turned(matrix: Tensor<2>) -> Tensor<2> {
    let place = (&matrix.device(), matrix.dtype());
    Tensor::from_data(matrix.transpose().into_data(), place)
}
