use std::ops::Range;
use std::sync::Arc;

use seq_core::cpu::{
    Arch, Buffer, Member, Real, Shared, Simd, Team, WithSimd, prefetch, reserve, threads,
};

use super::CHUNK;
use super::plan::{Blocks, Found, MakeBlocks, Problem, for_tiles, with_varying};

/// Below this many states and steps a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 13;

/// What a scan gives.
pub(crate) struct Outputs<R> {
    /// `[batch, time, d_inner]`
    pub y: Vec<R>,
    /// `[batch, d_inner, d_state]`
    pub state: Vec<R>,
    /// What the backward pass needs, if it was asked for.
    pub saved: Option<Saved<R>>,
}

/// The states at the beginning of each chunk, `[batch, chunks, blocks, d_state, lanes]`.
pub(crate) type Saved<R> = Arc<Buffer<R>>;

impl<R: Real> Problem<'_, R> {
    /// How many threads it is worth.
    pub(super) fn threads(&self) -> usize {
        match self.batch * self.time * self.d_inner * self.d_state < WORTH_SHARING {
            true => 1,
            false => threads(),
        }
    }
}

/// Runs a scan; with `keep`, keeps what the backward pass needs.
pub(crate) fn forward<R: Real>(problem: &Problem<'_, R>, keep: bool) -> Outputs<R> {
    let Problem {
        batch,
        time,
        d_inner,
        d_state,
        ..
    } = *problem;
    let arch = Arch::new();
    let blocks = &arch.dispatch(MakeBlocks(problem));
    let chunks = time.div_ceil(CHUNK);
    let states = blocks.channels.len() * d_state * blocks.lanes;
    // SAFETY: of the chunks that a sequence reaches the threads write all states, and the backward pass
    // reads no others.
    let mut saved = unsafe { Buffer::uninit(if keep { batch * chunks * states } else { 0 }) };
    let mut y = reserve(batch * time * d_inner);
    let mut state = vec![R::ZERO; batch * d_inner * d_state];
    let pass = Pass {
        problem,
        blocks,
        keep,
        chunks,
        saved: saved.shared(),
        y: Shared::new(y.as_mut_ptr()),
        state: Shared::new(state.as_mut_ptr()),
        d: &blocks.pack_vector(problem.d),
        delta_bias: &blocks.pack_vector(problem.delta_bias),
    };
    Team::run(problem.threads(), |member| {
        arch.dispatch(Thread {
            pass: &pass,
            member,
        });
    });
    // SAFETY: the threads have written every step of every channel.
    unsafe { y.set_len(batch * time * d_inner) };
    Outputs {
        y,
        state,
        saved: keep.then(|| Arc::new(saved)),
    }
}

/// A run, as all threads see it.
struct Pass<'a, R> {
    problem: &'a Problem<'a, R>,
    blocks: &'a Blocks<R>,
    keep: bool,
    chunks: usize,
    saved: Shared<R>,
    y: Shared<R>,
    state: Shared<R>,
    d: &'a Buffer<R>,
    delta_bias: &'a Buffer<R>,
}

/// One thread of it, which owns some blocks of channels of some rows.
struct Thread<'a, 'm, R> {
    pass: &'a Pass<'a, R>,
    member: &'a Member<'m>,
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
        for (row, own) in member.rows(problem.batch, blocks) {
            let mut states = Buffer::zeroed(own.len() * panel);
            let states = states.as_mut_slice();
            if let Some(initial) = problem.state {
                let own = (row, own.clone());
                pass.blocks.load_states(problem, own, initial, states);
            }
            let length = problem.length(row);
            for chunk in 0..length.div_ceil(CHUNK) {
                let steps = chunk * CHUNK..length.min((chunk + 1) * CHUNK);
                for (block, state) in own.clone().zip(states.chunks_mut(panel)) {
                    // SAFETY: the block of this row is this thread's own.
                    unsafe {
                        if pass.keep {
                            let at = ((row * pass.chunks + chunk) * blocks + block) * panel;
                            let to = pass.saved.at(at);
                            to.copy_from_nonoverlapping(state.as_ptr(), panel);
                        }
                        with_varying!(problem.b, problem.c, B, C => {
                            self.chunk::<S, B, C>(s, row, steps.clone(), block, state.as_mut_ptr())
                        });
                    }
                }
            }
            // SAFETY: as above.
            unsafe {
                self.pad(row, own.clone());
                pass.blocks
                    .store_states(problem, (row, own), states, pass.state);
            }
        }
    }
}

