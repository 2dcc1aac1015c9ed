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

use super::layer::{Mamba2, Mamba2State};
use crate::weight::{ROWS, WORTH_SHARING, Weight};

/// Whether the kernel is for a step.
pub(super) fn has_kernel(layer: &Mamba2, x: &Tensor<2>, state: &Mamba2State) -> bool {
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
pub(super) fn run(layer: &Mamba2, x: Tensor<2>, state: Mamba2State) -> (Tensor<2>, Mamba2State) {
    let optional = |x: Option<&Param<Tensor<1>>>| x.map(|x| x.val().into_dispatch()).into();
    let inputs = Inputs {
        x: x.into_dispatch(),
        conv: state.conv.into_dispatch(),
        ssm: state.ssm.into_dispatch(),
        in_weight: layer.in_proj.weight.val().into_dispatch(),
        in_bias: optional(layer.in_proj.bias.as_ref()),
        conv_weight: layer.conv_weight.val().into_dispatch(),
        conv_bias: optional(layer.conv_bias.as_ref()),
        dt_bias: layer.dt_bias.val().into_dispatch(),
        a_log: layer.a_log.val().into_dispatch(),
        d: layer.d.val().into_dispatch(),
        norm_weight: optional(layer.norm_weight.as_ref()),
        out_weight: layer.out_proj.weight.val().into_dispatch(),
        out_bias: optional(layer.out_proj.bias.as_ref()),
    };
    let options = Options {
        n_groups: layer.n_groups,
        norm_groups: layer.norm_groups,
        norm_before_gate: layer.norm_before_gate,
        norm_eps: layer.norm_eps,
        dt_limit: layer.dt_limit,
    };
    let Outputs { y, conv, ssm } = Dispatch::mamba2_step(inputs, options);
    let state = Mamba2State {
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
    pub dt_bias: FloatTensor<B>,
    pub a_log: FloatTensor<B>,
    pub d: FloatTensor<B>,
    #[extension_type]
    pub norm_weight: Maybe<B>,
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
    n_groups: usize,
    norm_groups: usize,
    norm_before_gate: bool,
    norm_eps: f64,
    dt_limit: Option<[f64; 2]>,
}

/// The operation, for inference alone.
#[backend_extension(NdArray: cfg(feature = "ndarray"), Flex: cfg(feature = "flex"))]
pub trait Mamba2StepOps: Backend {
    fn mamba2_step(#[extension_type] inputs: Inputs<Self>, options: Options) -> Outputs<Self>;
}

#[cfg(feature = "ndarray")]
impl Mamba2StepOps for burn::backend::NdArray {
    fn mamba2_step(inputs: Inputs<Self>, options: Options) -> Outputs<Self> {
        run_on(&inputs, options)
    }
}

#[cfg(feature = "flex")]
impl Mamba2StepOps for burn::backend::Flex {
    fn mamba2_step(inputs: Inputs<Self>, options: Options) -> Outputs<Self> {
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
    let [_, heads, head_dim, d_state] = inputs.ssm.shape().dims();
    let [width, d_conv] = inputs.conv_weight.shape().dims();
    let [_, d_width] = inputs.d.shape().dims();
    let [_, d_output] = inputs.out_weight.shape().dims();
    let problem = Problem::<R> {
        rows,
        d_model,
        heads,
        head_dim,
        d_state,
        width,
        d_conv,
        d_output,
        x: inputs.x.elements(),
        in_weight: inputs.in_weight.elements(),
        in_bias: inputs.in_bias.elements(),
        conv_weight: inputs.conv_weight.elements(),
        conv_bias: inputs.conv_bias.elements(),
        dt_bias: inputs.dt_bias.elements(),
        a_log: inputs.a_log.elements(),
        d: inputs.d.elements(),
        d_width,
        norm_weight: inputs.norm_weight.elements(),
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
    heads: usize,
    head_dim: usize,
    d_state: usize,
    /// Of the convolution: the scan's input, B and C.
    width: usize,
    d_conv: usize,
    d_output: usize,
    x: Slice<'a, R>,
    in_weight: Slice<'a, R>,
    in_bias: Option<Slice<'a, R>>,
    conv_weight: Slice<'a, R>,
    conv_bias: Option<Slice<'a, R>>,
    dt_bias: Slice<'a, R>,
    a_log: Slice<'a, R>,
    d: Slice<'a, R>,
    d_width: usize,
    norm_weight: Option<Slice<'a, R>>,
    out_weight: Slice<'a, R>,
    out_bias: Option<Slice<'a, R>>,
    options: Options,
}

impl<R: Real> Problem<'_, R> {
    fn d_inner(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Gives y, and the next states in the place of the last ones.
    fn run(&self, conv: &mut [R], ssm: &mut [R]) -> Vec<R> {
        let weights = self.in_weight.len() + self.out_weight.len();
        let count = match weights < WORTH_SHARING {
            true => 1,
            false => threads(),
        };
        let mut y = vec![R::ZERO; self.rows * self.d_output];
        let mut mixed = Buffer::zeroed(self.rows * self.width);
        let mut channels = [(); 2].map(|()| Buffer::zeroed(self.rows * self.d_inner()));
        let [gate, scanned] = channels.each_mut().map(Buffer::shared);
        let pass = Pass {
            problem: self,
            conv: Shared::new(conv.as_mut_ptr()),
            ssm: Shared::new(ssm.as_mut_ptr()),
            mixed: mixed.shared(),
            gate,
            scanned,
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
    /// `[rows, width, d_conv - 1]`
    conv: Shared<R>,
    /// `[rows, heads, head_dim, d_state]`
    ssm: Shared<R>,
    /// The scan's input, B and C, `[rows, width]`.
    mixed: Shared<R>,
    /// silu(z), `[rows, d_inner]` like the next one.
    gate: Shared<R>,
    /// What the scan gives.
    scanned: Shared<R>,
    /// `[rows, d_output]`
    y: Shared<R>,
}

/// One thread of it, which owns some heads, some columns of B and C, and some outputs.
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
        let (d_inner, head_dim) = (problem.d_inner(), problem.head_dim);
        let heads = member.share(problem.heads);
        let channels = heads.start * head_dim..heads.end * head_dim;
        let projected = member.share(problem.width - d_inner);
        let projected = d_inner + projected.start..d_inner + projected.end;
        let outputs = member.share(problem.d_output);
        let mut dt = Buffer::zeroed(problem.rows * heads.len());
        let mut normed = Buffer::zeroed(d_inner);
        // SAFETY: every head, column and output is one thread's own, and the others read what it has
        // written only after all have met. All addresses are inside their tensors and buffers.
        unsafe {
            for row in 0..problem.rows {
                let gate = pass.gate.at(row * d_inner + channels.start);
                self.project(s, row, channels.clone(), gate);
                for channel in (0..channels.len()).step_by(R::lanes::<S>()) {
                    let count = R::lanes::<S>().min(channels.len() - channel);
                    let z = R::load_first(s, gate.add(channel), count);
                    R::store_first(s, gate.add(channel), count, R::silu(s, z));
                }
                let dt = dt.as_mut_slice()[row * heads.len()..].as_mut_ptr();
                let first = d_inner + problem.width;
                self.project(s, row, first + heads.start..first + heads.end, dt);
                self.convolve(s, row, channels.clone());
                self.convolve(s, row, projected.clone());
            }
            member.wait();
            for row in 0..problem.rows {
                let dt = &dt.as_slice()[row * heads.len()..][..heads.len()];
                for (head, &dt) in heads.clone().zip(dt) {
                    self.scan(s, row, head, dt);
                }
            }
            member.wait();
            for row in 0..problem.rows {
                let scanned = pass.scanned.at(row * d_inner);
                let gate = pass.gate.at(row * d_inner);
                let normed = normed.as_mut_slice();
                problem.normalise(
                    std::slice::from_raw_parts(scanned, d_inner),
                    std::slice::from_raw_parts(gate, d_inner),
                    normed,
                );
                let weight = Weight::new(&problem.out_weight, problem.d_output);
                let to = pass.y.at(row * problem.d_output + outputs.start);
                let bias = problem.out_bias.as_deref();
                weight.multiply(s, normed.as_ptr(), 0..d_inner, outputs.clone(), bias, to);
            }
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// Some columns of the projection in.
    #[inline(always)]
    unsafe fn project<S: Simd>(&self, s: S, row: usize, columns: Range<usize>, to: *mut R) {
        let problem = self.pass.problem;
        let weight = Weight::new(
            &problem.in_weight,
            problem.in_weight.len() / problem.d_model,
        );
        let x = problem.x[row * problem.d_model..].as_ptr();
        let bias = problem.in_bias.as_deref();
        // SAFETY: as in `with_simd`.
        unsafe { weight.multiply(s, x, 0..problem.d_model, columns, bias, to) };
    }

    /// Some channels of the convolution, with the projection before it.
    #[inline(always)]
    unsafe fn convolve<S: Simd>(&self, s: S, row: usize, own: Range<usize>) {
        let pass = self.pass;
        let problem = pass.problem;
        let (d_inner, d_conv, lanes) = (problem.d_inner(), problem.d_conv, R::lanes::<S>());
        // SAFETY: as in `with_simd`.
        unsafe {
            let mixed = pass.mixed.at(row * problem.width + own.start);
            self.project(s, row, d_inner + own.start..d_inner + own.end, mixed);
            for (i, channel) in own.clone().enumerate() {
                let before = pass.conv.at((row * problem.width + channel) * (d_conv - 1));
                let weights = &problem.conv_weight[channel * d_conv..][..d_conv];
                let bias = problem.conv_bias.as_ref();
                let mut sum = bias.map_or(R::ZERO, |bias| bias[channel]);
                for (i, &weight) in weights[..d_conv - 1].iter().enumerate() {
                    sum += weight * *before.add(i);
                }
                before.copy_from(before.add(1), d_conv - 2);
                before.add(d_conv - 2).write(*mixed.add(i));
                sum += weights[d_conv - 1] * *mixed.add(i);
                mixed.add(i).write(sum);
            }
            for i in (0..own.len()).step_by(lanes) {
                let count = lanes.min(own.len() - i);
                let sum = R::load_first(s, mixed.add(i), count);
                R::store_first(s, mixed.add(i), count, R::silu(s, sum));
            }
        }
    }

    /// The scan of a row's head.
    #[inline(always)]
    unsafe fn scan<S: Simd>(&self, s: S, row: usize, head: usize, dt: R) {
        let pass = self.pass;
        let problem = pass.problem;
        let (d_inner, head_dim, d_state) = (problem.d_inner(), problem.head_dim, problem.d_state);
        let lanes = R::lanes::<S>();
        let groups = problem.options.n_groups;
        let group = head / (problem.heads / groups);
        let mut dt = R::softplus(s, R::splat(s, dt + problem.dt_bias[head]));
        if let Some([low, high]) = problem.options.dt_limit {
            let bound = |x| R::splat(s, R::from_f64(x));
            dt = R::min(s, bound(high), R::max(s, bound(low), dt));
        }
        let rate = R::exp(s, R::splat(s, problem.a_log[head]));
        let decay = R::exp(s, R::vneg(s, R::vmul(s, dt, rate)));
        // SAFETY: as in `with_simd`.
        unsafe {
            let mixed = pass.mixed.at(row * problem.width);
            let b = mixed.add(d_inner + group * d_state);
            let c = b.add(groups * d_state);
            for channel in 0..head_dim {
                let at = head * head_dim + channel;
                let x = *mixed.add(at);
                let write = R::vmul(s, dt, R::splat(s, x));
                let states = pass.ssm.at((row * d_inner + at) * d_state);
                let mut sum = R::splat(s, R::ZERO);
                for first in (0..d_state).step_by(lanes) {
                    let count = lanes.min(d_state - first);
                    let load = |from: *const R| R::load_first(s, from.add(first), count);
                    let written = R::vmul(s, write, load(b));
                    let h = R::mul_add(s, decay, load(states), written);
                    R::store_first(s, states.add(first), count, h);
                    sum = R::mul_add(s, load(c), h, sum);
                }
                let d = problem.d[head * problem.d_width + channel % problem.d_width];
                let y = R::reduce_sum(s, sum) + d * x;
                pass.scanned.at(row * d_inner + at).write(y);
            }
        }
    }
}

impl<R: Real> Problem<'_, R> {
    /// The norm and the gate of a row.
    #[inline(always)]
    fn normalise(&self, scanned: &[R], gate: &[R], out: &mut [R]) {
        let gate_first = self.norm_weight.is_none() || !self.options.norm_before_gate;
        let all = out.iter_mut().zip(scanned.iter().zip(gate));
        all.for_each(|(out, (&y, &gate))| *out = if gate_first { y * gate } else { y });
        let Some(weight) = &self.norm_weight else {
            return;
        };
        let width = out.len() / self.options.norm_groups;
        let groups = out.chunks_mut(width).zip(weight.chunks(width));
        for ((out, weight), gate) in groups.zip(gate.chunks(width)) {
            let squares: f64 = out.iter().map(|y| y.to_f64() * y.to_f64()).sum();
            let scale = squares / width as f64 + self.options.norm_eps;
            let scale = R::from_f64(1.0 / scale.sqrt());
            for ((out, &weight), &gate) in out.iter_mut().zip(weight).zip(gate) {
                *out *= scale * weight;
                if !gate_first {
                    *out *= gate;
                }
            }
        }
    }
}
