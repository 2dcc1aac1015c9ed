use std::fmt::{self, Debug, Formatter};
use std::sync::Arc;

use burn::backend::autodiff::Autodiff;
use burn::backend::autodiff::checkpoint::strategy::CheckpointStrategy;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Backend, BackendTensor, Dispatch, DispatchKindConversion, DispatchTensor, ExtensionType,
    backend_extension,
};
use burn::tensor::Tensor;

use super::{Gradient, Maybe, track};

/// How many inputs there are at the most.
const INPUTS: usize = 4;

/// `body(inputs)`, of which a backward pass keeps only the inputs: it runs `body` once more, and goes back through
/// that (Chen et al. 2016, <https://arxiv.org/abs/1604.06174>). What `body` makes on its way is in memory for
/// the time of its own backward pass alone.
///
/// `body` gives the same whenever it is run, and makes its own tensors on the device of its inputs, which may be
/// without autodiff. Tensors that it has from elsewhere are constants.
///
/// # Panics
///
/// When the first input is absent.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::autodiff::recompute;
///
/// let device = seq_core::device().autodiff();
/// let x = Tensor::<1>::from_data([1.0, 2.0], &device).require_grad();
/// let cube = |[x, ..]: [Option<Tensor<1>>; 4]| x.unwrap().powi_scalar(3);
/// let y = recompute([Some(x.clone()), None, None, None], cube);
/// let gradient = x.grad(&y.sum().backward()).unwrap();
/// assert_eq!(gradient.into_data().to_vec::<f32>().unwrap(), [3.0, 12.0]);
/// # }
/// ```
pub fn recompute<const D: usize>(
    inputs: [Option<Tensor<D>>; INPUTS],
    body: impl Fn([Option<Tensor<D>>; INPUTS]) -> Tensor<D> + Send + Sync + 'static,
) -> Tensor<D> {
    let first = inputs[0].as_ref();
    let first = first.expect("the first input of an operation is absent");
    if !first.is_autodiff() || !serves(first) {
        return body(inputs);
    }
    let body = Body(Arc::new(Ranked(body)));
    let [first, second, third, fourth] = inputs;
    let input = |input: Option<Tensor<D>>| input.map(Tensor::into_dispatch).into();
    let inputs = Inputs {
        first: first.expect("as above").into_dispatch(),
        second: input(second),
        third: input(third),
        fourth: input(fourth),
    };
    Tensor::from_dispatch(Dispatch::recomputed(inputs, body))
}

/// Whether the tensor is of a backend that [`RecomputeOps`] has.
fn serves<const D: usize>(x: &Tensor<D>) -> bool {
    use burn::backend::DispatchDevice;
    match x.device().inner().as_dispatch() {
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[cfg(feature = "cube")]
        DispatchDevice::Cube(_) => true,
        #[allow(unreachable_patterns, reason = "a build may have these backends alone")]
        _ => false,
    }
}

/// The inputs in a backend's own tensors.
#[derive(ExtensionType, Debug, Clone)]
pub struct Inputs<B: Backend> {
    pub first: FloatTensor<B>,
    #[extension_type]
    pub second: Maybe<B>,
    #[extension_type]
    pub third: Maybe<B>,
    #[extension_type]
    pub fourth: Maybe<B>,
}

/// What is run, and run again.
#[derive(Clone)]
pub struct Body(Arc<dyn Run>);

type Dispatched = [Option<DispatchTensor>; INPUTS];

trait Run: Send + Sync {
    fn forward(&self, inputs: Dispatched) -> DispatchTensor;

    /// The gradients of the inputs that are `wanted`.
    fn backward(
        &self,
        inputs: Dispatched,
        gradient: DispatchTensor,
        wanted: [bool; INPUTS],
    ) -> Dispatched;
}

struct Ranked<F, const D: usize>(F);

impl<F, const D: usize> Run for Ranked<F, D>
where
    F: Fn([Option<Tensor<D>>; INPUTS]) -> Tensor<D> + Send + Sync,
{
    fn forward(&self, inputs: Dispatched) -> DispatchTensor {
        self.0(inputs.map(|input| input.map(Tensor::from_dispatch))).into_dispatch()
    }

    fn backward(
        &self,
        inputs: Dispatched,
        gradient: DispatchTensor,
        wanted: [bool; INPUTS],
    ) -> Dispatched {
        let mut wanted = wanted.into_iter();
        let inputs = inputs.map(|input| {
            let wanted = wanted.next().unwrap_or(false);
            let input = input.map(|input| Tensor::<D>::from_dispatch(input).autodiff());
            input.map(|input| input.set_require_grad(wanted))
        });
        let y = self.0(inputs.clone());
        let gradient = Tensor::<D>::from_dispatch(gradient).autodiff();
        let gradients = (y * gradient).sum().backward();
        inputs.map(|input| {
            let gradient = input.and_then(|input| input.grad(&gradients));
            gradient.map(|gradient| gradient.inner().into_dispatch())
        })
    }
}

