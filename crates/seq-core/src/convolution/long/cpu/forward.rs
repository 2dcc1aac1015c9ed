use super::Problem;
use super::channels::{load, load_kernel, store};
use super::plan::{Plan, Signals, Transformed};
use crate::cpu::{Arch, Member, Shared, Simd, Team, WithSimd, reserve};

/// The outputs `[batch, time, width]`.
pub(in super::super) fn forward<R: Transformed>(problem: &Problem<'_, R>) -> Vec<R> {
    let plan = &*Plan::of(problem.time);
    let mut y = reserve(problem.x.len());
    let shared = Shared::new(y.as_mut_ptr());
    let arch = Arch::new();
    Team::run(problem.threads(), |member| {
        arch.dispatch(Thread {
            problem,
            plan,
            member,
            y: shared,
        });
    });
    // SAFETY: the threads have written every step of every channel.
    unsafe { y.set_len(problem.x.len()) };
    y
}

/// One thread, which owns some channels of all rows.
struct Thread<'a, 'm, R> {
    problem: &'a Problem<'a, R>,
    plan: &'a Plan<R>,
    member: &'a Member<'m>,
    y: Shared<R>,
}

impl<R: Transformed> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Self {
            problem,
            plan,
            member,
            y,
        } = self;
        let Problem {
            batch, time, width, ..
        } = *problem;
        let signals = || Signals::zeroed(problem.group(), plan.size);
        let (mut x, mut kernels, mut scratch) = (signals(), signals(), plan.scratch());
        for channels in problem.groups(member) {
            for row in 0..batch {
                let at = problem.row(row);
                load(
                    plan,
                    &problem.x[at..][..time * width],
                    width,
                    channels.clone(),
                    &mut x,
                );
                for (i, channel) in channels.clone().enumerate() {
                    let kernel = kernels.of(i);
                    if row == 0 {
                        load_kernel(plan, problem.taps(channel), kernel);
                        plan.forward(kernel, &mut scratch);
                    }
                    let x = x.of(i);
                    plan.forward(x, &mut scratch);
                    for (x, &kernel) in x.iter_mut().zip(&*kernel) {
                        *x = *x * kernel;
                    }
                    plan.inverse(x, &mut scratch);
                }
                // SAFETY: the channels are this thread's own.
                unsafe { store(plan, [time, width], channels.clone(), &mut x, (y, at)) };
            }
        }
    }
}
