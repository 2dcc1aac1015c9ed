//! The parameters of modules, and how files have them.

use burn::module::Param;
use burn::nn::{Linear, RmsNorm};
use burn::tensor::{Tensor, TensorCreationOptions, TensorData};

use super::{Checkpoint, CheckpointError};
use crate::blocks::{LayerNorm, Norm};

/// A parameter, or three, and how a tensor of a file has them. The example is at [`Parameters`].
#[derive(Debug)]
pub enum Stored<'a> {
    /// A vector as it is.
    Vector(&'a mut Param<Tensor<1>>),
    /// A matrix as it is.
    Matrix(&'a mut Param<Tensor<2>>),
    /// A matrix with rows and columns exchanged, as PyTorch has the weights of linear maps.
    Transposed(&'a mut Param<Tensor<2>>),
    /// A matrix as `[rows, 1, columns]`, as PyTorch has the taps of a depthwise convolution.
    Taps(&'a mut Param<Tensor<2>>),
    /// A matrix as a vector, row after row.
    Flat(&'a mut Param<Tensor<2>>),
    /// Three vectors in one, such as the biases of queries, keys and values: `[heads, 3, width / heads]`.
    /// With one head they stand one after the other.
    Vectors([&'a mut Param<Tensor<1>>; 3], usize),
    /// Three matrices in one, whose columns stand as the elements of [`Vectors`](Self::Vectors).
    Matrices([&'a mut Param<Tensor<2>>; 3], usize),
    /// As [`Matrices`](Self::Matrices), rows and columns exchanged.
    TransposedMatrices([&'a mut Param<Tensor<2>>; 3], usize),
}

impl Stored<'_> {
    /// Replaces the parameters by the tensor `name`. Their random values are drawn only when they are looked
    /// at.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::take`]; the parameters are as they were then.
    ///
    /// # Panics
    ///
    /// When the number of heads does not divide the width, or as [`Checkpoint::take`].
    pub fn take(
        self,
        name: &str,
        checkpoint: &mut Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<(), CheckpointError> {
        match self {
            Self::Vector(param) => {
                let shape = param.lazy_shape().dims::<1>();
                *param = Param::from_tensor(checkpoint.take(name, shape, options)?);
            }
            Self::Matrix(param) => {
                let shape = param.lazy_shape().dims::<2>();
                *param = Param::from_tensor(checkpoint.take(name, shape, options)?);
            }
            Self::Transposed(param) => {
                let [rows, columns] = param.lazy_shape().dims();
                let tensor = checkpoint.take::<2>(name, [columns, rows], options)?;
                *param = Param::from_tensor(by_itself(tensor.transpose()));
            }
            Self::Taps(param) => {
                let [rows, columns] = param.lazy_shape().dims();
                let tensor = checkpoint.take::<3>(name, [rows, 1, columns], options)?;
                *param = Param::from_tensor(tensor.reshape([rows, columns]));
            }
            Self::Flat(param) => {
                let [rows, columns] = param.lazy_shape().dims();
                let tensor = checkpoint.take::<1>(name, [rows * columns], options)?;
                *param = Param::from_tensor(tensor.reshape([rows, columns]));
            }
            Self::Vectors(params, heads) => {
                let [width] = params[0].lazy_shape().dims();
                let tensor = checkpoint.take::<1>(name, [3 * width], options)?;
                let parts = part(tensor.reshape([1, 3 * width]), heads);
                for (param, part) in params.into_iter().zip(parts) {
                    *param = Param::from_tensor(part.reshape([width]));
                }
            }
            Self::Matrices(params, heads) => {
                let [rows, columns] = params[0].lazy_shape().dims();
                let tensor = checkpoint.take::<2>(name, [rows, 3 * columns], options)?;
                set(params, part(tensor, heads));
            }
            Self::TransposedMatrices(params, heads) => {
                let [rows, columns] = params[0].lazy_shape().dims();
                let tensor = checkpoint.take::<2>(name, [3 * columns, rows], options)?;
                set(params, part(tensor.transpose(), heads));
            }
        }
        Ok(())
    }

    /// The elements as a file has them.
    ///
    /// # Panics
    ///
    /// When the number of heads does not divide the width.
    pub fn data(self) -> TensorData {
        let matrices = |params: [&mut Param<Tensor<2>>; 3], heads| {
            let parts = params.map(|param| param.val());
            join(parts, heads)
        };
        match self {
            Self::Vector(param) => param.val().into_data(),
            Self::Matrix(param) => param.val().into_data(),
            Self::Transposed(param) => param.val().transpose().into_data(),
            Self::Taps(param) => param.val().unsqueeze_dim::<3>(1).into_data(),
            Self::Flat(param) => param.val().reshape([-1]).into_data(),
            Self::Vectors(params, heads) => {
                let parts = params.map(|param| param.val().unsqueeze());
                join(parts, heads).reshape([-1]).into_data()
            }
            Self::Matrices(params, heads) => matrices(params, heads).into_data(),
            Self::TransposedMatrices(params, heads) => {
                matrices(params, heads).transpose().into_data()
            }
        }
    }
}

fn set(params: [&mut Param<Tensor<2>>; 3], tensors: [Tensor<2>; 3]) {
    for (param, tensor) in params.into_iter().zip(tensors) {
        *param = Param::from_tensor(tensor);
    }
}

/// The parts of `[rows, 3 columns]`, of which a head's stand side by side.
fn part(whole: Tensor<2>, heads: usize) -> [Tensor<2>; 3] {
    let [rows, columns] = whole.dims();
    let columns = columns / 3;
    let whole = whole.reshape([rows, heads, 3, columns / heads]);
    [0, 1, 2].map(|i| by_itself(whole.clone().narrow(2, i, 1).reshape([rows, columns])))
}

/// What [`part`] parts.
fn join(parts: [Tensor<2>; 3], heads: usize) -> Tensor<2> {
    let [rows, columns] = parts[0].dims();
    let parts = parts.map(|part| part.reshape([rows, heads, 1, columns / heads]));
    Tensor::cat(parts.to_vec(), 2).reshape([rows, 3 * columns])
}

/// A tensor of its own: a view would keep the whole, and be copied by every use.
fn by_itself(view: Tensor<2>) -> Tensor<2> {
    let place = (&view.device(), view.dtype());
    Tensor::from_data(view.into_data(), place)
}

/// The parameters of a module by the names that a file has for them, to be read from it or written to it.
///
/// ```
/// use burn::nn::{Linear, LinearConfig, RmsNormConfig};
/// use seq_core::blocks::Norm;
/// use seq_core::checkpoint::{Checkpoint, Parameters, write_safetensors};
///
/// struct Head {
///     norm: Norm,
///     map: Linear,
/// }
///
/// impl Head {
///     fn parameters(&mut self) -> Parameters<'_> {
///         let mut all = Parameters::new();
///         all.norm("final_norm", &mut self.norm);
///         all.linear("lm_head", &mut self.map);
///         all
///     }
/// }
///
/// # #[cfg(feature = "ndarray")] {
/// let device = seq_core::device();
/// let init = || Head {
///     norm: RmsNormConfig::new(3).init(&device).into(),
///     map: LinearConfig::new(3, 2).with_bias(false).init(&device),
/// };
/// let (mut saved, mut loaded) = (init(), init());
/// # let folder = tempfile::tempdir()?;
/// # let file = folder.path().join("model.safetensors");
/// write_safetensors(&file, saved.parameters().data())?;
///
/// let mut checkpoint = Checkpoint::read(&file)?;
/// // As PyTorch has it.
/// assert_eq!(checkpoint.shape("lm_head.weight"), Some([2, 3].as_slice()));
/// loaded.parameters().take(&mut checkpoint, &device)?;
/// checkpoint.finish()?;
/// assert_eq!(loaded.map.weight.to_data(), saved.map.weight.to_data());
/// # }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Default)]
pub struct Parameters<'a>(Vec<(String, Stored<'a>)>);

impl<'a> Parameters<'a> {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the parameters of one tensor.
    pub fn push(&mut self, name: impl Into<String>, stored: Stored<'a>) {
        self.0.push((name.into(), stored));
    }

    /// Adds a linear map as PyTorch has it: its weight as `name.weight`, and its bias, if it has one, as
    /// `name.bias`.
    pub fn linear(&mut self, name: &str, map: &'a mut Linear) {
        self.push(
            format!("{name}.weight"),
            Stored::Transposed(&mut map.weight),
        );
        self.bias(name, map.bias.as_mut());
    }

    /// Adds a norm: its weight as `name.weight`, and its bias, if it has one, as `name.bias`.
    pub fn norm(&mut self, name: &str, norm: &'a mut Norm) {
        let (gamma, beta) = match norm {
            Norm::Layer(LayerNorm { gamma, beta, .. }) => (gamma, beta.as_mut()),
            Norm::Rms(RmsNorm { gamma, .. }) => (gamma, None),
        };
        self.push(format!("{name}.weight"), Stored::Vector(gamma));
        self.bias(name, beta);
    }

    /// Adds `name.bias`, if there is one.
    pub fn bias(&mut self, name: &str, bias: Option<&'a mut Param<Tensor<1>>>) {
        if let Some(bias) = bias {
            self.push(format!("{name}.bias"), Stored::Vector(bias));
        }
    }

    /// Replaces all by the tensors of a checkpoint.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::take`], for the first that fails; those before it are replaced then.
    ///
    /// # Panics
    ///
    /// As [`Stored::take`].
    pub fn take(
        self,
        checkpoint: &mut Checkpoint,
        options: impl Into<TensorCreationOptions>,
    ) -> Result<(), CheckpointError> {
        let options = options.into();
        self.into_iter()
            .try_for_each(|(name, stored)| stored.take(&name, checkpoint, options.clone()))
    }

    /// The elements of all as a file has them, for [`write_safetensors`](super::write_safetensors).
    ///
    /// # Panics
    ///
    /// As [`Stored::data`].
    pub fn data(self) -> impl Iterator<Item = (String, TensorData)> {
        self.into_iter().map(|(name, stored)| (name, stored.data()))
    }
}

impl<'a> IntoIterator for Parameters<'a> {
    type Item = (String, Stored<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
