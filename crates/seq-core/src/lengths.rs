use std::sync::Arc;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

/// How many steps of each sequence of a padded batch are real; in any order, padding at the end.
///
/// ```
/// use seq_core::Lengths;
///
/// let lengths = Lengths::new([5, 2, 3]);
/// assert_eq!((lengths.batch(), lengths.longest()), (3, 5));
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lengths(Arc<[usize]>);

impl Lengths {
    /// One length a sequence. A length of zero is a sequence that has only padding: its output is
    /// zero and its state stays as it was.
    pub fn new(lengths: impl IntoIterator<Item = usize>) -> Self {
        Self(lengths.into_iter().collect())
    }

    /// The number of sequences.
    pub fn batch(&self) -> usize {
        self.0.len()
    }

    /// The length of the longest sequence, zero for an empty batch.
    pub fn longest(&self) -> usize {
        self.0.iter().copied().max().unwrap_or(0)
    }

    /// The lengths in the order of the batch.
    pub fn as_slice(&self) -> &[usize] {
        &self.0
    }

    /// `[batch, time]`, true where a step is real.
    pub fn mask(&self, time: usize, device: &Device) -> Tensor<2, Bool> {
        let lengths: Vec<i64> = self.0.iter().map(|&length| length as i64).collect();
        let lengths = Tensor::<1, Int>::from_data(TensorData::new(lengths, [self.batch()]), device);
        let steps = Tensor::<1, Int>::arange(0..time as i64, device);
        steps
            .unsqueeze_dim::<2>(0)
            .expand([self.batch(), time])
            .lower(lengths.unsqueeze_dim::<2>(1).expand([self.batch(), time]))
    }

    /// `x` `[batch, time, width]` with zeros for the padding, whatever it held.
    ///
    /// # Panics
    ///
    /// When the lengths do not fit `x`.
    pub fn clear(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, time, _] = x.dims();
        self.check(batch, time);
        let padding = self
            .mask(time, &x.device())
            .bool_not()
            .unsqueeze_dim::<3>(2);
        let padding = padding.expand(x.dims());
        x.mask_fill(padding, 0.0)
    }

    /// Turns each sequence of `x` `[batch, time, width]` round within its own length; the padding
    /// stays at the end.
    ///
    /// # Panics
    ///
    /// When the lengths do not fit `x`.
    pub fn reverse(&self, x: Tensor<3>) -> Tensor<3> {
        let [batch, time, width] = x.dims();
        self.check(batch, time);
        let order: Vec<i64> = self
            .0
            .iter()
            .flat_map(|&length| (0..length).rev().chain(length..time))
            .map(|step| step as i64)
            .collect();
        let order =
            Tensor::<3, Int>::from_data(TensorData::new(order, [batch, time, 1]), &x.device());
        x.gather(1, order.expand([batch, time, width]))
    }

    /// Makes sure that an input `[batch, time, width]` of this shape has a step, and that the lengths
    /// belong to it if there are any.
    ///
    /// # Panics
    ///
    /// When it has none, or they do not.
    pub fn check_input(lengths: Option<&Self>, shape: [usize; 3]) {
        let [batch, time, _] = shape;
        assert!(
            time > 0,
            "a sequence needs at least one step, the input has shape {shape:?}"
        );
        if let Some(lengths) = lengths {
            lengths.check(batch, time);
        }
    }

    /// Makes sure that the lengths belong to a batch of this shape.
    ///
    /// # Panics
    ///
    /// When they do not, naming both.
    pub fn check(&self, batch: usize, time: usize) {
        assert_eq!(
            self.batch(),
            batch,
            "{} lengths were given for an input of batch {batch}",
            self.batch()
        );
        assert!(
            self.longest() <= time,
            "a length of {} exceeds the input's time {time}",
            self.longest()
        );
    }
}

impl From<Vec<usize>> for Lengths {
    fn from(lengths: Vec<usize>) -> Self {
        Self(lengths.into())
    }
}
