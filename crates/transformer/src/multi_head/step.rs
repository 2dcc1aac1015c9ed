//! One step of a stream on the CPU: the whole layer in one kernel.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{DType, Element, Tensor};
use seq_core::autodiff::Maybe;
use seq_core::cpu::{
    Arch, Buffer, CpuTensor, Matrix, Member, Real, Shared, Simd, Slice, Team, WithSimd,
    product_columns, reserve, threads,
};

use super::MultiHeadAttention;
use crate::KvCache;
use crate::attention::Reach;
use crate::attention::cpu::{self, FEW, part_size};
use crate::positions::Rows;
use crate::rotary::{Turn, turn_heads};

/// From this batch on, products of whole matrices are faster.
const ROWS: usize = 4;

/// Below this many weights a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 15;

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
    let y = problem.run(keys, values);
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

/// A linear map, `[d_input, d_output]`.
struct Map<'a, R: Real> {
    weight: Slice<'a, R>,
    bias: Option<Slice<'a, R>>,
}

impl<'a, R: Real + Element> Map<'a, R> {
    fn of<B: Backend>(weight: &'a FloatTensor<B>, bias: &'a Maybe<B>) -> Self
    where
        FloatTensor<B>: CpuTensor,
    {
        Self {
            weight: weight.elements(),
            bias: bias.elements(),
        }
    }
}

impl<R: Real> Map<'_, R> {
    /// Some columns of what the map makes of the rows of `x`, as they lie in an output of all columns.
    ///
    /// # Safety
    ///
    /// The columns must be inside, and the calling thread's own.
    #[inline(always)]
    unsafe fn columns<S: Simd>(
        &self,
        s: S,
        x: &[R],
        [d_input, d_output]: [usize; 2],
        columns: Range<usize>,
        out: Shared<R>,
    ) {
        let size = [x.len() / d_input, d_input, d_output];
        let matrices = [
            Matrix::rows(x, d_input),
            Matrix::rows(&self.weight, d_output),
        ];
        // SAFETY: the matrices are whole, the columns by the promise.
        unsafe { product_columns(s, size, matrices, self.bias.as_deref(), out, columns) };
    }
}

/// A step with its inputs, all row-major.
struct Problem<'a, R: Real> {
    batch: usize,
    d_model: usize,
    d_output: usize,
    room: usize,
    heads: usize,
    kv_heads: usize,
    d_head: usize,
    x: Slice<'a, R>,
    query: Map<'a, R>,
    key: Map<'a, R>,
    value: Map<'a, R>,
    output: Map<'a, R>,
    options: &'a Options<'a>,
    /// The table that `turn` is about.
    turns: &'a [R],
}

impl<R: Real> Problem<'_, R> {
    /// Gives y, and writes the step's key and value to the cache.
    fn run(&self, keys: Shared<R>, values: Shared<R>) -> Vec<R> {
        let longest = self.options.places.iter().copied().max().unwrap_or(0);
        let weights = self.query.weight.len() + self.output.weight.len();
        let count = match weights + longest * self.heads * self.d_head < WORTH_SHARING {
            true => 1,
            false => threads(),
        };
        let len = self.batch * self.d_output;
        let mut y = reserve(len);
        let width = |heads: usize| self.batch * heads * self.d_head;
        // SAFETY: each is written before it is read.
        let mut buffers = [self.heads, self.kv_heads, self.kv_heads, self.heads]
            .map(|heads| unsafe { Buffer::uninit(width(heads)) });
        let [query, key, value, mixed] = buffers.each_mut().map(Buffer::shared);
        let reach = Reach {
            causal: true,
            window: self.options.window,
            offsets: self.options.places.iter().map(|&at| at as isize).collect(),
            keys: self.options.places.iter().map(|&at| at + 1).collect(),
        };
        let size = part_size(self.d_head);
        // SAFETY: as above.
        let mut parts = unsafe { Buffer::uninit(count * self.batch * self.heads * size) };
        let pass = Pass {
            problem: self,
            reach: &reach,
            keys,
            values,
            query,
            key,
            value,
            mixed,
            parts: parts.shared(),
            y: Shared::new(y.as_mut_ptr()),
        };
        let arch = Arch::new();
        Team::run(count, |member| {
            arch.dispatch(Thread {
                pass: &pass,
                member,
            });
        });
        // SAFETY: the threads have written all columns of every row.
        unsafe { y.set_len(len) };
        y
    }
}

