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
/// A cell may gate its hidden state before some of the products, as the GRU with its reset gate there:
/// the last `D` slots then take the product of what [`gate`](Self::gate) makes of the hidden state, and
/// the `H` before them that of the hidden state itself. That costs a second meeting of the threads in
/// every step.
///
/// What is done with a register is done with every lane, one hidden unit each. Methods must be
/// `#[inline(always)]`.
///
/// ```
/// use burn::tensor::Tensor;
/// use seq_core::cpu::{Real, Simd};
/// use seq_core::recurrent::{Backward, Cell, Forward, Recurrence, State, Taken};
/// use seq_core::{BackendName, PackedWeights};
///
/// /// A leaky integrator, `h = a h + x`; the slot also takes the recurrent product.
/// #[derive(Debug, Clone)]
/// struct Leaky(f64);
///
/// impl Cell<1, 1, 1, 0> for Leaky {
///     const MEMORY: bool = false;
///     const INPUT: [usize; 1] = [0];
///     const RECURRENT: [usize; 1] = [0];
///
///     #[inline(always)]
///     fn forward<R: Real, S: Simd>(
///         &self,
///         s: S,
///         [x]: [R::V<S>; 1],
///         _: [R::V<S>; 0],
///         before: State<R::V<S>>,
///     ) -> Forward<R::V<S>, 1> {
///         let a = R::splat(s, R::from_f64(self.0));
///         let state = State { hidden: R::mul_add(s, a, before.hidden, x), ..before };
///         Forward { state, kept: [x] }
///     }
///
///     #[inline(always)]
///     fn backward<R: Real, S: Simd>(
///         &self,
///         s: S,
///         _: Taken<R::V<S>, 1>,
///         _: [R::V<S>; 0],
///         gradient: State<R::V<S>>,
///     ) -> Backward<R::V<S>, 1, 0> {
///         let a = R::splat(s, R::from_f64(self.0));
///         let before = State { hidden: R::vmul(s, a, gradient.hidden), ..gradient };
///         Backward { sums: [gradient.hidden], weights: [], before }
///     }
/// }
///
/// // CPU backends come first.
/// let device = BackendName::compiled()[0].device().autodiff();
/// let hidden = Tensor::<2>::zeros([1, 1], &device).require_grad();
/// let recurrence = Recurrence {
///     x: Tensor::ones([1, 3, 1], &device),
///     weight_ih: Tensor::ones([1, 1], &device),
///     weight_hh: Tensor::zeros([1, 1], &device),
///     bias_ih: None,
///     bias_hh: None,
///     weights: None,
///     hidden: hidden.clone(),
///     cell: None,
///     packed: PackedWeights::default(),
/// };
/// let (y, _, _) = recurrence.run(Leaky(0.5), None, false).unwrap();
/// assert_eq!(y.to_data().as_slice::<f32>().unwrap(), [1.0, 1.5, 1.75]);
/// let gradient = hidden.grad(&y.sum().backward()).unwrap();
/// assert_eq!(gradient.into_scalar::<f32>(), 0.5 + 0.25 + 0.125);
/// ```
pub trait Cell<const G: usize, const I: usize, const H: usize, const U: usize, const D: usize = 0>:
    Debug + Clone + Send + Sync + 'static
{
    /// Whether there is a cell state beside the hidden one.
    const MEMORY: bool;
    /// Which block of rows of `weight_ih` each of the first `I` slots belongs to.
    const INPUT: [usize; I];
    /// Which block of rows of `weight_hh` each of the last `H` slots, before those of
    /// [`GATED`](Self::GATED), belongs to.
    const RECURRENT: [usize; H];
    /// Which block of rows of `weight_hh` each of the last `D` slots belongs to.
    const GATED: [usize; D] = [0; D];

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

    /// The gated hidden state, from the sums of all slots but the last `D`.
    #[inline(always)]
    fn gate<R: Real, S: Simd>(
        &self,
        _s: S,
        _sums: [R::V<S>; G],
        before: State<R::V<S>>,
    ) -> R::V<S> {
        before.hidden
    }

    /// The gradient of [`gate`](Self::gate), called after [`backward`](Self::backward): from what that
    /// gave for the sums, the state before the step and the gradient of the gated hidden state, the
    /// gradients of the sums and what the gradient of the hidden state gets.
    #[inline(always)]
    fn gate_backward<R: Real, S: Simd>(
        &self,
        _s: S,
        sums: [R::V<S>; G],
        _before: State<R::V<S>>,
        gradient: R::V<S>,
    ) -> ([R::V<S>; G], R::V<S>) {
        (sums, gradient)
    }
}

/// The state of some units, or its gradient.
///
/// The example is at [`Cell`].
#[derive(Debug, Clone, Copy)]
pub struct State<V> {
    /// The hidden state.
    pub hidden: V,
    /// The cell state; zero and ignored without [`MEMORY`](Cell::MEMORY).
    pub cell: V,
}

/// What a step gives.
///
/// The example is at [`Cell`].
#[derive(Debug, Clone, Copy)]
pub struct Forward<V, const G: usize> {
    /// The next state.
    pub state: State<V>,
    /// What the backward pass will want to know.
    pub kept: [V; G],
}

/// A step that was taken, seen from the backward pass.
///
/// The example is at [`Cell`].
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
///
/// The example is at [`Cell`].
#[derive(Debug, Clone, Copy)]
pub struct Backward<V, const G: usize, const U: usize> {
    /// Of the sums.
    pub sums: [V; G],
    /// Of the elementwise weights.
    pub weights: [V; U],
    /// Of the state before, by every way but through the recurrent products.
    pub before: State<V>,
}
