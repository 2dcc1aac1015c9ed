//! What is done to each part of a state.

use std::any::Any;
use std::fmt::{Debug, Display};

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use super::{SequenceState, StateMapper};

pub(super) struct Batch(pub usize);

impl StateMapper for Batch {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        self.0 = tensor.dims()[0];
        tensor
    }
}

pub(super) struct Detach;

impl StateMapper for Detach {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        tensor.detach()
    }
}

pub(super) struct Select<'a>(pub &'a [usize]);

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
pub(super) type Tensors = std::vec::IntoIter<Box<dyn Any>>;

pub(super) fn tensors<S: SequenceState>(state: S) -> Tensors {
    let mut collected = Collect(Vec::new());
    state.map(&mut collected);
    collected.0.into_iter()
}

fn next<T: 'static>(tensors: &mut Tensors, name: &str) -> T {
    let part = tensors.next().and_then(|part| part.downcast().ok());
    *part.unwrap_or_else(|| panic!("a state beside this one has no tensor `{name}`"))
}

pub(super) struct Concat(pub Vec<Tensors>);

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
        let others = self
            .0
            .iter_mut()
            .flat_map(|other| next::<Vec<_>>(other, name));
        counts.into_iter().chain(others).collect()
    }
}

pub(super) struct Choose {
    pub mask: Tensor<2, Bool>,
    pub kept: Tensors,
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

pub(super) struct ToDevice<'a>(pub &'a Device);

impl StateMapper for ToDevice<'_> {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        tensor.to_device(self.0)
    }
}

/// A state inside another one.
pub(super) struct Named<'a, M> {
    pub prefix: String,
    pub mapper: &'a mut M,
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

    fn check(&mut self, name: &str, fits: bool, expected: impl Display, found: impl Debug) {
        self.mapper
            .check(&format!("{}.{name}", self.prefix), fits, expected, found);
    }
}
