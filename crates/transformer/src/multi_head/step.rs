//! One step of a stream on the CPU: the whole layer in one kernel.

mod cpu;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{DType, Element, Tensor};
use seq_core::autodiff::Maybe;
use seq_core::cpu::{CpuTensor, Real, Shared};

use super::MultiHeadAttention;
use crate::KvCache;
use crate::attention::cpu::FEW;
use crate::positions::Rows;
use crate::rotary::Turn;
use cpu::{Map, Problem};

/// From this batch on, products of whole matrices are faster.
const ROWS: usize = 4;

/// Whether the kernel is for a step, `x` `[batch, .., d_model]`.
pub(super) fn has_kernel<const D: usize>(
    layer: &MultiHeadAttention,
    x: &Tensor<D>,
    cache: &KvCache,
) -> bool {
    let dtype = x.dtype();
    let maps = [&layer.query, &layer.key, &layer.value, &layer.output];
    let normed = layer.query_norm.is_some() || layer.key_norm.is_some();
    matches!(dtype, DType::F32 | DType::F64)
        && maps.iter().all(|map| map.weight.dtype() == dtype)
        && cache.dtype() == dtype
        && x.dims()[0] <= ROWS
        && !normed
        && layer.query.weight.dims()[1] <= FEW * layer.key.weight.dims()[1]
        && !x.device().is_autodiff()
        && seq_core::is_cpu(&x.device())
}

/// Runs a step that the kernel is for, to the shape of `x`.
pub(super) fn run<const D: usize>(
    layer: &MultiHeadAttention,
    x: Tensor<D>,
    cache: KvCache,
) -> (Tensor<D>, KvCache) {
    let dtype = x.dtype();
    let weight = |map: &Linear| map.weight.val().into_dispatch();
    let bias = |map: &Linear| map.bias.as_ref().map(Param::val).map(Tensor::into_dispatch);
    cache.step(|[keys, values], held, read| {
        let inputs = Inputs {
            x: x.into_dispatch(),
            keys: keys.into_dispatch(),
            values: values.into_dispatch(),
            query: weight(&layer.query),
            query_bias: bias(&layer.query).into(),
            key: weight(&layer.key),
            key_bias: bias(&layer.key).into(),
            value: weight(&layer.value),
            value_bias: bias(&layer.value).into(),
            output: weight(&layer.output),
            output_bias: bias(&layer.output).into(),
        };
        let options = Options {
            places: held,
            window: layer.window,
            slopes: layer.alibi.as_deref(),
            scale: layer.scale.unwrap_or(1.0 / (layer.d_head as f64).sqrt()),
            softcap: layer.softcap,
            turn: layer
                .rotary
                .as_ref()
                .map(|rotary| rotary.turn_of(dtype, 1, read)),
        };
        let Outputs { y, keys, values } = Dispatch::attention_step(inputs, &options);
        (
            Tensor::from_dispatch(y),
            [keys, values].map(Tensor::from_dispatch),
        )
    })
}

/// The layer and its cache in a backend's own tensors.
#[derive(ExtensionType, Debug, Clone)]
pub struct Inputs<B: Backend> {
    pub x: FloatTensor<B>,
    pub keys: FloatTensor<B>,
    pub values: FloatTensor<B>,
    pub query: FloatTensor<B>,
    #[extension_type]
    pub query_bias: Maybe<B>,
    pub key: FloatTensor<B>,
    #[extension_type]
    pub key_bias: Maybe<B>,
    pub value: FloatTensor<B>,
    #[extension_type]
    pub value_bias: Maybe<B>,
    pub output: FloatTensor<B>,
    #[extension_type]
    pub output_bias: Maybe<B>,
}

/// What a step gives.
#[derive(ExtensionType, Debug, Clone)]
pub struct Outputs<B: Backend> {
    pub y: FloatTensor<B>,
    pub keys: FloatTensor<B>,
    pub values: FloatTensor<B>,
}

/// What a step is besides its tensors.
#[derive(Debug)]
pub struct Options<'a> {
    /// Where in the cache each row's key and value go.
    places: &'a [usize],
    window: Option<usize>,
    slopes: Option<&'a [f64]>,
    scale: f64,
    softcap: Option<f64>,
    turn: Option<Turn<'a>>,
}

/// The operation, for inference alone.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"))]
pub trait AttentionStepOps: Backend {
    fn attention_step(
        #[extension_type] inputs: Inputs<Self>,
        options: &Options<'_>,
    ) -> Outputs<Self>;
}

