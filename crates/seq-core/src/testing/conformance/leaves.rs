//! Walks through the tensors of modules and states.

use burn::module::{Flag, ModuleMapper, Param};
use burn::tensor::{DType, Gradients, Tensor, TensorCreationOptions, TensorData};

use crate::device::read;
use crate::{SequenceState, StateMapper};

/// Random numbers that are the same everywhere (splitmix64, Steele et al. 2014).
pub(super) struct Noise(u64);

impl Noise {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between zero and `bound`, which is left out.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }

    /// Values in [-1, 1).
    pub fn tensor<const D: usize>(
        &mut self,
        shape: [usize; D],
        options: impl Into<TensorCreationOptions>,
    ) -> Tensor<D> {
        let value = |_| (self.bits() >> 11) as f64 / (1u64 << 52) as f64 - 1.0;
        let values: Vec<f64> = (0..shape.iter().product()).map(value).collect();
        Tensor::from_data(TensorData::new(values, shape), options)
    }

    /// As [`tensor`](Self::tensor), for a tensor like this one.
    fn like<const D: usize>(&mut self, tensor: &Tensor<D>) -> Tensor<D> {
        self.tensor(tensor.dims(), (&tensor.device(), tensor.dtype()))
    }
}

/// Shows the parameters of a module to what maps the tensors of a state, by their paths. Flags, such
/// as that of dropout, are turned off.
pub(super) struct Parameters<'a, M> {
    path: Vec<String>,
    mapper: &'a mut M,
}

impl<'a, M> Parameters<'a, M> {
    pub fn new(mapper: &'a mut M) -> Self {
        Self {
            path: Vec::new(),
            mapper,
        }
    }
}

impl<M: StateMapper> ModuleMapper for Parameters<'_, M> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = format!("parameter {}", self.path.join("."));
        param.map(|tensor| self.mapper.tensor(&name, tensor))
    }

    fn map_flag(&mut self, flag: Param<Flag>) -> Param<Flag> {
        flag.with_value(false)
    }
}

/// Applies a function to what a tensor holds; it stays a leaf that requires a gradient, or not.
fn rebuild<const D: usize>(
    tensor: Tensor<D>,
    edit: impl FnOnce(Tensor<D>) -> Tensor<D>,
) -> Tensor<D> {
    let (autodiff, require_grad) = (tensor.is_autodiff(), tensor.is_require_grad());
    let tensor = edit(tensor.without_autodiff());
    if autodiff {
        tensor.autodiff().set_require_grad(require_grad)
    } else {
        tensor
    }
}

/// Brings parameters to a type and away from their initial zeros and ones.
pub(super) struct Prepare {
    noise: Noise,
    dtype: DType,
}

impl Prepare {
    pub fn new(seed: u64, dtype: DType) -> Self {
        Self {
            noise: Noise::new(seed),
            dtype,
        }
    }
}

impl StateMapper for Prepare {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        let trained = tensor.is_require_grad();
        rebuild(tensor, |tensor| {
            let tensor = tensor.cast(self.dtype);
            match trained {
                true => tensor.clone() + self.noise.like(&tensor) * 0.1,
                false => tensor,
            }
        })
    }
}

/// Random values of the same shapes.
pub(super) struct Fill(pub Noise);

impl StateMapper for Fill {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        self.0.like(&tensor)
    }
}

/// The tensors of a state, each in one row.
pub(super) struct Flat(Vec<Tensor<1>>);

impl Flat {
    pub fn of<S: SequenceState>(state: S) -> Vec<Tensor<1>> {
        let mut flat = Self(Vec::new());
        state.map(&mut flat);
        flat.0
    }
}

impl StateMapper for Flat {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        self.0.push(tensor.clone().reshape([-1]));
        tensor
    }
}

/// Moves the tensor `name` by `step` along a random direction.
pub(super) struct Shift<'a> {
    pub name: &'a str,
    pub direction: u64,
    pub step: f64,
}

impl StateMapper for Shift<'_> {
    fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D> {
        match name == self.name {
            true => tensor.clone() + Noise::new(self.direction).like(&tensor) * self.step,
            false => tensor,
        }
    }
}

/// The same values in another order in memory, where there is more than one axis.
pub(super) struct Restride;

impl StateMapper for Restride {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        rebuild(tensor, |tensor| {
            let options = (&tensor.device(), tensor.dtype());
            let turned = tensor.swap_dims(0, D - 1).into_data();
            Tensor::<D>::from_data(turned, options).swap_dims(0, D - 1)
        })
    }
}

/// A tensor whose gradient is asked for.
pub(super) struct Gradient {
    pub name: String,
    /// Zeros where the tensor had no part in the loss.
    pub read: Box<dyn Fn(&Gradients) -> TensorData>,
}

/// Turns the tensors of a state into leaves of the graph, and remembers them.
pub(super) struct Leaves {
    pub found: Vec<Gradient>,
}

impl Leaves {
    pub fn new() -> Self {
        Self { found: Vec::new() }
    }

    pub fn leaf<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D> {
        let leaf = tensor.autodiff().require_grad();
        self.remember(name, &leaf);
        leaf
    }

    /// For parameters: remembers those that are leaves already.
    pub fn only_existing(&mut self) -> Existing<'_> {
        Existing(self)
    }

    fn remember<const D: usize>(&mut self, name: &str, leaf: &Tensor<D>) {
        let leaf = leaf.clone();
        let read = move |gradients: &Gradients| {
            let gradient = leaf.grad(gradients);
            read(&gradient.unwrap_or_else(|| leaf.clone().without_autodiff().zeros_like()))
        };
        self.found.push(Gradient {
            name: name.to_owned(),
            read: Box::new(read),
        });
    }
}

impl StateMapper for Leaves {
    fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D> {
        self.leaf(name, tensor)
    }
}

pub(super) struct Existing<'a>(&'a mut Leaves);

impl StateMapper for Existing<'_> {
    fn tensor<const D: usize>(&mut self, name: &str, tensor: Tensor<D>) -> Tensor<D> {
        if tensor.is_require_grad() {
            self.0.remember(name, &tensor);
        }
        tensor
    }
}
