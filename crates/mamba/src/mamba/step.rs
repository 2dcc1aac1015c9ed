//! One step of a stream on the CPU: the whole layer in one kernel.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, ExtensionType, TensorMetadata, backend_extension};
use burn::module::Param;
use burn::tensor::{DType, Element, Tensor};
use seq_core::autodiff::Maybe;
use seq_core::cpu::{
    Arch, Buffer, CpuTensor, Member, Real, Shared, Simd, Slice, Team, WithSimd, threads,
};

use super::layer::{Mamba, MambaState};
use crate::weight::{ROWS, WORTH_SHARING, Weight};

/// Whether the kernel is for a step.
pub(super) fn has_kernel(layer: &Mamba, x: &Tensor<2>, state: &MambaState) -> bool {
    let dtype = x.dtype();
    let parameters = [
        layer.in_proj.weight.val().dtype(),
        layer.a_log.val().dtype(),
    ];
    matches!(dtype, DType::F32 | DType::F64)
        && parameters == [dtype; 2]
        && state.ssm.dtype() == dtype
        && x.dims()[0] <= ROWS
        && !x.device().is_autodiff()
        && seq_core::is_cpu(&x.device())
}

/// Runs a step that the kernel is for.
pub(super) fn run(layer: &Mamba, x: Tensor<2>, state: MambaState) -> (Tensor<2>, MambaState) {
    let optional = |x: Option<&Param<Tensor<1>>>| x.map(|x| x.val().into_dispatch()).into();
    let inputs = Inputs {
        x: x.into_dispatch(),
        conv: state.conv.into_dispatch(),
        ssm: state.ssm.into_dispatch(),
        in_weight: layer.in_proj.weight.val().into_dispatch(),
        in_bias: optional(layer.in_proj.bias.as_ref()),
        conv_weight: layer.conv_weight.val().into_dispatch(),
        conv_bias: optional(layer.conv_bias.as_ref()),
        x_weight: layer.x_proj.weight.val().into_dispatch(),
        dt_weight: layer.dt_proj.weight.val().into_dispatch(),
        dt_bias: optional(layer.dt_proj.bias.as_ref()),
        a_log: layer.a_log.val().into_dispatch(),
        d: layer.d.val().into_dispatch(),
        out_weight: layer.out_proj.weight.val().into_dispatch(),
        out_bias: optional(layer.out_proj.bias.as_ref()),
    };
    let options = Options {
        dt_limit: layer.dt_limit,
        norm_eps: layer.dt_b_c_norm_eps,
    };
    let Outputs { y, conv, ssm } = Dispatch::mamba_step(inputs, options);
    let state = MambaState {
        conv: Tensor::from_dispatch(conv),
        ssm: Tensor::from_dispatch(ssm),
    };
    (Tensor::from_dispatch(y), state)
}

/// The layer and its state in a backend's own tensors.
#[derive(ExtensionType, Debug, Clone)]
pub struct Inputs<B: Backend> {
    pub x: FloatTensor<B>,
    pub conv: FloatTensor<B>,
    pub ssm: FloatTensor<B>,
    pub in_weight: FloatTensor<B>,
    #[extension_type]
    pub in_bias: Maybe<B>,
    pub conv_weight: FloatTensor<B>,
    #[extension_type]
    pub conv_bias: Maybe<B>,
    pub x_weight: FloatTensor<B>,
    pub dt_weight: FloatTensor<B>,
    #[extension_type]
    pub dt_bias: Maybe<B>,
    pub a_log: FloatTensor<B>,
    pub d: FloatTensor<B>,
    pub out_weight: FloatTensor<B>,
    #[extension_type]
    pub out_bias: Maybe<B>,
}

/// What a step gives.
#[derive(ExtensionType, Debug, Clone)]
pub struct Outputs<B: Backend> {
    pub y: FloatTensor<B>,
    pub conv: FloatTensor<B>,
    pub ssm: FloatTensor<B>,
}

/// What a step is besides its tensors.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    dt_limit: Option<[f64; 2]>,
    norm_eps: Option<f64>,
}

