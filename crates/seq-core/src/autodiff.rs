//! Gradients of operations with many inputs and several outputs.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::autodiff::{Autodiff, NodeId};
use burn::backend::tensor::FloatTensor;
use burn::backend::{AutodiffBackend, Backend, ExtensionType, TensorMetadata};
#[cfg(feature = "cpu-kernels")]
use burn::tensor::Element;
use burn::tensor::Shape;

#[cfg(feature = "cpu-kernels")]
use crate::cpu::{CpuTensor, Real, Slice};

#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod recompute;

pub use recompute::recompute;

/// A tensor that may be absent, which Burn's extensions do not know by themselves.
#[derive(ExtensionType, Debug, Clone)]
pub enum Maybe<B: Backend> {
    /// There.
    Some(FloatTensor<B>),
    /// Not there.
    None,
}

impl<B: Backend> From<Option<FloatTensor<B>>> for Maybe<B> {
    fn from(tensor: Option<FloatTensor<B>>) -> Self {
        match tensor {
            Some(tensor) => Self::Some(tensor),
            None => Self::None,
        }
    }
}

#[cfg(feature = "cpu-kernels")]
impl<B: Backend> Maybe<B>
where
    FloatTensor<B>: CpuTensor,
{
    /// Its elements.
    pub fn elements<R: Real + Element>(&self) -> Option<Slice<'_, R>> {
        match self {
            Self::Some(tensor) => Some(tensor.elements()),
            Self::None => None,
        }
    }
}

/// The gradient of an operation with `N` inputs and `M` outputs.
pub trait Gradient<B: Backend, const N: usize, const M: usize>:
    Debug + Clone + Send + 'static
{
    /// What the forward pass keeps beside its inputs.
    type Kept: Debug + Clone + Send + 'static;

    /// Which inputs the backward pass reads. The others are not kept for it, and are absent there.
    fn needed(&self) -> [bool; N] {
        [true; N]
    }

    /// The gradients of the inputs, given those of the outputs; an output that the loss does not
    /// depend on has none. `wanted` says which gradients will be used; others may be given in vain.
    fn backward(
        &self,
        inputs: [Maybe<B>; N],
        kept: Self::Kept,
        outputs: [Option<FloatTensor<B>>; M],
        wanted: [bool; N],
    ) -> [Option<FloatTensor<B>>; N];
}

/// Runs `forward` on the inputs, and registers its gradient if one of them is tracked: only then does
/// it have to return what is to be kept, which its second argument says.
///
/// The inputs that the backward pass needs are kept by way of Burn's checkpointer, so that gradient
/// checkpointing is honoured. The first one must be there.
///
/// A node of Burn's graph has one output. The first output's node holds the gradient of all inputs;
/// every other output has a node whose only parent is that one, so that it runs before it in the
/// backward pass and can leave its gradient in a slot for it.
pub fn track<B, C, G, const N: usize, const M: usize>(
    gradient: G,
    inputs: [Maybe<Autodiff<B, C>>; N],
    forward: impl FnOnce([Maybe<B>; N], bool) -> ([FloatTensor<B>; M], Option<G::Kept>),
) -> [FloatTensor<Autodiff<B, C>>; M]
where
    B: Backend,
    C: CheckpointStrategy,
    G: Gradient<B, N, M>,
{
    let present = inputs
        .each_ref()
        .map(|input| matches!(input, Maybe::Some(_)));
    let Maybe::Some(like) = &inputs[0] else {
        panic!("the first input of an operation is absent");
    };
    let (device, dtype) = (like.primitive().device(), like.dtype());
    // A node of Burn's graph has tensors for parents: something has to stand for what is absent.
    let absent = || B::float_zeros(Shape::new([1]), &device, dtype.into());
    let inputs = inputs.map(|input| match input {
        Maybe::Some(tensor) => tensor,
        Maybe::None => <Autodiff<B, C> as AutodiffBackend>::from_inner(absent()),
    });
    let forward = |inputs, keep| forward(restore(inputs, present), keep);
    let nodes = inputs.each_ref().map(|input| input.node());
    let slots: [Slot<B>; M] = std::array::from_fn(|_| Slot::default());
    let joint = Joint(gradient.clone());
    let (first, rest) = match joint.prepare::<C>(nodes).compute_bound().stateful() {
        OpsKind::Tracked(mut prep) => {
            let needed = gradient.needed();
            let id = |i: usize| (present[i] && needed[i]).then(|| prep.checkpoint(&inputs[i]));
            let ids = std::array::from_fn(id);
            let (outputs, kept) = forward(inputs.map(|input| input.into_primitive()), true);
            let state = State {
                inputs: ids,
                kept: kept.expect("a tracked forward pass keeps what the backward pass needs"),
                slots: slots.clone(),
                shape: outputs[0].shape(),
            };
            let mut outputs = outputs.into_iter();
            (
                prep.finish(state, outputs.next().expect("an output")),
                outputs,
            )
        }
        OpsKind::UnTracked(prep) => {
            let (outputs, _) = forward(inputs.map(|input| input.into_primitive()), false);
            let mut outputs = outputs.into_iter();
            (prep.finish(outputs.next().expect("an output")), outputs)
        }
    };
    let node = || first.node();
    let rest: Vec<_> = rest
        .zip(slots.iter().skip(1))
        .map(
            |(output, slot)| match Secondary.prepare::<C>([node()]).compute_bound().stateful() {
                OpsKind::Tracked(prep) => {
                    prep.finish((slot.clone(), first.shape().num_dims()), output)
                }
                OpsKind::UnTracked(prep) => prep.finish(output),
            },
        )
        .collect();
    let mut outputs = std::iter::once(first).chain(rest);
    std::array::from_fn(|_| outputs.next().expect("as many outputs as slots"))
}

