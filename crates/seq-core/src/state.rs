use std::any::Any;
use std::collections::BTreeMap;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::device::read;

/// What a layer remembers between two calls: one row of every tensor for each sequence.
///
/// An architecture says with [`map`](Self::map) which tensors its state holds; all the rest follows
/// from that.
///
/// ```
/// use burn::tensor::{Device, Tensor};
/// use seq_core::{SequenceState, StateMapper};
///
/// #[derive(Debug, Clone)]
/// struct Hidden(Tensor<2>);
///
/// impl SequenceState for Hidden {
///     fn map(self, mapper: &mut impl StateMapper) -> Self {
///         Self(mapper.tensor("hidden", self.0))
///     }
/// }
///
/// # #[cfg(feature = "ndarray")] {
/// let device = seq_core::device();
/// let both = Hidden(Tensor::from_data([[1.0, 2.0], [3.0, 4.0]], &device));
/// let second = both.clone().select(&[1]);
/// let bytes = both.to_bytes();
/// assert_eq!(second.restore(&bytes).unwrap().batch(), 2);
/// # }
/// ```
pub trait SequenceState: Sized + Clone + Send {
    /// Rebuilds the state from what `mapper` makes of each of its tensors. The first axis of every
    /// tensor is the batch.
    fn map(self, mapper: &mut impl StateMapper) -> Self;

    /// The number of sequences.
    fn batch(&self) -> usize {
        let mut batch = Batch(0);
        self.clone().map(&mut batch);
        batch.0
    }

    /// The same values without their history: no gradient flows back through them.
    ///
    /// Called between the chunks of truncated backpropagation through time.
    fn detach(self) -> Self {
        self.map(&mut Detach)
    }

    /// The state of the sequences named, in that order; a row may be named more than once.
    ///
    /// # Panics
    ///
    /// When a row is not below [`batch`](Self::batch).
    fn select(self, rows: &[usize]) -> Self {
        let batch = self.batch();
        if let Some(row) = rows.iter().find(|&&row| row >= batch) {
            panic!("row {row} was selected from a state of batch {batch}");
        }
        self.map(&mut Select(rows))
    }

    /// One batch from several, in the order given.
    ///
    /// # Panics
    ///
    /// When there is no state, or the states are of different layers.
    fn concat(states: impl IntoIterator<Item = Self>) -> Self {
        let mut states = states.into_iter();
        let first = states.next().expect("at least one state to concatenate");
        let mut rest = Concat(states.map(tensors).collect());
        let state = first.map(&mut rest);
        assert!(
            rest.0.iter().all(|left| left.as_slice().is_empty()),
            "states of different layers cannot be one batch"
        );
        state
    }

    /// Row by row, `kept` where `mask` `[batch, 1]` is true, and `other` where it is not.
    fn choose(mask: Tensor<2, Bool>, kept: Self, other: Self) -> Self {
        other.map(&mut Choose {
            mask,
            kept: tensors(kept),
        })
    }

    /// The state on another device.
    fn to_device(self, device: &Device) -> Self {
        self.map(&mut ToDevice(device))
    }

    /// The values by name, for serde.
    fn record(&self) -> StateRecord {
        let mut record = StateRecord::default();
        self.clone().map(&mut Save(&mut record));
        record
    }

    /// The values as bytes in the safetensors format.
    fn to_bytes(&self) -> Vec<u8> {
        self.record().to_bytes()
    }

    /// A state from what [`to_bytes`](Self::to_bytes) gave.
    ///
    /// `self` is any state of the same layer, for instance its initial one: it tells the device
    /// and the widths expected. The batch may differ.
    ///
    /// # Errors
    ///
    /// When the bytes are damaged, or do not hold a state of this layer.
    fn restore(self, bytes: &[u8]) -> Result<Self, StateError> {
        self.restore_record(StateRecord::from_bytes(bytes)?)
    }

