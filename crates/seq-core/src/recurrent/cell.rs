use std::fmt::Debug;

use crate::cpu::{Real, Simd};

/// The pointwise mathematics of a gated cell in SIMD registers, forward and backward.
///
/// A step of a recurrent layer fills `G` slots for every hidden unit with sums, and the cell turns
/// them into the next state. The input product adds to the first `I` slots, the recurrent product
/// to the last `H`: all of them where a gate takes the sum of both, as in the LSTM; where the two
/// parts of a gate must be kept apart, as in the GRU, each has a slot of its own. `U` counts the
/// elementwise weights of a unit (peepholes).
///
/// What is done with a register is done with every lane, one hidden unit each. Methods must be
/// `#[inline(always)]`.
pub trait Cell<const G: usize, const I: usize, const H: usize, const U: usize>:
    Debug + Clone + Send + Sync + 'static
{
    /// Whether there is a cell state beside the hidden one.
    const MEMORY: bool;
    /// Which block of rows of `weight_ih` each of the first `I` slots belongs to.
    const INPUT: [usize; I];
    /// Which block of rows of `weight_hh` each of the last `H` slots belongs to.
    const RECURRENT: [usize; H];

    /// One step of some units.
    fn forward<R: Real, S: Simd>(
        &self,
        s: S,
        sums: [R::V<S>; G],
        weights: [R::V<S>; U],
        before: State<R::V<S>>,
    ) -> Forward<R::V<S>, G>;

    /// The gradient of [`forward`](Self::forward).
    fn backward<R: Real, S: Simd>(
        &self,
        s: S,
        step: Taken<R::V<S>, G>,
        weights: [R::V<S>; U],
        gradient: State<R::V<S>>,
    ) -> Backward<R::V<S>, G, U>;
}

/// The state of some units, or its gradient.
#[derive(Debug, Clone, Copy)]
pub struct State<V> {
    /// The hidden state.
    pub hidden: V,
    /// The cell state; zero and ignored without [`MEMORY`](Cell::MEMORY).
    pub cell: V,
}

/// What a step gives.
#[derive(Debug, Clone, Copy)]
pub struct Forward<V, const G: usize> {
    /// The next state.
    pub state: State<V>,
    /// What the backward pass will want to know.
    pub kept: [V; G],
}

/// A step that was taken, seen from the backward pass.
#[derive(Debug, Clone, Copy)]
pub struct Taken<V, const G: usize> {
    /// What the forward pass kept.
    pub kept: [V; G],
    /// The state before the step.
    pub before: State<V>,
    /// The state after it.
    pub after: State<V>,
}

/// The gradients of a step.
#[derive(Debug, Clone, Copy)]
pub struct Backward<V, const G: usize, const U: usize> {
    /// Of the sums.
    pub sums: [V; G],
    /// Of the elementwise weights.
    pub weights: [V; U],
    /// Of the state before, by every way but through the recurrent product.
    pub before: State<V>,
}
