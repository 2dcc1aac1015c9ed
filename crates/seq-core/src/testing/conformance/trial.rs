use burn::tensor::{DType, Device, Tensor};
use proptest::prelude::*;

use super::Conformance;
use super::leaves::{Fill, Flat, Gradient, Leaves, Noise, Parameters};
use crate::testing::compare::{Values, values};
use crate::{Lengths, SequenceLayer, SequenceState};

/// The largest sizes that a law is tried with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub batch: usize,
    pub time: usize,
    pub width: usize,
}

/// What a law is tried with.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    pub batch: usize,
    pub time: usize,
    pub width: usize,
    /// Whether the sequences begin where others ended, instead of at the initial state.
    pub warm: bool,
    /// Whether the sequences differ in length, for laws that hold either way.
    pub padded: bool,
    pub seed: u64,
}

impl Sizes {
    /// The smallest, an odd one with all there is and, where the law allows for it, one of a width next
    /// to a power of two, with which kernels fill whole registers.
    pub fn corners(limits: Limits) -> impl Iterator<Item = Self> {
        let smallest = Self {
            batch: 1,
            time: 1,
            width: 1,
            warm: false,
            padded: false,
            seed: 1,
        };
        let odd = Self {
            batch: limits.batch.min(3),
            time: limits.time.min(7),
            width: limits.width.min(5),
            warm: true,
            padded: true,
            seed: 2,
        };
        let whole = Self { width: 15, ..odd };
        [smallest, odd]
            .into_iter()
            .chain((limits.width >= 20).then_some(whole))
    }

    pub fn any(limits: Limits) -> impl Strategy<Value = Self> {
        let time = prop_oneof![1 => Just(1), 5 => 2..=limits.time];
        let sizes = (1..=limits.batch, time, 1..=limits.width);
        (sizes, any::<(bool, bool, u64)>()).prop_map(
            |((batch, time, width), (warm, padded, seed))| Self {
                batch,
                time,
                width,
                warm,
                padded,
                seed,
            },
        )
    }
}

/// A layer on a device, and what to feed it.
pub(super) struct Trial<L> {
    /// With autodiff; `plain` is the same without.
    pub layer: L,
    pub plain: L,
    /// Without autodiff.
    pub device: Device,
    pub dtype: DType,
    pub sizes: Sizes,
}

/// What a layer is run on, all of it without autodiff, and what its results are weighed with.
#[derive(Clone)]
pub(super) struct Given<S> {
    pub x: Tensor<3>,
    pub lengths: Option<Lengths>,
    pub state: S,
    pub probe_y: Tensor<3>,
    pub probe_state: S,
}

impl<L: SequenceLayer> Trial<L> {
    pub fn new(suite: &Conformance<L>, sizes: Sizes, device: &Device, dtype: DType) -> Self {
        let layer = suite.layer(sizes.width, sizes.seed, device, dtype);
        Self {
            plain: layer.valid(),
            layer,
            device: device.clone(),
            dtype,
            sizes,
        }
    }

    /// The same trial of another layer.
    pub fn with_layer(&self, layer: L) -> Self {
        let Self {
            device,
            dtype,
            sizes,
            ..
        } = self;
        Self {
            plain: layer.valid(),
            layer,
            device: device.clone(),
            dtype: *dtype,
            sizes: *sizes,
        }
    }

    /// Random, `[batch, time, d_input]`; another `salt` gives other values.
    pub fn input(&self, salt: u64, time: usize) -> Tensor<3> {
        let shape = [self.sizes.batch, time, self.layer.d_input()];
        Noise::new(self.sizes.seed ^ salt).tensor(shape, (&self.device, self.dtype))
    }

    /// What the sequences of the batch begin with.
    pub fn state(&self) -> L::State {
        match self.sizes.warm {
            true => self.warm_state(),
            false => self.plain.initial_state(self.sizes.batch, &self.device),
        }
    }

    /// What other sequences ended with.
    pub fn warm_state(&self) -> L::State {
        self.plain.forward(self.input(11, 2), None).1
    }

    /// Random lengths in no order, with the full one, and in larger batches one and zero.
    pub fn lengths(&self) -> Lengths {
        let Sizes {
            batch, time, seed, ..
        } = self.sizes;
        let mut noise = Noise::new(seed ^ 12);
        let mut lengths: Vec<_> = (0..batch)
            .map(|row| match row {
                0 => time,
                1 => 1,
                3 => 0,
                _ => 1 + noise.below(time),
            })
            .collect();
        lengths.rotate_left(noise.below(batch));
        Lengths::new(lengths)
    }

    pub fn given(&self, lengths: Option<Lengths>, state: L::State) -> Given<L::State> {
        let x = self.input(13, self.sizes.time);
        let (y, last) = run(&self.plain, x.clone(), lengths.as_ref(), state.clone());
        let mut fill = Fill(Noise::new(self.sizes.seed ^ 14));
        let probe_y = fill.0.tensor(y.dims(), (&self.device, self.dtype));
        Given {
            x,
            lengths,
            state,
            probe_y,
            probe_state: last.map(&mut fill),
        }
    }

    /// The difference of two results that is put down to rounding, relative to the largest value.
    pub fn tolerance(&self) -> f64 {
        match self.dtype {
            DType::F64 => 3e-13,
            _ => 3e-5,
        }
    }

    /// Gradients are sums over batch and time, and suffer more.
    pub fn gradient_tolerance(&self) -> f64 {
        10.0 * self.tolerance()
    }
}

impl<S: SequenceState> Given<S> {
    /// The sum of all outputs, each weighed with its probe.
    pub fn loss(&self, y: Tensor<3>, state: S) -> Tensor<1> {
        let states = Flat::of(state)
            .into_iter()
            .zip(Flat::of(self.probe_state.clone()));
        let losses = states.map(|(state, probe)| (state * probe).sum());
        losses.fold((y * self.probe_y.clone()).sum(), |sum, loss| sum + loss)
    }
}

/// Runs a layer in its parallel form.
pub(super) fn run<L: SequenceLayer>(
    layer: &L,
    x: Tensor<3>,
    lengths: Option<&Lengths>,
    state: L::State,
) -> (Tensor<3>, L::State) {
    match lengths {
        Some(lengths) => layer.forward_padded(x, lengths, Some(state)),
        None => layer.forward(x, Some(state)),
    }
}

/// The outputs, and the gradients of the loss with respect to `x`, the initial state and every
/// parameter, by name.
pub(super) fn differentiate<L: SequenceLayer>(
    layer: &L,
    given: &Given<L::State>,
    body: impl Fn(&L, Tensor<3>, Option<&Lengths>, L::State) -> (Tensor<3>, L::State),
    loss: impl Fn(Tensor<3>, L::State) -> Tensor<1>,
) -> (Values, Values) {
    let mut leaves = Leaves::new();
    let x = leaves.leaf("input x", given.x.clone());
    let state = given.state.clone().map(&mut leaves);
    layer
        .clone()
        .map(&mut Parameters::new(&mut leaves.only_existing()));

    let (y, state) = body(layer, x, given.lengths.as_ref(), state);
    let outputs = values(&y, &state);
    let gradients = loss(y, state).backward();
    let gradient = |leaf: Gradient| (leaf.name, (leaf.read)(&gradients));
    (outputs, leaves.found.into_iter().map(gradient).collect())
}
