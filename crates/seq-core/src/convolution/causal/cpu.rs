//! The convolution on slices.

use std::ops::Range;

use crate::cpu::{Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, reserve, threads};

/// Below this many taps a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 14;

/// A convolution with its inputs, all row-major.
pub(super) struct Problem<'a, R> {
    pub batch: usize,
    pub time: usize,
    pub width: usize,
    pub d_conv: usize,
    /// `[batch, time, width]`
    pub x: &'a [R],
    /// `[width, d_conv]`
    pub weight: &'a [R],
    /// `[width]`
    pub bias: Option<&'a [R]>,
    pub silu: bool,
    /// `[batch, width, d_conv - 1]`
    pub state: Option<&'a [R]>,
    pub lengths: Option<&'a [usize]>,
    pub resets: Option<&'a [Vec<bool>]>,
}

/// What the loss's gradient is with respect to the outputs; none where it does not depend on them.
pub(super) struct Incoming<'a, R> {
    pub y: Option<&'a [R]>,
    pub state: Option<&'a [R]>,
}

/// The gradients, shaped like the inputs.
pub(super) struct Gradients<R> {
    pub x: Vec<R>,
    pub weight: Vec<R>,
    pub bias: Vec<R>,
    pub state: Vec<R>,
}

/// Where the `width` values of an input begin.
enum Place {
    Input(usize),
    /// In states as `[batch, d_conv - 1, width]`.
    State(usize),
}

impl<R: Real> Problem<'_, R> {
    fn kept(&self) -> usize {
        self.d_conv - 1
    }

    fn length(&self, row: usize) -> usize {
        self.lengths.map_or(self.time, |lengths| lengths[row])
    }

    fn threads(&self) -> usize {
        match self.batch * self.time * self.width * self.d_conv < WORTH_SHARING {
            true => 1,
            false => threads(),
        }
    }

    /// How far back the convolution sees at `step`: over all taps, or to the last reset.
    fn reach(&self, row: usize, step: usize) -> usize {
        let resets = |&back: &usize| self.resets.is_some_and(|resets| resets[row][step - back]);
        let seen = 0..self.d_conv.min(step + 1);
        seen.into_iter().find(resets).unwrap_or(self.kept())
    }

    /// The input `back` steps before `step`.
    fn place(&self, row: usize, step: usize, back: usize) -> Place {
        match back <= step {
            true => Place::Input((row * self.time + step - back) * self.width),
            false => Place::State((row * self.kept() + self.kept() + step - back) * self.width),
        }
    }

    /// For each part of the last state, oldest first, which input it is; none is a zero.
    fn last(&self, row: usize) -> impl Iterator<Item = Option<Place>> {
        let (length, kept) = (self.length(row), self.kept());
        let reach = match length {
            0 => kept,
            length => self.reach(row, length - 1),
        };
        (0..kept).rev().map(move |back| match length {
            0 => Some(Place::State((row * kept + kept - 1 - back) * self.width)),
            _ => (back <= reach).then(|| self.place(row, length - 1, back)),
        })
    }

    /// The state as `[batch, d_conv - 1, width]`.
    fn state_rows(&self) -> Buffer<R> {
        let mut rows = Buffer::zeroed(self.batch * self.kept() * self.width);
        if let Some(state) = self.state {
            for (i, row) in rows.as_mut_slice().chunks_mut(self.width).enumerate() {
                let (sequence, part) = (i / self.kept(), i % self.kept());
                for (channel, value) in row.iter_mut().enumerate() {
                    *value = state[(sequence * self.width + channel) * self.kept() + part];
                }
            }
        }
        rows
    }

    /// The weight as `[d_conv, width]`, the newest step first.
    fn weight_rows(&self) -> Buffer<R> {
        let mut rows = Buffer::zeroed(self.d_conv * self.width);
        for (channel, taps) in self.weight.chunks(self.d_conv).enumerate() {
            for (back, &tap) in taps.iter().rev().enumerate() {
                rows.as_mut_slice()[back * self.width + channel] = tap;
            }
        }
        rows
    }
}

/// The outputs `[batch, time, width]` and the last state `[batch, width, d_conv - 1]`.
pub(super) fn forward<R: Real>(problem: &Problem<'_, R>) -> (Vec<R>, Vec<R>) {
    let (width, kept) = (problem.width, problem.kept());
    let states = problem.state_rows();
    let mut y = reserve(problem.x.len());
    let pass = Forward {
        problem,
        inputs: Inputs {
            weights: problem.weight_rows(),
            states: &states,
        },
        y: Shared::new(y.as_mut_ptr()),
    };
    let arch = Arch::new();
    Team::run(problem.threads(), |member| {
        arch.dispatch(ForwardThread {
            pass: &pass,
            member,
        });
    });
    // SAFETY: the threads have written every step.
    unsafe { y.set_len(problem.x.len()) };

    let mut last = vec![R::ZERO; problem.batch * width * kept];
    for row in 0..problem.batch {
        for (part, place) in problem.last(row).enumerate() {
            let from = match place {
                Some(Place::Input(at)) => &problem.x[at..at + width],
                Some(Place::State(at)) => &states.as_slice()[at..at + width],
                None => continue,
            };
            for (channel, &value) in from.iter().enumerate() {
                last[(row * width + channel) * kept + part] = value;
            }
        }
    }
    (y, last)
}