    /// As [`restore`](Self::restore), from a record.
    ///
    /// # Errors
    ///
    /// When the record does not hold a state of this layer.
    fn restore_record(self, record: StateRecord) -> Result<Self, StateError> {
        let mut load = Load {
            record,
            batch: None,
            error: None,
        };
        let state = self.map(&mut load);
        match (load.error, load.record.tensors.pop_first()) {
            (Some(error), _) => Err(error),
            (None, Some((name, _))) => Err(StateError::Unexpected { name }),
            (None, None) => Ok(state),
        }
    }
}

/// Several states side by side, as in a stack of layers.
impl<S: SequenceState> SequenceState for Vec<S> {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        self.into_iter()
            .enumerate()
            .map(|(index, state)| {
                state.map(&mut Named {
                    prefix: index.to_string(),
                    mapper,
                })
            })
            .collect()
    }
}

/// What is done to each tensor of a state by [`SequenceState::map`].
pub trait StateMapper {
    /// Gives the new value of the tensor `name` `[batch, ..]`.
    fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D>;

    /// As [`tensor`](Self::tensor), for one whose `axis`, not the first, grows as a sequence is read: states side
    /// by side may differ in it, and what is missing at its end is made up with zeros. How much of it
    /// belongs to which sequence is for the state to know.
    fn growing<const D: usize>(&mut self, name: &str, tensor: Tensor<D>, axis: usize) -> Tensor<D> {
        let _ = axis;
        self.tensor(name, tensor)
    }

    /// Gives the new value of whole numbers that a state keeps for each sequence, as how far it has come: `N`
    /// of them for each row of the batch.
    fn counts<const N: usize>(&mut self, name: &str, counts: Vec<[usize; N]>) -> Vec<[usize; N]> {
        let _ = name;
        counts
    }
}

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
}

impl StateRecord {
    fn to_bytes(&self) -> Vec<u8> {
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

    fn from_bytes(bytes: &[u8]) -> Result<Self, StateError> {
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

struct Batch(usize);

impl StateMapper for Batch {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        self.0 = tensor.dims()[0];
        tensor
    }
}

struct Detach;

impl StateMapper for Detach {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        tensor.detach()
    }
}

struct Select<'a>(&'a [usize]);

impl StateMapper for Select<'_> {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        let rows: Vec<i64> = self.0.iter().map(|&row| row as i64).collect();
        let rows = TensorData::new(rows, [self.0.len()]);
        let rows = Tensor::<1, Int>::from_data(rows, &tensor.device());
        tensor.select(0, rows)
    }

    fn counts<const N: usize>(&mut self, _: &str, counts: Vec<[usize; N]>) -> Vec<[usize; N]> {
        self.0.iter().map(|&row| counts[row]).collect()
    }
}

struct Collect(Vec<Box<dyn Any>>);

impl StateMapper for Collect {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        self.0.push(Box::new(tensor.clone()));
        tensor
    }

    fn counts<const N: usize>(&mut self, _: &str, counts: Vec<[usize; N]>) -> Vec<[usize; N]> {
        self.0.push(Box::new(counts.clone()));
        counts
    }
}

/// What a state consists of in the order of its `map`, each a `Tensor<D>` or counts.
type Tensors = std::vec::IntoIter<Box<dyn Any>>;

fn tensors<S: SequenceState>(state: S) -> Tensors {
    let mut collected = Collect(Vec::new());
    state.map(&mut collected);
    collected.0.into_iter()
}

fn next<T: 'static>(tensors: &mut Tensors, name: &str) -> T {
    let part = tensors.next().and_then(|part| part.downcast().ok());
    *part.unwrap_or_else(|| panic!("a state beside this one has no tensor `{name}`"))
}

struct Concat(Vec<Tensors>);

impl StateMapper for Concat {
    fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D> {
        let others = self.0.iter_mut().map(|other| next(other, name));
        Tensor::cat(std::iter::once(tensor).chain(others).collect(), 0)
    }

    fn growing<const D: usize>(&mut self, name: &str, tensor: Tensor<D>, axis: usize) -> Tensor<D> {
        let others = self.0.iter_mut().map(|other| next(other, name));
        let mut all: Vec<Tensor<D>> = std::iter::once(tensor).chain(others).collect();
        let longest = all.iter().map(|x| x.dims()[axis]).max().unwrap_or(0);
        for x in &mut all {
            *x = lengthen(x.clone(), axis, longest);
        }
        Tensor::cat(all, 0)
    }