impl<R: Real> Thread<'_, '_, R> {
    /// Fills the padding of some blocks of a row with zeros.
    unsafe fn pad(&self, row: usize, own: Range<usize>) {
        let Pass {
            problem, blocks, ..
        } = *self.pass;
        for block in own {
            for step in problem.length(row)..problem.time {
                for channel in blocks.channels[block].clone() {
                    let at = (row * problem.time + step) * problem.d_inner + channel;
                    // SAFETY: inside the outputs, and the channel is this thread's own.
                    unsafe { self.pass.y.at(at).write(R::ZERO) };
                }
            }
        }
    }

    /// Walks with one block of channels through at most [`CHUNK`] steps.
    #[inline(always)]
    unsafe fn chunk<S: Simd, const B: bool, const C: bool>(
        &self,
        s: S,
        row: usize,
        steps: Range<usize>,
        block: usize,
        state: *mut R,
    ) {
        let pass = self.pass;
        let Pass {
            problem, blocks, ..
        } = *pass;
        let lanes = R::lanes::<S>();
        let channels = &blocks.channels[block];
        let count = channels.len();
        let zero = R::splat(s, R::ZERO);
        let place = |step: usize| (row * problem.time + step) * problem.d_inner + channels.start;
        let at = [row, steps.start, block];
        let b = Found::new(problem.b, &blocks.b, problem, blocks, at);
        let c = Found::new(problem.c, &blocks.c, problem, blocks, at);
        // SAFETY: every address is inside its tensor or buffer: a step's `count` channels, or a register
        // of a block.
        unsafe {
            let bias = R::load(s, pass.delta_bias.as_slice().as_ptr().add(block * lanes));
            let d = R::load(s, pass.d.as_slice().as_ptr().add(block * lanes));
            let mut dt = [zero; CHUNK];
            let mut written = [zero; CHUNK];
            let mut y = [zero; CHUNK];
            for (i, step) in steps.clone().enumerate() {
                let u = R::load_first(s, problem.u.as_ptr().add(place(step)), count);
                let delta = R::load_first(s, problem.delta.as_ptr().add(place(step)), count);
                let mut delta = R::vadd(s, delta, bias);
                if problem.delta_softplus {
                    delta = R::softplus(s, delta);
                }
                dt[i] = delta;
                written[i] = R::vmul(s, delta, u);
                y[i] = R::vmul(s, d, u);
            }
            let a = blocks
                .a
                .as_slice()
                .as_ptr()
                .add(block * problem.d_state * lanes);
            for_tiles!(problem.d_state, first, N => {
                let mut h = [zero; N];
                let mut rate = [zero; N];
                for n in 0..N {
                    h[n] = R::load(s, state.add((first + n) * lanes));
                    rate[n] = R::load(s, a.add((first + n) * lanes));
                }
                for (i, step) in steps.clone().enumerate() {
                    // Strides of a row are none that the hardware foresees; among the exponentials the
                    // next chunk comes in unnoticed.
                    if first == 0 {
                        let later = place(step + CHUNK);
                        prefetch(problem.u.as_ptr().wrapping_add(later));
                        prefetch(problem.delta.as_ptr().wrapping_add(later));
                    }
                    if first + N >= problem.d_state {
                        let later = place(step + CHUNK);
                        prefetch(pass.y.address(later));
                        if let Some(z) = problem.z {
                            prefetch(z.as_ptr().wrapping_add(later));
                        }
                    }
                    if problem.resets(row, step) {
                        h = [zero; N];
                    }
                    for n in 0..N {
                        let decay = R::exp(s, R::vmul(s, dt[i], rate[n]));
                        let write = R::vmul(s, written[i], b.get::<S, B>(s, i, first + n));
                        h[n] = R::mul_add(s, decay, h[n], write);
                        y[i] = R::mul_add(s, c.get::<S, C>(s, i, first + n), h[n], y[i]);
                    }
                }
                for (n, &h) in h.iter().enumerate() {
                    R::store(s, state.add((first + n) * lanes), h);
                }
            });
            for (i, step) in steps.enumerate() {
                let mut y = y[i];
                if let Some(z) = problem.z {
                    let z = R::load_first(s, z.as_ptr().add(place(step)), count);
                    y = R::vmul(s, y, R::silu(s, z));
                }
                R::store_first(s, pass.y.at(place(step)), count, y);
            }
        }
    }
}