/// A step, as all threads see it.
struct Pass<'a, R: Real> {
    problem: &'a Problem<'a, R>,
    reach: &'a Reach,
    /// `[batch, room, kv_heads, d_head]`, as the values.
    keys: Shared<R>,
    values: Shared<R>,
    /// `[batch, heads, d_head]`, as what attention gives.
    query: Shared<R>,
    /// `[batch, kv_heads, d_head]`, as the value.
    key: Shared<R>,
    value: Shared<R>,
    mixed: Shared<R>,
    parts: Shared<R>,
    /// `[batch, d_output]`
    y: Shared<R>,
}

struct Thread<'a, 'm, R: Real> {
    pass: &'a Pass<'a, R>,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { pass, member } = self;
        let problem = pass.problem;
        let width = problem.heads * problem.d_head;
        let line = 64 / size_of::<R>();
        let lines = member.share(problem.d_output.div_ceil(line));
        let own = lines.start * line..problem.d_output.min(lines.end * line);
        // SAFETY: until the threads meet, each writes its own heads; what attention reads is there when they
        // have met, and so is what the last map reads, whose columns are each thread's own.
        unsafe {
            self.enter(s, member.share(problem.heads + 2 * problem.kv_heads));
            member.wait();
            self.attend(s);
            member.wait();
            let mixed = std::slice::from_raw_parts(pass.mixed.at(0), problem.batch * width);
            let size = [width, problem.d_output];
            problem.output.columns(s, mixed, size, own, pass.y);
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// The queries, keys and values of some heads, which are counted through in this order.
    ///
    /// # Safety
    ///
    /// The heads must be this thread's own.
    #[inline(always)]
    unsafe fn enter<S: Simd>(&self, s: S, own: Range<usize>) {
        let pass = self.pass;
        let problem = pass.problem;
        let (heads, kv_heads, d_head) = (problem.heads, problem.kv_heads, problem.d_head);
        let maps = [
            (&problem.query, 0..heads, pass.query, None),
            (
                &problem.key,
                heads..heads + kv_heads,
                pass.key,
                Some(pass.keys),
            ),
            (
                &problem.value,
                heads + kv_heads..heads + 2 * kv_heads,
                pass.value,
                Some(pass.values),
            ),
        ];
        for (i, (map, all, out, cache)) in maps.into_iter().enumerate() {
            let (start, end) = (own.start.max(all.start), own.end.min(all.end));
            if start >= end {
                continue;
            }
            let columns = (start - all.start) * d_head..(end - all.start) * d_head;
            let width = all.len() * d_head;
            let size = [problem.d_model, width];
            // SAFETY: the columns of this thread's own heads, which the cache has room for at the row's place.
            unsafe {
                map.columns(s, &problem.x, size, columns.clone(), out);
                for row in 0..problem.batch {
                    let out = out.at(row * width + columns.start);
                    if let Some(turn) = problem.options.turn.as_ref().filter(|_| i < 2) {
                        let vectors = std::slice::from_raw_parts_mut(out, columns.len());
                        turn_heads(s, turn, problem.turns, turn.start(row), vectors, d_head);
                    }
                    if let Some(cache) = cache {
                        let at = row * problem.room + problem.options.places[row];
                        let into = cache.at(at * width + columns.start);
                        into.copy_from_nonoverlapping(out, columns.len());
                    }
                }
            }
        }
    }

    /// Attention of the queries to what the cache holds.
    ///
    /// # Safety
    ///
    /// All threads must have entered.
    #[inline(always)]
    unsafe fn attend<S: Simd>(&self, s: S) {
        let pass = self.pass;
        let problem = pass.problem;
        let (heads, d_head) = (problem.heads, problem.d_head);
        let held = problem.batch * problem.room * problem.kv_heads * d_head;
        // SAFETY: by the promise nobody writes to them any more.
        let slice = |from: Shared<R>, len| unsafe { std::slice::from_raw_parts(from.at(0), len) };
        let attention = cpu::Problem {
            batch: problem.batch,
            time_query: 1,
            time_key: problem.room,
            heads,
            kv_heads: problem.kv_heads,
            d_head,
            d_value: d_head,
            query: slice(pass.query, problem.batch * heads * d_head),
            key: slice(pass.keys, held),
            value: slice(pass.values, held),
            scale: problem.options.scale,
            softcap: problem.options.softcap,
            slopes: problem.options.slopes,
            mask: None,
            bias: None,
            reach: pass.reach,
            dropout: None,
        };
        // SAFETY: all threads come here, with parts for each.
        unsafe { cpu::attend(s, &attention, self.member, pass.parts, pass.mixed) };
    }
}
