use std::ops::Range;

use seq_core::cpu::{Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, prefetch, reserve};

use super::CHUNK;
use super::forward::Saved;
use super::plan::{Blocks, Found, MakeBlocks, Problem, Projected, TILE, for_tiles, with_varying};

/// The gradients that come in: of the outputs `[batch, time, d_inner]` and of the last state
/// `[batch, d_inner, d_state]`.
pub(crate) struct Incoming<'a, R> {
    pub y: Option<&'a [R]>,
    pub state: Option<&'a [R]>,
}

/// The gradients that go out, each of the shape of what it belongs to.
pub(crate) struct Gradients<R> {
    pub u: Vec<R>,
    pub delta: Vec<R>,
    pub a: Vec<R>,
    pub b: Vec<R>,
    pub c: Vec<R>,
    pub d: Vec<R>,
    pub z: Vec<R>,
    pub delta_bias: Vec<R>,
    pub state: Vec<R>,
}

/// The gradients of a scan: chunk by chunk from the last one, the states of a chunk made again.
pub(crate) fn backward<R: Real>(
    problem: &Problem<'_, R>,
    saved: &Saved<R>,
    incoming: &Incoming<'_, R>,
) -> Gradients<R> {
    let Problem {
        batch,
        time,
        d_inner,
        d_state,
        ..
    } = *problem;
    let arch = Arch::new();
    let blocks = &arch.dispatch(MakeBlocks(problem));
    let count = problem.threads();
    let elements = batch * time * d_inner;
    let width = blocks.channels.len() * blocks.lanes;
    let projected = |projected: Projected<'_, R>| match projected.groups {
        Some(groups) => batch * time * groups * d_state,
        None => width * d_state,
    };
    let sizes = [
        width * d_state,
        projected(problem.b),
        projected(problem.c),
        width,
        width,
    ];
    // The threads may share channels, and do share groups: each has sums of its own.
    let mut sums = sizes.map(|size| Buffer::zeroed(count * size));
    let mut u = reserve(elements);
    let mut delta = reserve(elements);
    let mut z = reserve(if problem.z.is_some() { elements } else { 0 });
    let mut state = vec![R::ZERO; batch * d_inner * d_state];
    let pass = Pass {
        problem,
        blocks,
        incoming,
        chunks: time.div_ceil(CHUNK),
        saved,
        u: Shared::new(u.as_mut_ptr()),
        delta: Shared::new(delta.as_mut_ptr()),
        z: Shared::new(z.as_mut_ptr()),
        state: Shared::new(state.as_mut_ptr()),
        sums: sums.each_mut().map(Buffer::shared),
        sizes,
        d: &blocks.pack_vector(problem.d),
        delta_bias: &blocks.pack_vector(problem.delta_bias),
    };
    Team::run(count, |member| {
        arch.dispatch(Thread {
            pass: &pass,
            member,
        });
    });

    // SAFETY: the threads have written every step of every channel.
    unsafe {
        u.set_len(elements);
        delta.set_len(elements);
        z.set_len(if problem.z.is_some() { elements } else { 0 });
    }
    let joined: Vec<Vec<R>> = sums
        .iter()
        .zip(sizes)
        .map(|(sums, size)| {
            let mut total = vec![R::ZERO; size];
            for part in sums.as_slice().chunks(size.max(1)) {
                total.iter_mut().zip(part).for_each(|(t, &p)| *t += p);
            }
            total
        })
        .collect();
    let unpack = |packed: &[R], d_state: usize| {
        let mut out = vec![R::ZERO; d_inner * d_state];
        blocks.unpack_add(packed, d_state, &mut out);
        out
    };
    let project = |projected: Projected<'_, R>, total: &Vec<R>| match projected.groups {
        Some(_) => total.clone(),
        None => unpack(total, d_state),
    };
    Gradients {
        u,
        delta,
        a: unpack(&joined[0], d_state),
        b: project(problem.b, &joined[1]),
        c: project(problem.c, &joined[2]),
        d: unpack(&joined[3], 1),
        z,
        delta_bias: unpack(&joined[4], 1),
        state,
    }
}

/// A backward run, as all threads see it.
struct Pass<'a, R> {
    problem: &'a Problem<'a, R>,
    blocks: &'a Blocks<R>,
    incoming: &'a Incoming<'a, R>,
    chunks: usize,
    saved: &'a Saved<R>,
    u: Shared<R>,
    delta: Shared<R>,
    z: Shared<R>,
    state: Shared<R>,
    /// Of A, B, C, D and the bias, one after the other for every thread.
    sums: [Shared<R>; 5],
    sizes: [usize; 5],
    d: &'a Buffer<R>,
    delta_bias: &'a Buffer<R>,
}