/// The operation, for inference alone.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"))]
pub trait MambaStepOps: Backend {
    fn mamba_step(#[extension_type] inputs: Inputs<Self>, options: Options) -> Outputs<Self>;
}

#[cfg(feature = "ndarray")]
impl MambaStepOps for burn::backend::NdArray {
    fn mamba_step(inputs: Inputs<Self>, options: Options) -> Outputs<Self> {
        run_on(&inputs, options)
    }
}

#[cfg(feature = "flex")]
impl MambaStepOps for burn::backend::Flex {
    fn mamba_step(inputs: Inputs<Self>, options: Options) -> Outputs<Self> {
        run_on(&inputs, options)
    }
}

fn run_on<B: Backend>(inputs: &Inputs<B>, options: Options) -> Outputs<B>
where
    FloatTensor<B>: CpuTensor,
{
    match inputs.x.dtype() {
        DType::F64 => run_in::<B, f64>(inputs, options),
        _ => run_in::<B, f32>(inputs, options),
    }
}

fn run_in<B: Backend, R: Real + Element>(inputs: &Inputs<B>, options: Options) -> Outputs<B>
where
    FloatTensor<B>: CpuTensor,
{
    let [rows, d_model] = inputs.x.shape().dims();
    let [d_inner, d_conv] = inputs.conv_weight.shape().dims();
    let [_, d_state] = inputs.a_log.shape().dims();
    let [dt_rank, _] = inputs.dt_weight.shape().dims();
    let [_, d_output] = inputs.out_weight.shape().dims();
    let problem = Problem::<R> {
        rows,
        d_model,
        d_inner,
        d_conv,
        d_state,
        dt_rank,
        d_output,
        x: inputs.x.elements(),
        in_weight: inputs.in_weight.elements(),
        in_bias: inputs.in_bias.elements(),
        conv_weight: inputs.conv_weight.elements(),
        conv_bias: inputs.conv_bias.elements(),
        x_weight: inputs.x_weight.elements(),
        dt_weight: inputs.dt_weight.elements(),
        dt_bias: inputs.dt_bias.elements(),
        a_log: inputs.a_log.elements(),
        d: inputs.d.elements(),
        out_weight: inputs.out_weight.elements(),
        out_bias: inputs.out_bias.elements(),
        options,
    };
    let mut conv = inputs.conv.elements().into_owned();
    let mut ssm = inputs.ssm.elements().into_owned();
    let y = problem.run(&mut conv, &mut ssm);
    Outputs {
        y: FloatTensor::<B>::from_vec(y, &[rows, d_output]),
        conv: FloatTensor::<B>::from_vec(conv, &inputs.conv.shape()),
        ssm: FloatTensor::<B>::from_vec(ssm, &inputs.ssm.shape()),
    }
}

/// A step with its inputs, all row-major.
struct Problem<'a, R: Real> {
    rows: usize,
    d_model: usize,
    d_inner: usize,
    d_conv: usize,
    d_state: usize,
    dt_rank: usize,
    d_output: usize,
    x: Slice<'a, R>,
    in_weight: Slice<'a, R>,
    in_bias: Option<Slice<'a, R>>,
    conv_weight: Slice<'a, R>,
    conv_bias: Option<Slice<'a, R>>,
    x_weight: Slice<'a, R>,
    dt_weight: Slice<'a, R>,
    dt_bias: Option<Slice<'a, R>>,
    a_log: Slice<'a, R>,
    d: Slice<'a, R>,
    out_weight: Slice<'a, R>,
    out_bias: Option<Slice<'a, R>>,
    options: Options,
}

impl<R: Real> Problem<'_, R> {
    /// The width of what a step selects: the step size in low rank, B and C.
    fn selected(&self) -> usize {
        self.dt_rank + 2 * self.d_state
    }

    /// Gives y, and the next states in the place of the last ones.
    fn run(&self, conv: &mut [R], ssm: &mut [R]) -> Vec<R> {
        let weights = self.in_weight.len() + self.out_weight.len();
        let count = match weights < WORTH_SHARING {
            true => 1,
            false => threads(),
        };
        let mut y = vec![R::ZERO; self.rows * self.d_output];
        let mut channels = [(); 4].map(|()| Buffer::zeroed(self.rows * self.d_inner));
        let mut selected = Buffer::zeroed(count * self.rows * self.selected());
        let mut outputs = Buffer::zeroed(count * self.rows * self.d_output);
        let [u, z, dt, gated] = channels.each_mut().map(Buffer::shared);
        let pass = Pass {
            problem: self,
            conv: Shared::new(conv.as_mut_ptr()),
            ssm: Shared::new(ssm.as_mut_ptr()),
            u,
            z,
            dt,
            gated,
            selected: selected.shared(),
            outputs: outputs.shared(),
            y: Shared::new(y.as_mut_ptr()),
        };
        let arch = Arch::new();
        Team::run(count, |member| {
            arch.dispatch(Thread {
                pass: &pass,
                member,
            });
        });
        y
    }
}

