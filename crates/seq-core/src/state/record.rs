use std::collections::BTreeMap;
use std::fmt::{Debug, Display};

use burn::tensor::{Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::StateMapper;
use crate::device::read;

/// The values of a state by name.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use seq_core::SequenceState;
/// # use seq_core::StateMapper;
/// #
/// # #[derive(Debug, Clone)]
/// # struct Hidden(Tensor<2>);
/// #
/// # impl SequenceState for Hidden {
/// #     fn map(self, mapper: &mut impl StateMapper) -> Self {
/// #         Self(mapper.tensor("hidden", self.0))
/// #     }
/// # }
///
/// # #[cfg(feature = "ndarray")] {
/// // `Hidden` is the state of the example of `SequenceState`.
/// let zeros = Hidden(Tensor::zeros([3, 4], &seq_core::device()));
/// let record = zeros.record();
/// assert_eq!(record.tensors["hidden"].num_elements(), 12);
/// let state = zeros.restore_record(record).unwrap();
/// assert_eq!(state.batch(), 3);
/// # }
/// ```
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StateRecord {
    /// One entry a tensor, the batch first.
    pub tensors: BTreeMap<String, TensorData>,
}

/// Why a state could not be restored.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StateError {
    /// The bytes are not in the safetensors format, or damaged.
    #[error("not the bytes of a state: {0}")]
    Corrupt(String),
    /// A tensor of the layer's state is not there.
    #[error("the state has no tensor `{name}`")]
    Missing {
        /// The tensor that was looked for.
        name: String,
    },
    /// There is a tensor that the layer's state does not have.
    #[error("the state has a tensor `{name}` that the layer does not know")]
    Unexpected {
        /// The tensor found.
        name: String,
    },
    /// A tensor has other widths than the layer's.
    #[error("tensor `{name}`: expected shape {expected:?} (any batch), found {found:?}")]
    WrongShape {
        /// The tensor's name.
        name: String,
        /// The layer's own shape.
        expected: Vec<usize>,
        /// The shape in the record.
        found: Vec<usize>,
    },
    /// A tensor has another element type than the layer's.
    #[error("tensor `{name}`: expected {expected}, found {found}")]
    WrongDtype {
        /// The tensor's name.
        name: String,
        /// The layer's own type.
        expected: String,
        /// The type in the record.
        found: String,
    },
    /// A tensor does not fit the others, as where more steps are counted than there are.
    #[error("tensor `{name}`: expected {expected}, found {found}")]
    Inconsistent {
        /// The tensor's name.
        name: String,
        /// What would fit.
        expected: String,
        /// What is in the record.
        found: String,
    },
}

impl StateRecord {
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let views = self.tensors.iter().map(|(name, data)| {
            let dtype = match data.dtype() {
                burn::tensor::DType::F64 => Dtype::F64,
                burn::tensor::DType::F32 => Dtype::F32,
                burn::tensor::DType::F16 => Dtype::F16,
                burn::tensor::DType::BF16 => Dtype::BF16,
                burn::tensor::DType::I64 => Dtype::I64,
                other => unreachable!("a tensor of type {other:?}"),
            };
            let view = TensorView::new(dtype, data.shape().to_vec(), data.as_bytes())
                .expect("the shape of a tensor's data fits it");
            (name, view)
        });
        safetensors::serialize(views, None).expect("tensors of known shape serialize")
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
        let corrupt = |error: String| StateError::Corrupt(error);
        let file = safetensors::SafeTensors::deserialize(bytes)
            .map_err(|error| corrupt(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            let dtype = match view.dtype() {
                Dtype::F64 => burn::tensor::DType::F64,
                Dtype::F32 => burn::tensor::DType::F32,
                Dtype::F16 => burn::tensor::DType::F16,
                Dtype::BF16 => burn::tensor::DType::BF16,
                Dtype::I64 => burn::tensor::DType::I64,
                other => return Err(corrupt(format!("tensor `{name}` is of type {other:?}"))),
            };
            let data =
                TensorData::from_bytes_vec(view.data().to_vec(), view.shape().to_vec(), dtype);
            tensors.insert(name.to_owned(), data);
        }
        Ok(Self { tensors })
    }
}

/// Puts the values of a state into a record.
pub(super) struct Save<'a>(pub &'a mut StateRecord);

