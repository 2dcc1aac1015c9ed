use std::ops::Range;

use seq_core::cpu::{Buffer, Real, Shared, Simd, WithSimd};

/// A scan with its inputs, all row-major.
pub(crate) struct Problem<'a, R> {
    pub batch: usize,
    pub time: usize,
    pub d_inner: usize,
    pub d_state: usize,
    /// `[batch, time, d_inner]`
    pub u: &'a [R],
    /// `[batch, time, d_inner]`
    pub delta: &'a [R],
    /// `[d_inner, d_state]`
    pub a: &'a [R],
    pub b: Projected<'a, R>,
    pub c: Projected<'a, R>,
    /// `[d_inner]`
    pub d: Option<&'a [R]>,
    /// `[batch, time, d_inner]`
    pub z: Option<&'a [R]>,
    /// `[d_inner]`
    pub delta_bias: Option<&'a [R]>,
    pub delta_softplus: bool,
    /// `[batch, d_inner, d_state]`
    pub state: Option<&'a [R]>,
    pub lengths: Option<&'a [usize]>,
    pub resets: Option<&'a [Vec<bool>]>,
}

/// B or C.
#[derive(Clone, Copy)]
pub(crate) struct Projected<'a, R> {
    /// `[batch, time, n_groups, d_state]`, or `[d_inner, d_state]`.
    pub values: &'a [R],
    /// How many groups there are; none if it is constant.
    pub groups: Option<usize>,
}

impl<R: Real> Problem<'_, R> {
    pub fn length(&self, row: usize) -> usize {
        self.lengths.map_or(self.time, |lengths| lengths[row])
    }

    pub fn resets(&self, row: usize, step: usize) -> bool {
        self.resets.is_some_and(|resets| resets[row][step])
    }

    /// Where one group's `d_state` values of a step begin.
    pub fn group_at(&self, groups: usize, row: usize, step: usize, channel: usize) -> usize {
        let group = channel * groups / self.d_inner;
        ((row * self.time + step) * groups + group) * self.d_state
    }
}

/// The channels in blocks of one register each, and what belongs to them in the order of lanes.
pub(super) struct Blocks<R> {
    /// Neighbours that share a group of B and one of C; the last lanes may be left over.
    pub channels: Vec<Range<usize>>,
    /// How many lanes a block has.
    pub lanes: usize,
    /// `[blocks, d_state, lanes]`
    pub a: Buffer<R>,
    /// The same, of a constant B.
    pub b: Buffer<R>,
    /// The same, of a constant C.
    pub c: Buffer<R>,
}

impl<R: Real> Blocks<R> {
    /// Whether `block` is the last of those before `end` that share their gradient of B or C.
    pub fn parts(
        &self,
        problem: &Problem<'_, R>,
        projected: Projected<'_, R>,
        block: usize,
        end: usize,
    ) -> bool {
        let group =
            |groups, block: usize| problem.group_at(groups, 0, 0, self.channels[block].start);
        projected.groups.is_none_or(|groups| {
            block + 1 == end || group(groups, block) != group(groups, block + 1)
        })
    }

    /// Values `[d_inner, d_state]` as `[blocks, d_state, lanes]`.
    pub fn pack(&self, values: &[R], d_state: usize) -> Buffer<R> {
        let mut out = Buffer::zeroed(self.channels.len() * d_state * self.lanes);
        let panels = out.as_mut_slice().chunks_mut(d_state * self.lanes);
        for (panel, channels) in panels.zip(&self.channels) {
            for (lane, channel) in channels.clone().enumerate() {
                for n in 0..d_state {
                    panel[n * self.lanes + lane] = values[channel * d_state + n];
                }
            }
        }
        out
    }

    /// Adds packed values to `[d_inner, d_state]`.
    pub fn unpack_add(&self, packed: &[R], d_state: usize, out: &mut [R]) {
        for (panel, channels) in packed.chunks(d_state * self.lanes).zip(&self.channels) {
            for (lane, channel) in channels.clone().enumerate() {
                for n in 0..d_state {
                    out[channel * d_state + n] += panel[n * self.lanes + lane];
                }
            }
        }
    }

    /// Copies the states of one row and some blocks, of `[batch, d_inner, d_state]`, to
    /// `[own, d_state, lanes]`.
    pub fn load_states(
        &self,
        problem: &Problem<'_, R>,
        (row, own): (usize, Range<usize>),
        from: &[R],
        panels: &mut [R],
    ) {
        let d_state = problem.d_state;
        for (block, panel) in own.zip(panels.chunks_mut(d_state * self.lanes)) {
            for (lane, channel) in self.channels[block].clone().enumerate() {
                let states = &from[(row * problem.d_inner + channel) * d_state..][..d_state];
                for (n, &state) in states.iter().enumerate() {
                    panel[n * self.lanes + lane] = state;
                }
            }
        }
    }

    /// The reverse of [`load_states`](Self::load_states).
    ///
    /// # Safety
    ///
    /// `to` must have room for all states, and nobody else may use those of these channels.
    pub unsafe fn store_states(
        &self,
        problem: &Problem<'_, R>,
        (row, own): (usize, Range<usize>),
        panels: &[R],
        to: Shared<R>,
    ) {
        let d_state = problem.d_state;
        for (block, panel) in own.zip(panels.chunks(d_state * self.lanes)) {
            for (lane, channel) in self.channels[block].clone().enumerate() {
                let first = (row * problem.d_inner + channel) * d_state;
                for n in 0..d_state {
                    // SAFETY: by the caller's promise.
                    unsafe { to.at(first + n).write(panel[n * self.lanes + lane]) };
                }
            }
        }
    }