/// The inputs as they were given.
fn restore<B: Backend, const N: usize>(
    tensors: [FloatTensor<B>; N],
    present: [bool; N],
) -> [Maybe<B>; N] {
    let mut present = present.into_iter();
    tensors.map(|tensor| match present.next() {
        Some(true) => Maybe::Some(tensor),
        _ => Maybe::None,
    })
}

/// Where an output leaves its gradient for the node of the first one.
struct Slot<B: Backend>(Arc<Mutex<Option<FloatTensor<B>>>>);

impl<B: Backend> Slot<B> {
    fn put(&self, gradient: FloatTensor<B>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(gradient);
    }

    fn take(&self) -> Option<FloatTensor<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<B: Backend> Default for Slot<B> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }
}

impl<B: Backend> Clone for Slot<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<B: Backend> Debug for Slot<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slot")
    }
}

/// What the first output's node knows.
#[derive(Debug, Clone)]
struct State<B: Backend, K, const N: usize, const M: usize> {
    /// Those that are needed.
    inputs: [Option<NodeId>; N],
    kept: K,
    slots: [Slot<B>; M],
    shape: Shape,
}

#[derive(Debug)]
struct Joint<G, const M: usize>(G);

impl<B, G, const N: usize, const M: usize> Backward<B, N> for Joint<G, M>
where
    B: Backend,
    G: Gradient<B, N, M>,
{
    type State = State<B, G::Kept, N, M>;

    fn backward(
        self,
        ops: Ops<Self::State, N>,
        grads: &mut Gradients,
        checkpointer: &mut Checkpointer,
    ) {
        let State {
            inputs,
            kept,
            slots,
            shape,
        } = ops.state;
        let first = grads.consume::<B>(&ops.node);
        let mut outputs = slots.map(|slot| slot.take());
        // Where only other outputs were used, this is the zero that they registered.
        outputs[0] = (first.shape() == shape).then_some(first);
        let inputs = inputs.map(|id| match id {
            Some(id) => Maybe::Some(checkpointer.retrieve_node_output(id)),
            None => Maybe::None,
        });
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let gradients = self.0.backward(inputs, kept, outputs, wanted);
        for (parent, gradient) in ops.parents.into_iter().zip(gradients) {
            if let (Some(parent), Some(gradient)) = (parent, gradient) {
                grads.register::<B>(parent.id, gradient);
            }
        }
    }
}

#[derive(Debug)]
struct Secondary;

impl<B: Backend> Backward<B, 1> for Secondary {
    /// The slot, and the rank of the first output.
    type State = (Slot<B>, usize);

    fn backward(self, ops: Ops<Self::State, 1>, grads: &mut Gradients, _: &mut Checkpointer) {
        let (slot, rank) = ops.state;
        let gradient = grads.consume::<B>(&ops.node);
        let (device, dtype) = (gradient.device(), gradient.dtype());
        slot.put(gradient);
        if let [Some(first)] = &ops.parents {
            // A node runs only if something was registered for it; this zero is broadcast.
            let zero = B::float_zeros(Shape::from(vec![1; rank]), &device, dtype.into());
            grads.register::<B>(first.id, zero);
        }
    }
}