/// The inputs in the order that the threads read.
struct Inputs<'a, R> {
    weights: Buffer<R>,
    states: &'a Buffer<R>,
}

/// A tap at one step: what is multiplied with what.
struct Tap<R> {
    weight: *const R,
    x: *const R,
}

impl<R: Real> Inputs<'_, R> {
    /// Fills `taps` with those of a step.
    fn taps(&self, problem: &Problem<'_, R>, row: usize, step: usize, taps: &mut Vec<Tap<R>>) {
        taps.clear();
        taps.extend((0..=problem.reach(row, step)).map(|back| Tap {
            weight: self.weights.as_slice()[back * problem.width..].as_ptr(),
            x: match problem.place(row, step, back) {
                Place::Input(at) => problem.x[at..].as_ptr(),
                Place::State(at) => self.states.as_slice()[at..].as_ptr(),
            },
        }));
    }
}

/// The sum of the taps for `count` channels from `channel` on.
///
/// # Safety
///
/// The channels must be inside the width.
#[inline(always)]
unsafe fn sum<R: Real, S: Simd>(
    s: S,
    bias: Option<&[R]>,
    taps: &[Tap<R>],
    channel: usize,
    count: usize,
) -> R::V<S> {
    // SAFETY: a tap has a value for each channel.
    unsafe {
        let mut sum = match bias {
            Some(bias) => R::load_first(s, bias.as_ptr().add(channel), count),
            None => R::splat(s, R::ZERO),
        };
        for tap in taps {
            let weight = R::load_first(s, tap.weight.add(channel), count);
            let x = R::load_first(s, tap.x.add(channel), count);
            sum = R::mul_add(s, weight, x, sum);
        }
        sum
    }
}

/// A forward pass, as all threads see it.
struct Forward<'a, R> {
    problem: &'a Problem<'a, R>,
    inputs: Inputs<'a, R>,
    y: Shared<R>,
}

/// One thread of it, which owns some steps.
struct ForwardThread<'a, 'm, R> {
    pass: &'a Forward<'a, R>,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for ForwardThread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Forward {
            problem, inputs, y, ..
        } = self.pass;
        let (width, lanes) = (problem.width, R::lanes::<S>());
        let mut taps = Vec::with_capacity(problem.d_conv);
        for position in self.member.share(problem.batch * problem.time) {
            let (row, step) = (position / problem.time, position % problem.time);
            let padding = step >= problem.length(row);
            if !padding {
                inputs.taps(problem, row, step, &mut taps);
            }
            for channel in (0..width).step_by(lanes) {
                let count = lanes.min(width - channel);
                // SAFETY: channels of a step of this thread's own.
                unsafe {
                    let sum = match padding {
                        true => R::splat(s, R::ZERO),
                        false => sum(s, problem.bias, &taps, channel, count),
                    };
                    let out = match problem.silu {
                        true => R::silu(s, sum),
                        false => sum,
                    };
                    R::store_first(s, y.at(position * width + channel), count, out);
                }
            }
        }
    }
}

/// The gradients of all inputs.
pub(super) fn backward<R: Real>(
    problem: &Problem<'_, R>,
    incoming: &Incoming<'_, R>,
) -> Gradients<R> {
    let (width, kept, d_conv) = (problem.width, problem.kept(), problem.d_conv);
    let states = problem.state_rows();
    let mut x = vec![R::ZERO; problem.x.len()];
    let mut bias = vec![R::ZERO; width];
    let mut weights = Buffer::zeroed(d_conv * width);
    let mut state_rows = Buffer::zeroed(problem.batch * kept * width);
    let pass = Backward {
        problem,
        inputs: Inputs {
            weights: problem.weight_rows(),
            states: &states,
        },
        incoming,
        x: Shared::new(x.as_mut_ptr()),
        bias: Shared::new(bias.as_mut_ptr()),
        weights: weights.shared(),
        states: state_rows.shared(),
    };
    let arch = Arch::new();
    Team::run(problem.threads(), |member| {
        arch.dispatch(BackwardThread {
            pass: &pass,
            member,
        });
    });
    let (weights, state_rows) = (weights.as_slice(), state_rows.as_slice());
    let mut weight = vec![R::ZERO; width * d_conv];
    for (i, value) in weight.iter_mut().enumerate() {
        let (channel, back) = (i / d_conv, kept - i % d_conv);
        *value = weights[back * width + channel];
    }
    let mut state = vec![R::ZERO; problem.batch * width * kept];
    for (i, value) in state.iter_mut().enumerate() {
        let (row, channel, part) = (i / (width * kept), i / kept % width, i % kept);
        *value = state_rows[(row * kept + part) * width + channel];
    }
    Gradients {
        x,
        weight,
        bias,
        state,
    }
}