/// One thread of it, which owns some blocks of channels of some rows.
struct Thread<'a, 'm, R> {
    pass: &'a Pass<'a, R>,
    member: &'a Member<'m>,
}

/// Memory for one chunk.
struct Scratch<R> {
    /// The states before each step of a tile, `[CHUNK, TILE, lanes]`.
    states: Buffer<R>,
    /// The decays, of the same shape.
    decays: Buffer<R>,
    /// Gradients of B and C, summed over the blocks that share them, `[CHUNK, d_state, lanes]`.
    b: Buffer<R>,
    c: Buffer<R>,
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let Self { pass, member } = self;
        let problem = pass.problem;
        let (d_state, lanes) = (problem.d_state, pass.blocks.lanes);
        let blocks = pass.blocks.channels.len();
        let panel = d_state * lanes;
        let mut scratch = Scratch {
            states: Buffer::zeroed(CHUNK * TILE * lanes),
            decays: Buffer::zeroed(CHUNK * TILE * lanes),
            b: Buffer::zeroed(CHUNK * panel),
            c: Buffer::zeroed(CHUNK * panel),
        };
        for (row, own) in member.rows(problem.batch, blocks) {
            let mut gradients = Buffer::zeroed(own.len() * panel);
            let gradients = gradients.as_mut_slice();
            if let Some(last) = pass.incoming.state {
                let own = (row, own.clone());
                pass.blocks.load_states(problem, own, last, gradients);
            }
            let length = problem.length(row);
            for chunk in (0..length.div_ceil(CHUNK)).rev() {
                let steps = chunk * CHUNK..length.min((chunk + 1) * CHUNK);
                for (block, gradient) in own.clone().zip(gradients.chunks_mut(panel)) {
                    let at = ((row * pass.chunks + chunk) * blocks + block) * panel;
                    let before = &pass.saved.as_slice()[at..at + panel];
                    // SAFETY: the block of this row is this thread's own, and so are its sums.
                    unsafe {
                        with_varying!(problem.b, problem.c, B, C => {
                            self.chunk::<S, B, C>(
                                s,
                                [row, block],
                                steps.clone(),
                                before,
                                gradient.as_mut_ptr(),
                                &mut scratch,
                            );
                            // Summing over lanes is dear: once for all blocks of a group.
                            let at = [row, block];
                            if pass.blocks.parts(problem, problem.b, block, own.end) {
                                self.project::<S, B>(s, 1, problem.b, at, steps.clone(), &mut scratch.b);
                            }
                            if pass.blocks.parts(problem, problem.c, block, own.end) {
                                self.project::<S, C>(s, 2, problem.c, at, steps.clone(), &mut scratch.c);
                            }
                        });
                    }
                }
            }
            // SAFETY: as above.
            unsafe {
                self.pad(row, own.clone());
                pass.blocks
                    .store_states(problem, (row, own), gradients, pass.state);
            }
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// This thread's sums: of A, B, C, D or the bias.
    unsafe fn sums(&self, which: usize) -> *mut R {
        // SAFETY: every thread has its part of the buffer.
        unsafe { self.pass.sums[which].at(self.member.index() * self.pass.sizes[which]) }
    }

    /// Padding has no gradient.
    unsafe fn pad(&self, row: usize, own: Range<usize>) {
        let Pass {
            problem, blocks, ..
        } = *self.pass;
        let outputs = [self.pass.u, self.pass.delta, self.pass.z];
        let outputs = &outputs[..if problem.z.is_some() { 3 } else { 2 }];
        for block in own {
            for step in problem.length(row)..problem.time {
                for channel in blocks.channels[block].clone() {
                    let at = (row * problem.time + step) * problem.d_inner + channel;
                    for output in outputs {
                        // SAFETY: inside the gradients, and the channel is this thread's own.
                        unsafe { output.at(at).write(R::ZERO) };
                    }
                }
            }
        }
    }

    /// Walks with one block of channels backwards through at most [`CHUNK`] steps. `gradient` is that of
    /// the states after them, and then of those before.
    #[inline(always)]
    unsafe fn chunk<S: Simd, const B: bool, const C: bool>(
        &self,
        s: S,
        [row, block]: [usize; 2],
        steps: Range<usize>,
        before: &[R],
        gradient: *mut R,
        scratch: &mut Scratch<R>,
    ) {
        let pass = self.pass;
        let Pass {
            problem, blocks, ..
        } = *pass;
        let lanes = R::lanes::<S>();
        let d_state = problem.d_state;
        let panel = d_state * lanes;
        let channels = &blocks.channels[block];
        let count = channels.len();
        let (zero, one) = (R::splat(s, R::ZERO), R::splat(s, R::ONE));
        let place = |step: usize| (row * problem.time + step) * problem.d_inner + channels.start;
        let at = [row, steps.start, block];
        let b = Found::new(problem.b, &blocks.b, problem, blocks, at);
        let c = Found::new(problem.c, &blocks.c, problem, blocks, at);
        let states = scratch.states.as_mut_slice().as_mut_ptr();
        let decays = scratch.decays.as_mut_slice().as_mut_ptr();
        let (b_sums, c_sums) = (
            scratch.b.as_mut_slice().as_mut_ptr(),
            scratch.c.as_mut_slice().as_mut_ptr(),
        );
        // SAFETY: every address is inside its tensor or buffer: a step's `count` channels, or a register
        // of a block; and what is written is this thread's own.
        unsafe {
            let load = |values: &[R], step: usize| {
                R::load_first(s, values.as_ptr().add(place(step)), count)
            };
            let bias = R::load(s, pass.delta_bias.as_slice().as_ptr().add(block * lanes));
            let d = R::load(s, pass.d.as_slice().as_ptr().add(block * lanes));
            let mut dt = [zero; CHUNK];
            let mut written = [zero; CHUNK];
            let mut y = [zero; CHUNK];
            let mut d_y = [zero; CHUNK];
            for (i, step) in steps.clone().enumerate() {
                let u = load(problem.u, step);
                let mut delta = R::vadd(s, load(problem.delta, step), bias);
                if problem.delta_softplus {
                    delta = R::softplus(s, delta);
                }
                dt[i] = delta;
                written[i] = R::vmul(s, delta, u);
                y[i] = R::vmul(s, d, u);
                // The gradient of the sum C h + D u, before the gate.
                d_y[i] = match pass.incoming.y {
                    Some(y) => load(y, step),
                    None => zero,
                };
                if let Some(z) = problem.z {
                    d_y[i] = R::vmul(s, d_y[i], R::silu(s, load(z, step)));
                }
            }
            let a = blocks.a.as_slice().as_ptr().add(block * panel);
            let mut d_dt = [zero; CHUNK];
            let mut d_written = [zero; CHUNK];
            let a_sums = self.sums(0).add(block * panel);
            for_tiles!(d_state, first, N => {
                let mut h = [zero; N];
                let mut rate = [zero; N];
                for n in 0..N {
                    h[n] = R::load(s, before.as_ptr().add((first + n) * lanes));
                    rate[n] = R::load(s, a.add((first + n) * lanes));
                }
                for (i, step) in steps.clone().enumerate() {
                    // Strides of a row are none that the hardware foresees; among the exponentials the
                    // chunk before comes in unnoticed.
                    if first == 0 {
                        let next = place(step).wrapping_sub(CHUNK * problem.d_inner);
                        let inputs = [
                            Some(problem.u),
                            Some(problem.delta),
                            problem.z,
                            pass.incoming.y,
                        ];
                        for input in inputs.into_iter().flatten() {
                            prefetch(input.as_ptr().wrapping_add(next));
                        }
                    }
                    if first + N >= d_state {
                        let next = place(step).wrapping_sub(CHUNK * problem.d_inner);
                        for output in [pass.u, pass.delta, pass.z] {
                            prefetch(output.address(next));
                        }
                    }
                    if problem.resets(row, step) {
                        h = [zero; N];
                    }
                    for n in 0..N {
                        let place = (i * N + n) * lanes;
                        R::store(s, states.add(place), h[n]);
                        let decay = R::exp(s, R::vmul(s, dt[i], rate[n]));
                        R::store(s, decays.add(place), decay);
                        let write = R::vmul(s, written[i], b.get::<S, B>(s, i, first + n));
                        h[n] = R::mul_add(s, decay, h[n], write);
                        y[i] = R::mul_add(s, c.get::<S, C>(s, i, first + n), h[n], y[i]);
                        let sum = c_sums.add((i * d_state + first + n) * lanes);
                        R::store(s, sum, R::mul_add(s, d_y[i], h[n], R::load(s, sum)));
                    }
                }

                let mut d_h = [zero; N];
                let mut d_rate = [zero; N];
                for n in 0..N {
                    d_h[n] = R::load(s, gradient.add((first + n) * lanes));
                    d_rate[n] = R::load(s, a_sums.add((first + n) * lanes));
                }
                for (i, step) in steps.clone().enumerate().rev() {
                    for n in 0..N {
                        d_h[n] = R::mul_add(s, d_y[i], c.get::<S, C>(s, i, first + n), d_h[n]);
                        let sum = b_sums.add((i * d_state + first + n) * lanes);
                        R::store(s, sum, R::mul_add(s, d_h[n], written[i], R::load(s, sum)));
                        d_written[i] =
                            R::mul_add(s, d_h[n], b.get::<S, B>(s, i, first + n), d_written[i]);
                        let place = (i * N + n) * lanes;
                        let h = R::load(s, states.add(place));
                        d_h[n] = R::vmul(s, d_h[n], R::load(s, decays.add(place)));
                        let through = R::vmul(s, d_h[n], h);
                        d_rate[n] = R::mul_add(s, through, dt[i], d_rate[n]);
                        d_dt[i] = R::mul_add(s, through, rate[n], d_dt[i]);
                    }
                    if problem.resets(row, step) {
                        d_h = [zero; N];
                    }
                }
                for n in 0..N {
                    R::store(s, gradient.add((first + n) * lanes), d_h[n]);
                    R::store(s, a_sums.add((first + n) * lanes), d_rate[n]);
                }
            });

            if let Some(z) = problem.z {
                for (i, step) in steps.clone().enumerate() {
                    let gradient = match pass.incoming.y {
                        Some(y) => load(y, step),
                        None => zero,
                    };
                    let z = load(z, step);
                    let gate = R::sigmoid(s, z);
                    // silu' = gate + silu (1 - gate)
                    let silu = R::vmul(s, z, gate);
                    let slope = R::mul_add(s, silu, R::vsub(s, one, gate), gate);
                    let d_z = R::vmul(s, R::vmul(s, gradient, y[i]), slope);
                    R::store_first(s, pass.z.at(place(step)), count, d_z);
                }
            }

            let (d_sums, bias_sums) = (
                self.sums(3).add(block * lanes),
                self.sums(4).add(block * lanes),
            );
            let mut d_total = R::load(s, d_sums);
            let mut bias_total = R::load(s, bias_sums);
            for (i, step) in steps.enumerate() {
                let u = load(problem.u, step);
                d_total = R::mul_add(s, d_y[i], u, d_total);
                let d_u = R::mul_add(s, d_written[i], dt[i], R::vmul(s, d_y[i], d));
                R::store_first(s, pass.u.at(place(step)), count, d_u);
                let mut d_delta = R::mul_add(s, d_written[i], u, d_dt[i]);
                if problem.delta_softplus {
                    let delta = R::vadd(s, load(problem.delta, step), bias);
                    d_delta = R::vmul(s, d_delta, R::sigmoid(s, delta));
                }
                R::store_first(s, pass.delta.at(place(step)), count, d_delta);
                bias_total = R::vadd(s, bias_total, d_delta);
            }
            R::store(s, d_sums, d_total);
            R::store(s, bias_sums, bias_total);
        }
    }

    /// Moves the gradients of B or C, which are in the lanes of blocks, to this thread's sums.
    #[inline(always)]
    unsafe fn project<S: Simd, const VARYING: bool>(
        &self,
        s: S,
        which: usize,
        projected: Projected<'_, R>,
        [row, block]: [usize; 2],
        steps: Range<usize>,
        in_lanes: &mut Buffer<R>,
    ) {
        let Pass {
            problem, blocks, ..
        } = *self.pass;
        let (d_state, lanes) = (problem.d_state, R::lanes::<S>());
        let in_lanes = in_lanes.as_mut_slice().as_mut_ptr();
        // SAFETY: every address is inside its buffer, and the sums are this thread's own.
        unsafe {
            let sums = self.sums(which);
            for (i, step) in steps.enumerate() {
                for n in 0..d_state {
                    let from = in_lanes.add((i * d_state + n) * lanes);
                    let value = R::load(s, from);
                    R::store(s, from, R::splat(s, R::ZERO));
                    if VARYING {
                        let groups = projected.groups.unwrap_or(1);
                        let channel = blocks.channels[block].start;
                        let to = sums.add(problem.group_at(groups, row, step, channel) + n);
                        *to += R::reduce_sum(s, value);
                    } else {
                        let to = sums.add((block * d_state + n) * lanes);
                        R::store(s, to, R::vadd(s, R::load(s, to), value));
                    }
                }
            }
        }
    }
}
