#[cfg(feature = "cpu-kernels")]
use std::any::Any;
#[cfg(feature = "cpu-kernels")]
use std::borrow::Cow;
use std::fmt::{self, Debug};
#[cfg(feature = "cpu-kernels")]
use std::sync::{Arc, Mutex, PoisonError};

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
/// A layer has one of these in a skipped field and hands a clone to every [`Recurrence`]. Runs without
/// a gradient fill it, so that the weights are then in memory twice; with other weights, it is filled
/// again.
///
/// [`Recurrence`]: super::Recurrence
#[derive(Clone, Default)]
pub struct PackedWeights {
    #[cfg(feature = "cpu-kernels")]
    latest: Arc<Mutex<Option<Arc<dyn Any + Send + Sync>>>>,
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
impl PackedWeights {
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
        let latest = || self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = latest().clone();
        let entry = entry.and_then(|entry| entry.downcast::<Entry<B, R>>().ok());
        if let Some(entry) = entry
            && same::<_, R>(&entry.weight_ih, weight_ih)
            && same::<_, R>(&entry.weight_hh, weight_hh)
        {
            return entry.packed.clone();
        }
        let packed = Arc::new(pack());
        if store {
            *latest() = Some(Arc::new(Entry::<B, R> {
                weight_ih: weight_ih.clone(),
                weight_hh: weight_hh.clone(),
                packed: packed.clone(),
            }));
        }
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