#[cfg(feature = "ndarray")]
impl AttentionStepOps for burn::backend::NdArray {
    fn attention_step(inputs: Inputs<Self>, options: &Options<'_>) -> Outputs<Self> {
        run_on(inputs, options)
    }
}

#[cfg(feature = "flex")]
impl AttentionStepOps for burn::backend::Flex {
    fn attention_step(inputs: Inputs<Self>, options: &Options<'_>) -> Outputs<Self> {
        run_on(inputs, options)
    }
}

fn run_on<B: Backend>(inputs: Inputs<B>, options: &Options<'_>) -> Outputs<B>
where
    FloatTensor<B>: CpuTensor,
{
    match options.turn.as_ref().map(Turn::rows) {
        Some(Rows::F64(rows)) => run_in::<B, f64>(inputs, options, rows),
        Some(Rows::F32(rows)) => run_in::<B, f32>(inputs, options, rows),
        None if inputs.x.dtype() == DType::F64 => run_in::<B, f64>(inputs, options, &[]),
        None => run_in::<B, f32>(inputs, options, &[]),
    }
}

fn run_in<B: Backend, R: Real + Element>(
    mut inputs: Inputs<B>,
    options: &Options<'_>,
    turns: &[R],
) -> Outputs<B>
where
    FloatTensor<B>: CpuTensor,
{
    let (batch, d_model) = (inputs.x.shape()[0], inputs.query.shape()[0]);
    let [_, room, kv_heads, d_head] = inputs.keys.shape().dims();
    let [width, d_output] = inputs.output.shape().dims();
    let keys = writable::<_, R>(&mut inputs.keys);
    let values = writable::<_, R>(&mut inputs.values);
    // Of numbers of elements alone: shapes are vectors, and a step is to allocate none.
    let whole = batch * room * kv_heads * d_head;
    let roomy = options.places.iter().all(|&place| place < room);
    assert!(
        [keys.len(), values.len()] == [whole; 2] && options.places.len() == batch && roomy,
        "no room at {:?} in a cache of {batch} rows of {room} steps",
        options.places
    );
    let (keys, values) = (
        Shared::new(keys.as_mut_ptr()),
        Shared::new(values.as_mut_ptr()),
    );
    let problem = Problem {
        batch,
        d_model,
        d_output,
        room,
        heads: width / d_head,
        kv_heads,
        d_head,
        x: inputs.x.elements(),
        query: Map::of(&inputs.query, &inputs.query_bias),
        key: Map::of(&inputs.key, &inputs.key_bias),
        value: Map::of(&inputs.value, &inputs.value_bias),
        output: Map::of(&inputs.output, &inputs.output_bias),
        options,
        turns,
    };
    let fits = |name: &str, map: &Map<'_, R>, weight: &FloatTensor<B>, expected: [usize; 2]| {
        let biased = map
            .bias
            .as_ref()
            .is_none_or(|bias| bias.len() == expected[1]);
        assert!(
            map.weight.len() == expected[0] * expected[1] && biased,
            "the {name}'s weight has shape {:?}, a step of {:?} with heads of keys [{kv_heads}, {d_head}] needs \
             {expected:?}, and a bias of as many columns",
            weight.shape(),
            inputs.x.shape()
        );
    };
    let kv_width = kv_heads * d_head;
    fits("query", &problem.query, &inputs.query, [d_model, width]);
    fits("key", &problem.key, &inputs.key, [d_model, kv_width]);
    fits("value", &problem.value, &inputs.value, [d_model, kv_width]);
    fits("output", &problem.output, &inputs.output, [width, d_output]);
    assert!(
        problem.x.len() == batch * d_model && kv_width > 0 && width.is_multiple_of(kv_width),
        "the input has shape {:?}, the queries are [{d_model}, {width}], heads of keys [{kv_heads}, {d_head}]",
        inputs.x.shape()
    );
    // SAFETY: all of it was checked.
    let y = unsafe { problem.run(keys, values) };
    let mut shape = inputs.x.shape();
    let last = shape.num_dims() - 1;
    shape[last] = d_output;
    Outputs {
        y: FloatTensor::<B>::from_vec(y, &shape),
        keys: inputs.keys,
        values: inputs.values,
    }
}

/// The elements where they lie, of a copy if others share them.
fn writable<T: CpuTensor, R: Real + Element>(tensor: &mut T) -> &mut [R] {
    if tensor.elements_mut::<R>().is_none() {
        *tensor = T::from_vec(tensor.elements::<R>().into_owned(), &tensor.shape());
    }
    tensor.elements_mut().expect("a tensor of its own")
}