    /// Values `[d_inner]` as `[blocks, lanes]`.
    pub fn pack_vector(&self, values: Option<&[R]>) -> Buffer<R> {
        let mut out = Buffer::zeroed(self.channels.len() * self.lanes);
        if let Some(values) = values {
            let panels = out.as_mut_slice().chunks_mut(self.lanes);
            for (panel, channels) in panels.zip(&self.channels) {
                panel[..channels.len()].copy_from_slice(&values[channels.clone()]);
            }
        }
        out
    }
}

/// Makes the blocks of a problem for the registers of this machine.
pub(super) struct MakeBlocks<'a, 'p, R>(pub &'a Problem<'p, R>);

impl<R: Real> WithSimd for MakeBlocks<'_, '_, R> {
    type Output = Blocks<R>;

    fn with_simd<S: Simd>(self, _: S) -> Blocks<R> {
        let problem = self.0;
        let lanes = R::lanes::<S>();
        let group = |channel: usize, projected: Projected<'_, R>| {
            projected
                .groups
                .map(|groups| channel * groups / problem.d_inner)
        };
        let groups = |channel| (group(channel, problem.b), group(channel, problem.c));
        let mut channels: Vec<Range<usize>> = Vec::new();
        for channel in 0..problem.d_inner {
            match channels.last_mut() {
                Some(block) if block.len() < lanes && groups(block.start) == groups(channel) => {
                    block.end += 1;
                }
                _ => channels.push(channel..channel + 1),
            }
        }
        let mut blocks = Blocks {
            channels,
            lanes,
            a: Buffer::zeroed(0),
            b: Buffer::zeroed(0),
            c: Buffer::zeroed(0),
        };
        blocks.a = blocks.pack(problem.a, problem.d_state);
        for (projected, packed) in [(problem.b, true), (problem.c, false)] {
            if projected.groups.is_none() {
                let values = blocks.pack(projected.values, problem.d_state);
                match packed {
                    true => blocks.b = values,
                    false => blocks.c = values,
                }
            }
        }
        blocks
    }
}

/// B or C of one row and one block of channels.
#[derive(Clone, Copy)]
pub(super) struct Found<R> {
    /// Values of `d_state` scalars for all lanes, or of `d_state` registers.
    first: *const R,
    /// From one step to the next.
    stride: usize,
}

impl<R: Real> Found<R> {
    /// That of `block`, from step `step` on.
    pub fn new(
        projected: Projected<'_, R>,
        packed: &Buffer<R>,
        problem: &Problem<'_, R>,
        blocks: &Blocks<R>,
        [row, step, block]: [usize; 3],
    ) -> Self {
        match projected.groups {
            Some(groups) => {
                let at = problem.group_at(groups, row, step, blocks.channels[block].start);
                Self {
                    first: projected.values[at..].as_ptr(),
                    stride: groups * problem.d_state,
                }
            }
            None => Self {
                first: packed.as_slice()[block * problem.d_state * blocks.lanes..].as_ptr(),
                stride: 0,
            },
        }
    }

    /// The value of state `n`, `i` steps on; `VARYING` says which of the two it is.
    ///
    /// # Safety
    ///
    /// The step must be inside the sequence and `n` below `d_state`.
    #[inline(always)]
    pub unsafe fn get<S: Simd, const VARYING: bool>(self, s: S, i: usize, n: usize) -> R::V<S> {
        // SAFETY: inside the values by the caller's promise.
        unsafe {
            match VARYING {
                true => R::splat(s, *self.first.add(i * self.stride + n)),
                false => R::load(s, self.first.add(n * R::lanes::<S>())),
            }
        }
    }
}

/// Runs `$body` with the constants `$B` and `$C` saying whether B and C vary in time.
macro_rules! with_varying {
    ($b:expr, $c:expr, $B:ident, $C:ident => $body:expr) => {
        match ($b.groups.is_some(), $c.groups.is_some()) {
            (true, true) => {
                const $B: bool = true;
                const $C: bool = true;
                $body
            }
            (true, false) => {
                const $B: bool = true;
                const $C: bool = false;
                $body
            }
            (false, true) => {
                const $B: bool = false;
                const $C: bool = true;
                $body
            }
            (false, false) => {
                const $B: bool = false;
                const $C: bool = false;
                $body
            }
        }
    };
}

/// How many states a tile has at most.
pub(super) const TILE: usize = 8;

/// Runs `$body` for tiles of states, `$first` on, `$N` a constant.
macro_rules! for_tiles {
    ($d_state:expr, $first:ident, $N:ident => $body:expr) => {{
        let d_state = $d_state;
        let mut $first = 0;
        while $first < d_state {
            match d_state - $first {
                1..4 => {
                    const $N: usize = 1;
                    $body;
                    $first += $N;
                }
                4..8 => {
                    const $N: usize = 4;
                    $body;
                    $first += $N;
                }
                _ => {
                    const $N: usize = super::plan::TILE;
                    $body;
                    $first += $N;
                }
            }
        }
    }};
}

pub(super) use {for_tiles, with_varying};
