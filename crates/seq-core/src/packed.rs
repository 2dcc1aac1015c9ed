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
use crate::cpu::{CpuTensor, Real};

/// The weights of a layer in the order in which the CPU kernels read them, kept from one run to the next:
/// packing them anew would take a tenth of a sequence, and longer than a step of a recurrent layer.
///
/// A module has one of these in a skipped field for all weights that are packed together, and
/// [shares](Self::share) it with every [`Recurrence`](crate::recurrent::Recurrence), or gives it to
/// [`linear_packed`](crate::linear_packed). Runs without a gradient fill it, so that the weights are then in memory
/// twice; with other weights it is filled again, and a run with a gradient or without a kernel empties it. A clone
/// begins with the same weights and goes its own way.
///
/// ```
/// #[derive(burn::module::Module, Debug)]
/// struct Cell {
///     weight_hh: burn::module::Param<burn::tensor::Tensor<2>>,
///     #[module(skip)]
///     packed: seq_core::PackedWeights,
/// }
/// ```
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

/// What was packed, and the tensors it was made of. As long as those are held here, Burn changes none of them in
/// place and nothing else gets their memory: what lies there is still the same.
#[cfg(feature = "cpu-kernels")]
struct Entry<W, T, const N: usize> {
    weights: [W; N],
    packed: Arc<T>,
}

#[cfg(feature = "cpu-kernels")]
type Latest = Option<Arc<dyn Any + Send + Sync>>;

#[cfg(feature = "cpu-kernels")]
impl PackedWeights {
    fn latest(&self) -> MutexGuard<'_, Latest> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is there.
    pub(crate) fn clear(&self) {
        *self.latest() = None;
    }

    /// The packed weights, made by `pack` if they are not there; with `store`, they then stay.
    pub(crate) fn get<B: Backend, R: Real + Element, T: Send + Sync + 'static, const N: usize>(
        &self,
        weights: [&FloatTensor<B>; N],
        store: bool,
        pack: impl FnOnce() -> T,
    ) -> Arc<T>
    where
        FloatTensor<B>: CpuTensor,
    {
        let entry = self.latest().clone();
        let entry = entry.and_then(|entry| entry.downcast::<Entry<FloatTensor<B>, T, N>>().ok());
        if let Some(entry) = entry
            && same::<_, R, N>(entry.weights.each_ref(), weights)
        {
            return entry.packed.clone();
        }
        let packed = Arc::new(pack());
        // Strided weights are not even the same as themselves.
        *self.latest() = match store && same::<_, R, N>(weights, weights) {
            true => Some(Arc::new(Entry {
                weights: weights.map(FloatTensor::<B>::clone),
                packed: packed.clone(),
            })),
            false => None,
        };
        packed
    }
}

/// Whether tensors are the same elements in the same memory. Never so for strided ones, which the kernels copy.
#[cfg(feature = "cpu-kernels")]
fn same<T: CpuTensor, R: Real + Element, const N: usize>(a: [&T; N], b: [&T; N]) -> bool {
    a.into_iter()
        .zip(b)
        .all(|(a, b)| match (a.elements::<R>(), b.elements::<R>()) {
            (Cow::Borrowed(elements), Cow::Borrowed(others)) => {
                std::ptr::eq(elements, others) && a.shape() == b.shape()
            }
            _ => false,
        })
}

#[cfg(all(test, feature = "ndarray"))]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod tests {
    use burn::backend::NdArray;
    use burn::backend::ndarray::NdArrayTensor;

    use super::*;

    fn weight() -> NdArrayTensor {
        NdArrayTensor::from_vec(vec![1.0_f32; 6], &[2, 3])
    }

    /// Whether the weights had to be packed.
    fn packs(packed: &PackedWeights, weight: &NdArrayTensor, store: bool) -> bool {
        let mut count = 0;
        packed.get::<NdArray, f32, _, 2>([weight; 2], store, || count += 1);
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
