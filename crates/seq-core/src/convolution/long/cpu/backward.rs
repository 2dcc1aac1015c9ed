use super::Problem;
use super::channels::{load, load_kernel, store, store_kernel};
use super::plan::{Plan, Signals, Transformed};
use crate::cpu::{Arch, Member, Shared, Simd, Team, WithSimd, reserve};

/// The gradients of the inputs, those that were asked for.
pub(in super::super) struct Gradients<R> {
    pub x: Option<Vec<R>>,
    /// Of the taps of earlier steps, and of later ones.
    pub kernels: Option<[Vec<R>; 2]>,
}

/// The gradients, given that of the outputs `[batch, time, width]`: correlations of it with the kernel
/// and with the input, whose spectra are made again, as kept ones would be several times the input.
pub(in super::super) fn backward<R: Transformed>(
    problem: &Problem<'_, R>,
    y: &[R],
    [x_wanted, kernels_wanted]: [bool; 2],
) -> Gradients<R> {
    let plan = &*Plan::of(problem.time);
    let mut x = reserve(if x_wanted { y.len() } else { 0 });
    let length = |kernel: &[R]| if kernels_wanted { kernel.len() } else { 0 };
    let ahead = problem.ahead.unwrap_or_default();
    let mut kernels = [problem.kernel, ahead].map(|kernel| reserve(length(kernel)));
    let pass = Pass {
        problem,
        plan,
        y,
        x: x_wanted.then(|| Shared::new(x.as_mut_ptr())),
        kernels: kernels_wanted.then(|| kernels.each_mut().map(|k| Shared::new(k.as_mut_ptr()))),
    };
    let arch = Arch::new();
    Team::run(problem.threads(), |member| {
        arch.dispatch(Thread {
            pass: &pass,
            member,
        });
    });
    // SAFETY: the threads have written every channel of what is wanted.
    unsafe {
        x.set_len(if x_wanted { y.len() } else { 0 });
        for (gradient, kernel) in kernels.iter_mut().zip([problem.kernel, ahead]) {
            gradient.set_len(length(kernel));
        }
    }
    Gradients {
        x: x_wanted.then_some(x),
        kernels: kernels_wanted.then_some(kernels),
    }
}

/// A backward run, as all threads see it.
struct Pass<'a, R> {
    problem: &'a Problem<'a, R>,
    plan: &'a Plan<R>,
    /// The gradient of the outputs.
    y: &'a [R],
    x: Option<Shared<R>>,
    kernels: Option<[Shared<R>; 2]>,
}

/// One thread of it, which owns some channels of all rows.
struct Thread<'a, 'm, R> {
    pass: &'a Pass<'a, R>,
    member: &'a Member<'m>,
}

impl<R: Transformed> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Pass {
            problem, plan, y, ..
        } = *self.pass;
        let Problem {
            batch, time, width, ..
        } = *problem;
        let signals =
            |wanted: bool| Signals::zeroed(problem.group() * usize::from(wanted), plan.size);
        let (x_wanted, kernels_wanted) = (self.pass.x.is_some(), self.pass.kernels.is_some());
        let (mut dy, mut kernels) = (signals(true), signals(x_wanted));
        let (mut x, mut sums) = (signals(kernels_wanted), signals(kernels_wanted));
        let mut scratch = plan.scratch();
        for channels in problem.groups(self.member) {
            for row in 0..batch {
                let at = problem.row(row);
                let part = |values: &'_ [R], signals: &mut Signals<R>| {
                    let values = &values[at..][..time * width];
                    load(plan, values, width, channels.clone(), signals);
                };
                part(y, &mut dy);
                if kernels_wanted {
                    part(problem.x, &mut x);
                }
                for (i, channel) in channels.clone().enumerate() {
                    let dy = dy.of(i);
                    plan.forward(dy, &mut scratch);
                    if kernels_wanted {
                        let (x, sum) = (x.of(i), sums.of(i));
                        plan.forward(x, &mut scratch);
                        for ((sum, x), dy) in sum.iter_mut().zip(x).zip(&*dy) {
                            let product = dy * x.conj();
                            *sum = if row == 0 { product } else { *sum + product };
                        }
                    }
                    if x_wanted {
                        let kernel = kernels.of(i);
                        if row == 0 {
                            load_kernel(plan, problem.taps(channel), kernel);
                            plan.forward(kernel, &mut scratch);
                        }
                        for (dy, kernel) in dy.iter_mut().zip(&*kernel) {
                            *dy = *dy * kernel.conj();
                        }
                        plan.inverse(dy, &mut scratch);
                    }
                }
                if let Some(x) = self.pass.x {
                    // SAFETY: the channels are this thread's own.
                    unsafe { store(plan, [time, width], channels.clone(), &mut dy, (x, at)) };
                }
            }
            let Some(kernels) = self.pass.kernels else {
                continue;
            };
            for (i, channel) in channels.enumerate() {
                let sum = sums.of(i);
                plan.inverse(sum, &mut scratch);
                let lengths = problem.taps(channel).map(<[R]>::len);
                // SAFETY: the taps of a channel of this thread's own.
                let taps = |which: usize| unsafe {
                    let (kernel, length): (Shared<R>, _) = (kernels[which], lengths[which]);
                    std::slice::from_raw_parts_mut(kernel.at(channel * length), length)
                };
                store_kernel(plan, sum, [taps(0), taps(1)]);
            }
        }
    }
}
