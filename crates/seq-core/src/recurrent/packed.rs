#[cfg(feature = "cpu-kernels")]
use std::any::Any;
#[cfg(feature = "cpu-kernels")]
use std::borrow::Cow;
use std::fmt::{self, Debug};
#[cfg(feature = "cpu-kernels")]
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

#[cfg(feature = "cpu-kernels")]
use burn::backend::Backend;
#[cfg(feature = "cpu-kernels")]
use burn::backend::tensor::FloatTensor;
#[cfg(feature = "cpu-kernels")]
use burn::tensor::Element;

#[cfg(feature = "cpu-kernels")]
use super::cpu::Packed;
#[cfg(feature = "cpu-kernels")]
use crate::cpu::{CpuTensor, Real};

/// The weights of a recurrent layer in the order in which the CPU kernels read them, kept from one run
/// to the next: packing them anew would take a tenth of a sequence, and longer than a step.
///
/// A cell has one of these in a skipped field and [shares](Self::share) it with every [`Recurrence`].
/// Runs without a gradient fill it, so that the weights are then in memory twice; with other weights it
/// is filled again, and a run with a gradient or without a kernel empties it. A clone begins with the
/// same weights and goes its own way.
///
/// ```
/// #[derive(burn::module::Module, Debug)]
/// struct Cell {
///     weight_hh: burn::module::Param<burn::tensor::Tensor<2>>,
///     #[module(skip)]
///     packed: seq_core::recurrent::PackedWeights,
/// }
/// ```
///
/// [`Recurrence`]: super::Recurrence
#[derive(Default)]
pub struct PackedWeights {
    #[cfg(feature = "cpu-kernels")]
    latest: Arc<Mutex<Latest>>,
}

impl Clone for PackedWeights {
    fn clone(&self) -> Self {
        Self {
            #[cfg(feature = "cpu-kernels")]
            latest: Arc::new(Mutex::new(self.latest().clone())),
        }
    }
}

impl PackedWeights {
    /// The same place, not a copy of it.
    pub fn share(&self) -> Self {
        Self {
            #[cfg(feature = "cpu-kernels")]
            latest: self.latest.clone(),
        }
    }
}

impl Debug for PackedWeights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PackedWeights")
    }
}

/// Packed weights and the tensors they were made of. As long as those are held here, Burn changes
/// neither in place and nothing else gets their memory: what lies there is still the same.
#[cfg(feature = "cpu-kernels")]
struct Entry<B: Backend, R> {
    weight_ih: FloatTensor<B>,
    weight_hh: FloatTensor<B>,
    packed: Arc<Packed<R>>,
}

#[cfg(feature = "cpu-kernels")]
type Latest = Option<Arc<dyn Any + Send + Sync>>;

#[cfg(feature = "cpu-kernels")]
impl PackedWeights {
    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is there.
    pub(super) fn clear(&self) {
        *self.latest() = None;
    }

    /// The packed weights, made by `pack` if they are not there; with `store`, they then stay.
    pub(super) fn get<B: Backend, R: Real + Element>(
        &self,
        weight_ih: &FloatTensor<B>,
        weight_hh: &FloatTensor<B>,
        store: bool,
        pack: impl FnOnce() -> Packed<R>,
    ) -> Arc<Packed<R>>
    where
        FloatTensor<B>: CpuTensor,
    {
        let entry = self.latest().clone();
        let entry = entry.and_then(|entry| entry.downcast::<Entry<B, R>>().ok());
        if let Some(entry) = entry
            && same::<_, R>(&entry.weight_ih, weight_ih)
            && same::<_, R>(&entry.weight_hh, weight_hh)
        {
            return entry.packed.clone();
        }
        let packed = Arc::new(pack());
        // Strided weights are not even the same as themselves.
        let store =
            store && same::<_, R>(weight_ih, weight_ih) && same::<_, R>(weight_hh, weight_hh);
        *self.latest() = match store {
            true => Some(Arc::new(Entry::<B, R> {
                weight_ih: weight_ih.clone(),
                weight_hh: weight_hh.clone(),
                packed: packed.clone(),
            })),
            false => None,
        };
        packed
    }
}

/// Whether two tensors are the same elements in the same memory. Never so for strided ones, which the
/// kernels copy.
#[cfg(feature = "cpu-kernels")]
fn same<T: CpuTensor, R: Real + Element>(a: &T, b: &T) -> bool {
    match (a.elements::<R>(), b.elements::<R>()) {
        (Cow::Borrowed(elements), Cow::Borrowed(others)) => {
            std::ptr::eq(elements, others) && a.shape() == b.shape()
        }
        _ => false,
    }
}

#[cfg(all(test, feature = "ndarray"))]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod tests {
    use burn::backend::NdArray;
    use burn::backend::ndarray::NdArrayTensor;

    use super::*;
    use crate::cpu::Buffer;

    fn weight() -> NdArrayTensor {
        NdArrayTensor::from_vec(vec![1.0_f32; 6], &[2, 3])
    }

    /// Whether the weights had to be packed.
    fn packs(packed: &PackedWeights, weight: &NdArrayTensor, store: bool) -> bool {
        let mut count = 0;
        packed.get::<NdArray, f32>(weight, weight, store, || {
            count += 1;
            Packed {
                input: Buffer::zeroed(6),
                recurrent: Buffer::zeroed(6),
                gated: Buffer::zeroed(0),
            }
        });
        count > 0
    }

    #[test]
    fn the_same_weights_are_packed_once() {
        let (packed, one, other) = (PackedWeights::default(), weight(), weight());
        assert!(packs(&packed, &one, true));
        assert!(!packs(&packed, &one.clone(), true));
        assert!(!packs(&packed.share(), &one, false));
        let copy = packed.clone();
        assert!(packs(&packed, &other, true));
        assert!(!packs(&copy, &one, true), "a clone goes its own way");
        assert!(packs(&packed, &one, false));
        assert!(
            packs(&packed, &other, true),
            "a run with a gradient empties it"
        );
    }
}