impl StateMapper for Save<'_> {
    fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D> {
        self.0.tensors.insert(name.to_owned(), read(&tensor));
        tensor
    }

    fn counts<const N: usize>(&mut self, name: &str, counts: Vec<[usize; N]>) -> Vec<[usize; N]> {
        let numbers: Vec<i64> = counts.iter().flatten().map(|&count| count as i64).collect();
        let data = TensorData::new(numbers, [counts.len(), N]);
        self.0.tensors.insert(name.to_owned(), data);
        counts
    }
}

/// Takes the values of a state out of a record.
pub(super) struct Load {
    pub record: StateRecord,
    pub batch: Option<usize>,
    /// The first one.
    pub error: Option<StateError>,
}

impl Load {
    /// The axis `growing` may be of any length.
    fn take<const D: usize>(
        &mut self,
        name: &str,
        like: &Tensor<D>,
        growing: Option<usize>,
    ) -> Result<Tensor<D>, StateError> {
        let name = name.to_owned();
        let Some(data) = self.record.tensors.remove(&name) else {
            return Err(StateError::Missing { name });
        };
        let mut expected = like.dims().to_vec();
        if let (Some(first), Some(found)) = (expected.first_mut(), data.shape().to_vec().first()) {
            *first = *self.batch.get_or_insert(*found);
        }
        if let Some(axis) = growing
            && let Some(found) = data.shape().to_vec().get(axis)
        {
            expected[axis] = *found;
        }
        if data.shape().to_vec() != expected {
            return Err(StateError::WrongShape {
                name,
                expected,
                found: data.shape().to_vec(),
            });
        }
        if data.dtype() != like.dtype() {
            let (expected, found) = (like.dtype(), data.dtype());
            let (expected, found) = (format!("{expected:?}"), format!("{found:?}"));
            return Err(StateError::WrongDtype {
                name,
                expected,
                found,
            });
        }
        Ok(Tensor::from_data(data, (&like.device(), like.dtype())))
    }

    fn take_counts<const N: usize>(&mut self, name: &str) -> Result<Vec<[usize; N]>, StateError> {
        let name = name.to_owned();
        let Some(data) = self.record.tensors.remove(&name) else {
            return Err(StateError::Missing { name });
        };
        let found = data.shape().to_vec();
        let expected = vec![
            *self
                .batch
                .get_or_insert(found.first().copied().unwrap_or(0)),
            N,
        ];
        if found != expected {
            return Err(StateError::WrongShape {
                name,
                expected,
                found,
            });
        }
        let counts: Option<Vec<usize>> = match data.as_slice::<i64>() {
            Ok(numbers) => numbers
                .iter()
                .map(|&number| number.try_into().ok())
                .collect(),
            Err(_) => None,
        };
        let Some(counts) = counts else {
            return Err(StateError::WrongDtype {
                name,
                expected: "whole numbers from zero on, of type I64".to_owned(),
                found: format!("{:?}", data.dtype()),
            });
        };
        Ok(counts.as_chunks().0.to_vec())
    }

    fn take_or_keep<const D: usize>(
        &mut self,
        name: &str,
        tensor: Tensor<D>,
        growing: Option<usize>,
    ) -> Tensor<D> {
        if self.error.is_some() {
            return tensor;
        }
        self.take(name, &tensor, growing).unwrap_or_else(|error| {
            self.error = Some(error);
            tensor
        })
    }
}

impl StateMapper for Load {
    fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D> {
        self.take_or_keep(name, tensor, None)
    }

    fn growing<const D: usize>(&mut self, name: &str, tensor: Tensor<D>, axis: usize) -> Tensor<D> {
        self.take_or_keep(name, tensor, Some(axis))
    }

    fn counts<const N: usize>(&mut self, name: &str, counts: Vec<[usize; N]>) -> Vec<[usize; N]> {
        if self.error.is_some() {
            return counts;
        }
        self.take_counts(name).unwrap_or_else(|error| {
            self.error = Some(error);
            counts
        })
    }

    fn check(&mut self, name: &str, fits: bool, expected: impl Display, found: impl Debug) {
        if !fits && self.error.is_none() {
            self.error = Some(StateError::Inconsistent {
                name: name.to_owned(),
                expected: expected.to_string(),
                found: format!("{found:?}"),
            });
        }
    }
}