/// A backward pass, as all threads see it.
struct Backward<'a, R> {
    problem: &'a Problem<'a, R>,
    inputs: Inputs<'a, R>,
    incoming: &'a Incoming<'a, R>,
    /// `[batch, time, width]`
    x: Shared<R>,
    /// `[width]`
    bias: Shared<R>,
    /// `[d_conv, width]`, the newest step first.
    weights: Shared<R>,
    /// `[batch, d_conv - 1, width]`
    states: Shared<R>,
}

/// One thread of it, which owns some channels.
struct BackwardThread<'a, 'm, R> {
    pass: &'a Backward<'a, R>,
    member: &'a Member<'m>,
}

impl<R: Real> WithSimd for BackwardThread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { pass, member } = self;
        let (problem, lanes) = (pass.problem, R::lanes::<S>());
        let blocks = member.share(problem.width.div_ceil(lanes));
        let own = blocks.start * lanes..problem.width.min(blocks.end * lanes);
        let mut taps = Vec::with_capacity(problem.d_conv);
        let mut targets = Vec::with_capacity(problem.d_conv);
        for row in 0..problem.batch {
            // SAFETY: the channels are this thread's own.
            unsafe { pass.last_state(row, own.clone()) };
            let Some(incoming) = pass.incoming.y else {
                continue;
            };
            for step in 0..problem.length(row) {
                pass.inputs.taps(problem, row, step, &mut taps);
                targets.clear();
                // SAFETY: as above, and every row is inside its gradient.
                unsafe {
                    targets.extend((0..taps.len()).map(|back| pass.target(row, step, back)));
                    let dy = incoming.as_ptr();
                    let dy = dy.add((row * problem.time + step) * problem.width);
                    pass.step(s, own.clone(), &taps, &targets, dy);
                }
            }
        }
    }
}

impl<R: Real> Backward<'_, R> {
    /// Where the gradient of the input `back` steps before `step` is added up.
    unsafe fn target(&self, row: usize, step: usize, back: usize) -> *mut R {
        // SAFETY: inside the gradient of the input or of the states.
        unsafe {
            match self.problem.place(row, step, back) {
                Place::Input(at) => self.x.at(at),
                Place::State(at) => self.states.at(at),
            }
        }
    }

    /// Adds the gradient of a row's last state.
    unsafe fn last_state(&self, row: usize, own: Range<usize>) {
        let Some(incoming) = self.incoming.state else {
            return;
        };
        let (width, kept) = (self.problem.width, self.problem.kept());
        for (part, place) in self.problem.last(row).enumerate() {
            for channel in own.clone() {
                // SAFETY: inside the gradients, and the channel is the caller's own.
                let target = unsafe {
                    match place {
                        Some(Place::Input(at)) => self.x.at(at + channel),
                        Some(Place::State(at)) => self.states.at(at + channel),
                        None => continue,
                    }
                };
                // SAFETY: as above.
                unsafe { *target += incoming[(row * width + channel) * kept + part] };
            }
        }
    }

    /// Adds what one step gives to all gradients of some channels.
    #[inline(always)]
    unsafe fn step<S: Simd>(
        &self,
        s: S,
        own: Range<usize>,
        taps: &[Tap<R>],
        targets: &[*mut R],
        dy: *const R,
    ) {
        let (problem, lanes) = (self.problem, R::lanes::<S>());
        let one = R::splat(s, R::ONE);
        for channel in own.clone().step_by(lanes) {
            let count = lanes.min(own.end - channel);
            // SAFETY: channels of the caller's own, inside every row.
            unsafe {
                let load = |from: *const R| R::load_first(s, from.add(channel), count);
                let mut gradient = load(dy);
                if problem.silu {
                    let sum = sum(s, problem.bias, taps, channel, count);
                    let gate = R::sigmoid(s, sum);
                    // silu' = gate (1 + sum (1 - gate))
                    let slope = R::mul_add(s, sum, R::vsub(s, one, gate), one);
                    gradient = R::vmul(s, gradient, R::vmul(s, gate, slope));
                }
                add(s, self.bias.at(channel), count, gradient, one);
                for (back, (tap, &target)) in taps.iter().zip(targets).enumerate() {
                    let weights = self.weights.at(back * problem.width + channel);
                    add(s, weights, count, gradient, load(tap.x));
                    add(s, target.add(channel), count, gradient, load(tap.weight));
                }
            }
        }
    }
}

/// `to += a b` for `count` lanes.
///
/// # Safety
///
/// They must be the caller's own.
#[inline(always)]
unsafe fn add<R: Real, S: Simd>(s: S, to: *mut R, count: usize, a: R::V<S>, b: R::V<S>) {
    // SAFETY: by the caller's promise.
    unsafe {
        let value = R::mul_add(s, a, b, R::load_first(s, to, count));
        R::store_first(s, to, count, value);
    }
}
