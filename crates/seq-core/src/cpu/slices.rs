use std::borrow::Cow;

use burn::backend::TensorMetadata;
use burn::tensor::{Element, TensorData};

use super::Real;

/// The elements of a contiguous tensor where they lie, or a copy of a strided one.
pub type Slice<'a, R> = Cow<'a, [R]>;

/// A tensor of a CPU backend, as the kernels see it.
pub trait CpuTensor: TensorMetadata + Sized {
    /// The elements in row-major order; copied only where they do not lie so.
    ///
    /// # Panics
    ///
    /// When the tensor's element type is not `R`.
    fn elements<R: Real + Element>(&self) -> Slice<'_, R>;

    /// The elements in row-major order where they lie, to be changed; none where they do not lie so, or
    /// where another tensor shares their memory.
    ///
    /// # Panics
    ///
    /// When the tensor's element type is not `R`.
    fn elements_mut<R: Real + Element>(&mut self) -> Option<&mut [R]>;

    /// A tensor that takes over a vector.
    fn from_vec<R: Real + Element>(values: Vec<R>, shape: &[usize]) -> Self;
}

#[cfg(feature = "flex")]
impl CpuTensor for burn::backend::flex::FlexTensor {
    fn elements<R: Real + Element>(&self) -> Slice<'_, R> {
        match self.as_slice::<R>() {
            Some(slice) => Cow::Borrowed(slice),
            None => {
                let copy = self.to_contiguous().into_data().try_into_vec::<R>();
                Cow::Owned(copy.expect("elements of the tensor's type"))
            }
        }
    }

    fn elements_mut<R: Real + Element>(&mut self) -> Option<&mut [R]> {
        let (start, end) = self.layout().contiguous_offsets()?;
        Some(&mut self.try_storage_mut::<R>()?[start..end])
    }

    fn from_vec<R: Real + Element>(values: Vec<R>, shape: &[usize]) -> Self {
        Self::from_data(TensorData::new(values, shape.to_vec()))
    }
}

#[cfg(feature = "ndarray")]
#[allow(
    deprecated,
    reason = "Burn prefers its successor `flex`; both are kept"
)]
impl CpuTensor for burn::backend::ndarray::NdArrayTensor {
    fn elements<R: Real + Element>(&self) -> Slice<'_, R> {
        /// `E` is `R`, which only the caller's match on the element type knows.
        fn cast<'a, E: Real, R: Real>(
            whole: Option<&'a [E]>,
            copy: impl FnOnce() -> Vec<E>,
        ) -> Slice<'a, R> {
            match whole {
                Some(slice) => Cow::Borrowed(bytemuck::cast_slice(slice)),
                None => Cow::Owned(bytemuck::cast_vec(copy())),
            }
        }
        assert_eq!(self.dtype(), R::dtype(), "the element type of a tensor");
        match self {
            Self::F32(storage) => cast(storage.view().to_slice(), || {
                storage.view().iter().copied().collect()
            }),
            Self::F64(storage) => cast(storage.view().to_slice(), || {
                storage.view().iter().copied().collect()
            }),
            other => panic!("a float tensor was expected, found {:?}", other.dtype()),
        }
    }

    fn elements_mut<R: Real + Element>(&mut self) -> Option<&mut [R]> {
        assert_eq!(self.dtype(), R::dtype(), "the element type of a tensor");
        match self {
            Self::F32(storage) if storage.is_unique() => {
                let elements = storage.ensure_owned().as_slice_mut();
                elements.map(bytemuck::cast_slice_mut)
            }
            Self::F64(storage) if storage.is_unique() => {
                let elements = storage.ensure_owned().as_slice_mut();
                elements.map(bytemuck::cast_slice_mut)
            }
            _ => None,
        }
    }

    fn from_vec<R: Real + Element>(values: Vec<R>, shape: &[usize]) -> Self {
        Self::from_data(TensorData::new(values, shape.to_vec()))
    }
}
