use std::marker::PhantomData;

use crate::cpu::{Arch, Buffer, Real, Simd, WithSimd, threads};

/// Below this many multiplications a step, a barrier costs more than a second thread saves.
const WORTH_SHARING: usize = 1 << 15;

/// One layer in one direction with its inputs, all row-major.
pub(crate) struct Problem<'a, R> {
    pub batch: usize,
    pub time: usize,
    pub d_input: usize,
    pub d_hidden: usize,
    /// `[batch, time, d_input]`
    pub x: &'a [R],
    /// `[gates * d_hidden, d_input]`
    pub weight_ih: &'a [R],
    /// `[gates * d_hidden, d_hidden]`
    pub weight_hh: &'a [R],
    /// `[gates * d_hidden]`
    pub bias_ih: Option<&'a [R]>,
    /// `[gates * d_hidden]`
    pub bias_hh: Option<&'a [R]>,
    /// `[U * d_hidden]`
    pub weights: Option<&'a [R]>,
    /// `[batch, d_hidden]`
    pub hidden: &'a [R],
    /// `[batch, d_hidden]`
    pub cell: Option<&'a [R]>,
    pub lengths: Option<&'a [usize]>,
    pub reverse: bool,
}

impl<R: Real> Problem<'_, R> {
    /// `d_hidden` rounded up to whole registers, the distance between rows of the kernels' own memory.
    pub fn padded(&self) -> usize {
        self.d_hidden
            .next_multiple_of(Arch::new().dispatch(Lanes::<R>(PhantomData)))
    }

    pub fn length(&self, row: usize) -> usize {
        self.lengths.map_or(self.time, |lengths| lengths[row])
    }

    /// Where step `step` of sequence `row` is in `x` and `y`: in reverse a sequence runs from its own
    /// end, and its padding stays where it is.
    pub fn position(&self, row: usize, step: usize) -> usize {
        let length = self.length(row);
        match self.reverse && step < length {
            true => length - 1 - step,
            false => step,
        }
    }

    /// How many threads a kernel should use, given its multiplications a step.
    pub fn threads(&self, multiplications: usize) -> usize {
        match multiplications < WORTH_SHARING {
            true => 1,
            false => threads(),
        }
    }

    /// A state `[batch, d_hidden]` in rows of the padded width, the padding zero.
    pub fn pad(&self, state: Option<&[R]>, out: &mut [R]) {
        let (hidden, padded) = (self.d_hidden, self.padded());
        out.fill(R::ZERO);
        if let Some(state) = state {
            for (out, row) in out.chunks_mut(padded).zip(state.chunks(hidden)) {
                out[..hidden].copy_from_slice(row);
            }
        }
    }

    /// The reverse of [`pad`](Self::pad).
    pub fn unpad(&self, state: &[R]) -> Vec<R> {
        let rows = state.chunks(self.padded());
        rows.flat_map(|row| &row[..self.d_hidden])
            .copied()
            .collect()
    }

    /// The biases of every slot: `[G, padded]`.
    pub fn slot_biases(
        &self,
        slots: usize,
        input: &[usize],
        recurrent: &[usize],
        gated: &[usize],
    ) -> Buffer<R> {
        let (hidden, padded) = (self.d_hidden, self.padded());
        let mut out = Buffer::zeroed(slots * padded);
        let mut add = |slot: usize, bias: Option<&[R]>, gate: usize| {
            let Some(bias) = bias else { return };
            let out = &mut out.as_mut_slice()[slot * padded..][..hidden];
            for (out, &bias) in out.iter_mut().zip(&bias[gate * hidden..]) {
                *out += bias;
            }
        };
        for (slot, &gate) in input.iter().enumerate() {
            add(slot, self.bias_ih, gate);
        }
        let first = slots - recurrent.len() - gated.len();
        for (slot, &gate) in recurrent.iter().chain(gated).enumerate() {
            add(first + slot, self.bias_hh, gate);
        }
        out
    }

    /// The elementwise weights: `[U, padded]`.
    pub fn slot_weights(&self, count: usize) -> Buffer<R> {
        let (hidden, padded) = (self.d_hidden, self.padded());
        let mut out = Buffer::zeroed(count * padded);
        if let Some(weights) = self.weights {
            for (out, row) in out
                .as_mut_slice()
                .chunks_mut(padded)
                .zip(weights.chunks(hidden))
            {
                out[..hidden].copy_from_slice(row);
            }
        }
        out
    }
}

/// How many elements a register holds on this machine.
struct Lanes<R>(PhantomData<R>);

impl<R: Real> WithSimd for Lanes<R> {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        R::lanes::<S>()
    }
}
