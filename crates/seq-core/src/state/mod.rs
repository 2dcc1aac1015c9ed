//! The states of layers, and all that can be done with any of them.

mod mappers;
mod record;

use std::fmt::{Debug, Display};

use burn::tensor::{Bool, Device, Tensor};

use mappers::{Batch, Choose, Concat, Detach, Named, Select, ToDevice, tensors};
use record::{Load, Save};
pub use record::{StateError, StateRecord};

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
    /// When the bytes are damaged, or do not hold a state of this layer, or values that do not fit one another.
    fn restore(self, bytes: &[u8]) -> Result<Self, StateError> {
        self.restore_record(StateRecord::from_bytes(bytes)?)
    }

    /// As [`restore`](Self::restore), from a record.
    ///
    /// # Errors
    ///
    /// When the record does not hold a state of this layer, or values that do not fit one another.
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

    /// Hears from a state that has its new values whether those called `name` fit the others. A record in
    /// which they do not is refused.
    fn check(&mut self, name: &str, fits: bool, expected: impl Display, found: impl Debug) {
        let _ = (name, fits, expected, found);
    }
}