    fn counts<const N: usize>(&mut self, name: &str, counts: Vec<[usize; N]>) -> Vec<[usize; N]> {
        let others = self.0.iter_mut().flat_map(|other| next::<Vec<_>>(other, name));
        counts.into_iter().chain(others).collect()
    }
}

struct Choose {
    mask: Tensor<2, Bool>,
    kept: Tensors,
}

impl StateMapper for Choose {
    fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D> {
        let mut shape = [1; D];
        shape[0] = tensor.dims()[0];
        let mask = self.mask.clone().reshape(shape).expand(tensor.dims());
        tensor.mask_where(mask, next(&mut self.kept, name))
    }

    fn growing<const D: usize>(&mut self, name: &str, tensor: Tensor<D>, axis: usize) -> Tensor<D> {
        let kept: Tensor<D> = next(&mut self.kept, name);
        let longest = tensor.dims()[axis].max(kept.dims()[axis]);
        let mut shape = [1; D];
        shape[0] = tensor.dims()[0];
        let tensor = lengthen(tensor, axis, longest);
        let mask = self.mask.clone().reshape(shape).expand(tensor.dims());
        tensor.mask_where(mask, lengthen(kept, axis, longest))
    }

    fn counts<const N: usize>(&mut self, name: &str, counts: Vec<[usize; N]>) -> Vec<[usize; N]> {
        let kept: Vec<[usize; N]> = next(&mut self.kept, name);
        let mask = self.mask.clone().into_data();
        let rows = mask.iter::<bool>().zip(kept).zip(counts);
        rows.map(|((mask, kept), other)| if mask { kept } else { other })
            .collect()
    }
}

/// Zeros at the end of an axis, up to a length.
fn lengthen<const D: usize>(x: Tensor<D>, axis: usize, length: usize) -> Tensor<D> {
    let mut missing = x.dims();
    missing[axis] = length - missing[axis];
    if missing[axis] == 0 {
        return x;
    }
    let zeros = Tensor::zeros(missing, (&x.device(), x.dtype()));
    Tensor::cat(vec![x, zeros], axis)
}

struct ToDevice<'a>(&'a Device);

impl StateMapper for ToDevice<'_> {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        tensor.to_device(self.0)
    }
}

struct Save<'a>(&'a mut StateRecord);

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

struct Load {
    record: StateRecord,
    batch: Option<usize>,
    error: Option<StateError>,
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
}

impl Load {
    fn take_counts<const N: usize>(&mut self, name: &str) -> Result<Vec<[usize; N]>, StateError> {
        let name = name.to_owned();
        let Some(data) = self.record.tensors.remove(&name) else {
            return Err(StateError::Missing { name });
        };
        let found = data.shape().to_vec();
        let expected = vec![*self.batch.get_or_insert(found.first().copied().unwrap_or(0)), N];
        if found != expected {
            return Err(StateError::WrongShape {
                name,
                expected,
                found,
            });
        }
        let counts: Option<Vec<usize>> = match data.as_slice::<i64>() {
            Ok(numbers) => numbers.iter().map(|&number| number.try_into().ok()).collect(),
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
}

struct Named<'a, M> {
    prefix: String,
    mapper: &'a mut M,
}

impl<M: StateMapper> StateMapper for Named<'_, M> {
    fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D> {
        self.mapper
            .tensor(&format!("{}.{name}", self.prefix), tensor)
    }

    fn growing<const D: usize>(&mut self, name: &str, tensor: Tensor<D>, axis: usize) -> Tensor<D> {
        self.mapper
            .growing(&format!("{}.{name}", self.prefix), tensor, axis)
    }

    fn counts<const N: usize>(&mut self, name: &str, counts: Vec<[usize; N]>) -> Vec<[usize; N]> {
        self.mapper
            .counts(&format!("{}.{name}", self.prefix), counts)
    }
}