/// A step, as all threads see it.
struct Pass<'a, R: Real> {
    problem: &'a Problem<'a, R>,
    /// `[rows, d_inner, d_conv - 1]`
    conv: Shared<R>,
    /// `[rows, d_inner, d_state]`
    ssm: Shared<R>,
    /// The input of the scan, `[rows, d_inner]`, like the next three.
    u: Shared<R>,
    z: Shared<R>,
    dt: Shared<R>,
    /// What enters the projection out.
    gated: Shared<R>,
    /// Each thread's share of the sums, `[threads, rows, selected]`.
    selected: Shared<R>,
    /// The same, `[threads, rows, d_output]`.
    outputs: Shared<R>,
    /// `[rows, d_output]`
    y: Shared<R>,
}

/// One thread of it, which owns some channels.
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
        let lanes = R::lanes::<S>();
        let blocks = member.share(problem.d_inner.div_ceil(lanes));
        let own = blocks.start * lanes..problem.d_inner.min(blocks.end * lanes);
        let selected = problem.selected();
        // SAFETY: every channel is one thread's own until the threads have met; their shares of the sums
        // are apart, and read only after they have met. All addresses are inside their tensors and buffers.
        unsafe {
            for row in 0..problem.rows {
                self.enter(s, row, own.clone());
                let at = (member.index() * problem.rows + row) * selected;
                let u = pass.u.at(row * problem.d_inner);
                let weight = Weight::new(&problem.x_weight, selected);
                let sums = pass.selected.at(at);
                weight.multiply(s, u, own.clone(), 0..selected, None, sums);
            }
            member.wait();
            let mut selection = Buffer::zeroed(selected);
            for row in 0..problem.rows {
                let selection = selection.as_mut_slice();
                selection.fill(R::ZERO);
                for thread in 0..member.count() {
                    let at = (thread * problem.rows + row) * selected;
                    for (i, sum) in selection.iter_mut().enumerate() {
                        *sum += *pass.selected.at(at + i);
                    }
                }
                problem.normalise(selection);
                self.scan(s, row, own.clone(), selection);
                let at = (member.index() * problem.rows + row) * problem.d_output;
                let gated = pass.gated.at(row * problem.d_inner);
                let weight = Weight::new(&problem.out_weight, problem.d_output);
                let sums = pass.outputs.at(at);
                weight.multiply(s, gated, own.clone(), 0..problem.d_output, None, sums);
            }
            member.wait();
            for output in member.share(problem.rows * problem.d_output) {
                let bias = problem.out_bias.as_ref();
                let mut sum = bias.map_or(R::ZERO, |bias| bias[output % problem.d_output]);
                for thread in 0..member.count() {
                    let at = thread * problem.rows * problem.d_output + output;
                    sum += *pass.outputs.at(at);
                }
                pass.y.at(output).write(sum);
            }
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// The projection in and the convolution of a row's own channels.
    #[inline(always)]
    unsafe fn enter<S: Simd>(&self, s: S, row: usize, own: Range<usize>) {
        let pass = self.pass;
        let problem = pass.problem;
        let (d_inner, d_conv, lanes) = (problem.d_inner, problem.d_conv, R::lanes::<S>());
        let x = problem.x[row * problem.d_model..].as_ptr();
        let bias = problem.in_bias.as_deref();
        let weight = Weight::new(&problem.in_weight, 2 * d_inner);
        let (all, gates) = (0..problem.d_model, d_inner + own.start..d_inner + own.end);
        // SAFETY: as in `with_simd`.
        unsafe {
            let (u, z) = (pass.u.at(row * d_inner), pass.z.at(row * d_inner));
            weight.multiply(s, x, all.clone(), own.clone(), bias, u.add(own.start));
            weight.multiply(s, x, all, gates, bias, z.add(own.start));
            for channel in own.clone() {
                let before = pass.conv.at((row * d_inner + channel) * (d_conv - 1));
                let weights = &problem.conv_weight[channel * d_conv..][..d_conv];
                let bias = problem.conv_bias.as_ref();
                let mut sum = bias.map_or(R::ZERO, |bias| bias[channel]);
                for (i, &weight) in weights[..d_conv - 1].iter().enumerate() {
                    sum += weight * *before.add(i);
                }
                before.copy_from(before.add(1), d_conv - 2);
                before.add(d_conv - 2).write(*u.add(channel));
                sum += weights[d_conv - 1] * *u.add(channel);
                u.add(channel).write(sum);
            }
            for channel in own.clone().step_by(lanes) {
                let count = lanes.min(own.end - channel);
                let sum = R::load_first(s, u.add(channel), count);
                R::store_first(s, u.add(channel), count, R::silu(s, sum));
            }
        }
    }

    /// The scan of a row's own channels, and its gate.
    #[inline(always)]
    unsafe fn scan<S: Simd>(&self, s: S, row: usize, own: Range<usize>, selection: &[R]) {
        let pass = self.pass;
        let problem = pass.problem;
        let (d_inner, d_state, lanes) = (problem.d_inner, problem.d_state, R::lanes::<S>());
        let (low_rank, rest) = selection.split_at(problem.dt_rank);
        let (b, c) = rest.split_at(d_state);
        let zero = R::splat(s, R::ZERO);
        // SAFETY: as in `with_simd`.
        unsafe {
            let [u, z, dt, gated] =
                [pass.u, pass.z, pass.dt, pass.gated].map(|x| x.at(row * d_inner));
            let weight = Weight::new(&problem.dt_weight, d_inner);
            let bias = problem.dt_bias.as_deref();
            let ranks = 0..problem.dt_rank;
            let to = dt.add(own.start);
            weight.multiply(s, low_rank.as_ptr(), ranks, own.clone(), bias, to);
            for channel in own.clone().step_by(lanes) {
                let count = lanes.min(own.end - channel);
                let step = R::softplus(s, R::load_first(s, dt.add(channel), count));
                let step = match problem.options.dt_limit {
                    Some([low, high]) => {
                        let bound = |x| R::splat(s, R::from_f64(x));
                        R::min(s, bound(high), R::max(s, bound(low), step))
                    }
                    None => step,
                };
                R::store_first(s, dt.add(channel), count, step);
            }
            for channel in own.clone() {
                let (dt, u) = (*dt.add(channel), *u.add(channel));
                let (step, write) = (R::splat(s, dt), R::splat(s, dt * u));
                let states = pass.ssm.at((row * d_inner + channel) * d_state);
                let a_log = problem.a_log[channel * d_state..].as_ptr();
                let mut sum = zero;
                for first in (0..d_state).step_by(lanes) {
                    let count = lanes.min(d_state - first);
                    let load = |from: *const R| R::load_first(s, from.add(first), count);
                    let rate = R::exp(s, load(a_log));
                    let decay = R::exp(s, R::vsub(s, zero, R::vmul(s, step, rate)));
                    let written = R::vmul(s, write, load(b.as_ptr()));
                    let h = R::mul_add(s, decay, load(states), written);
                    R::store_first(s, states.add(first), count, h);
                    sum = R::mul_add(s, load(c.as_ptr()), h, sum);
                }
                let y = R::reduce_sum(s, sum) + problem.d[channel] * u;
                gated.add(channel).write(y);
            }
            for channel in own.clone().step_by(lanes) {
                let count = lanes.min(own.end - channel);
                let load = |from: *const R| R::load_first(s, from.add(channel), count);
                let y = R::vmul(s, load(gated), R::silu(s, load(z)));
                R::store_first(s, gated.add(channel), count, y);
            }
        }
    }
}

impl<R: Real> Problem<'_, R> {
    /// The norms of a step size in low rank, B and C.
    fn normalise(&self, selection: &mut [R]) {
        let Some(eps) = self.options.norm_eps else {
            return;
        };
        let (low_rank, rest) = selection.split_at_mut(self.dt_rank);
        let (b, c) = rest.split_at_mut(self.d_state);
        for part in [low_rank, b, c] {
            let squares: f64 = part.iter().map(|x| x.to_f64() * x.to_f64()).sum();
            let scale = R::from_f64(1.0 / (squares / part.len() as f64 + eps).sqrt());
            part.iter_mut().for_each(|x| *x *= scale);
        }
    }
}