impl Debug for Body {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("Body")
    }
}

/// The operation.
#[backend_extension(
    NdArray: cfg(feature = "ndarray"),
    Flex: cfg(feature = "flex"),
    Cube: cfg(feature = "cube"),
    Autodiff
)]
pub trait RecomputeOps: Backend {
    fn recomputed(#[extension_type] inputs: Inputs<Self>, body: Body) -> FloatTensor<Self>;
}

#[cfg(feature = "ndarray")]
impl RecomputeOps for burn::backend::NdArray {
    fn recomputed(inputs: Inputs<Self>, body: Body) -> FloatTensor<Self> {
        run(inputs, &body)
    }
}

#[cfg(feature = "flex")]
impl RecomputeOps for burn::backend::Flex {
    fn recomputed(inputs: Inputs<Self>, body: Body) -> FloatTensor<Self> {
        run(inputs, &body)
    }
}

#[cfg(feature = "cube")]
impl RecomputeOps for burn::backend::Cube {
    fn recomputed(inputs: Inputs<Self>, body: Body) -> FloatTensor<Self> {
        run(inputs, &body)
    }
}

fn run<B: Backend>(inputs: Inputs<B>, body: &Body) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    primitive(body.0.forward(spread(inputs).map(dispatched)))
}

fn dispatched<B: Backend>(tensor: Maybe<B>) -> Option<DispatchTensor>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    match tensor {
        Maybe::Some(tensor) => Some(DispatchTensor::from_backend(BackendTensor::Float(tensor))),
        Maybe::None => None,
    }
}

fn primitive<B: Backend>(tensor: DispatchTensor) -> FloatTensor<B>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    let tensor: Result<BackendTensor<B>, _> = DispatchTensor::try_into_backend(tensor);
    match tensor {
        Ok(tensor) => tensor.float(),
        Err(error) => panic!("the result is of another backend than the inputs: {error}"),
    }
}

impl<B: RecomputeOps, C: CheckpointStrategy> RecomputeOps for Autodiff<B, C>
where
    DispatchTensor: DispatchKindConversion<B>,
{
    fn recomputed(inputs: Inputs<Self>, body: Body) -> FloatTensor<Self> {
        let again = Again { body: body.clone() };
        let [y] = track::<B, C, _, INPUTS, 1>(again, spread(inputs), |inputs, keep| {
            ([B::recomputed(gather(inputs), body)], keep.then_some(()))
        });
        y
    }
}

fn spread<B: Backend>(inputs: Inputs<B>) -> [Maybe<B>; INPUTS] {
    [
        Maybe::Some(inputs.first),
        inputs.second,
        inputs.third,
        inputs.fourth,
    ]
}

fn gather<B: Backend>(inputs: [Maybe<B>; INPUTS]) -> Inputs<B> {
    let [Maybe::Some(first), second, third, fourth] = inputs else {
        unreachable!("the first input is there")
    };
    Inputs {
        first,
        second,
        third,
        fourth,
    }
}

#[derive(Debug, Clone)]
struct Again {
    body: Body,
}

impl<B: Backend> Gradient<B, INPUTS, 1> for Again
where
    DispatchTensor: DispatchKindConversion<B>,
{
    type Kept = ();

    fn backward(
        &self,
        inputs: [Maybe<B>; INPUTS],
        (): (),
        [gradient]: [Option<FloatTensor<B>>; 1],
        wanted: [bool; INPUTS],
    ) -> [Option<FloatTensor<B>>; INPUTS] {
        let Some(gradient) = gradient else {
            return [None, None, None, None];
        };
        let gradient = DispatchTensor::from_backend(BackendTensor::<B>::Float(gradient));
        let inputs = inputs.map(dispatched);
        let gradients = self.body.0.backward(inputs, gradient, wanted);
        gradients.map(|gradient| gradient.map(primitive))
    }
}
