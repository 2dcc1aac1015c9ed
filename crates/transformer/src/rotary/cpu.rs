//! The rotation on slices. A thread owns steps.

use seq_core::cpu::{Arch, Member, Real, Shared, Simd, Team, WithSimd, reserve, threads};

use super::Turn;

/// Below this many elements a second thread costs more than it saves.
const WORTH_SHARING: usize = 1 << 15;

/// A rotation with its table.
pub(super) struct Problem<'a, R> {
    /// `[batch, time, heads, d_head]`
    pub shape: [usize; 4],
    /// `[positions, d_rotary]`: the cosines of all pairs, then the sines.
    pub rows: &'a [R],
    pub turn: &'a Turn<'a>,
}

impl<R: Real> Problem<'_, R> {
    fn elements(&self) -> usize {
        self.shape.iter().product()
    }

    /// Turns all elements where they lie.
    pub fn in_place(&self, elements: &mut [R]) {
        assert_eq!(elements.len(), self.elements());
        self.run(None, Shared::new(elements.as_mut_ptr()));
    }

    /// The elements turned.
    pub fn copied(&self, x: &[R]) -> Vec<R> {
        assert_eq!(x.len(), self.elements());
        let mut out = reserve(x.len());
        self.run(Some(x), Shared::new(out.as_mut_ptr()));
        // SAFETY: the steps are all of the elements, and each was copied.
        unsafe { out.set_len(x.len()) };
        out
    }

    fn run(&self, x: Option<&[R]>, out: Shared<R>) {
        let count = match self.elements() < WORTH_SHARING {
            true => 1,
            false => threads(),
        };
        let arch = Arch::new();
        Team::run(count, |member| {
            arch.dispatch(Thread {
                problem: self,
                member,
                x,
                out,
            });
        });
    }
}

struct Thread<'a, 'm, R> {
    problem: &'a Problem<'a, R>,
    member: &'a Member<'m>,
    /// Copied to the output first; none where that holds it already.
    x: Option<&'a [R]>,
    out: Shared<R>,
}

impl<R: Real> WithSimd for Thread<'_, '_, R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let turn = self.problem.turn;
        let [batch, time, heads, d_head] = self.problem.shape;
        let width = heads * d_head;
        for step in self.member.share(batch * time) {
            let sequence = if turn.starts.len() == 1 {
                0
            } else {
                step / time
            };
            let row = turn.starts[sequence] + step % time;
            let at = step * width;
            // SAFETY: inside the output, of which the step is this thread's own.
            let out = unsafe {
                let out = self.out.at(at);
                if let Some(x) = self.x {
                    let x = &x[at..at + width];
                    out.copy_from_nonoverlapping(x.as_ptr(), width);
                }
                std::slice::from_raw_parts_mut(out, width)
            };
            turn_heads(s, turn, self.problem.rows, row, out, d_head);
        }
    }
}

/// Turns the vectors of one step by what a row of the table has.
#[inline(always)]
pub(crate) fn turn_heads<R: Real, S: Simd>(
    s: S,
    turn: &Turn<'_>,
    rows: &[R],
    row: usize,
    heads: &mut [R],
    d_head: usize,
) {
    let d_rotary = turn.d_rotary;
    let (cos, sin) = rows[row * d_rotary..][..d_rotary].split_at(d_rotary / 2);
    let sign = if turn.back { -R::ONE } else { R::ONE };
    for vector in heads.chunks_exact_mut(d_head) {
        let vector = &mut vector[..d_rotary];
        match turn.interleaved {
            true => neighbours(vector, cos, sin, sign),
            false => halves(s, vector, cos, sin, sign),
        }
    }
}

#[inline(always)]
fn halves<R: Real, S: Simd>(s: S, vector: &mut [R], cos: &[R], sin: &[R], sign: R) {
    let pairs = cos.len();
    let (first, second) = vector.split_at_mut(pairs);
    assert!(second.len() == pairs && sin.len() == pairs);
    let sign = R::splat(s, sign);
    let lanes = R::lanes::<S>();
    for i in (0..pairs).step_by(lanes) {
        let count = lanes.min(pairs - i);
        // SAFETY: all four have so many elements from `i` on.
        unsafe {
            let load = |from: *const R| R::load_first(s, from.add(i), count);
            let (a, b) = (load(first.as_ptr()), load(second.as_ptr()));
            let (cos, sin) = (load(cos.as_ptr()), load(sin.as_ptr()));
            let sin = R::vmul(s, sin, sign);
            let x = R::neg_mul_add(s, b, sin, R::vmul(s, a, cos));
            let y = R::mul_add(s, a, sin, R::vmul(s, b, cos));
            R::store_first(s, first.as_mut_ptr().add(i), count, x);
            R::store_first(s, second.as_mut_ptr().add(i), count, y);
        }
    }
}

#[inline(always)]
fn neighbours<R: Real>(vector: &mut [R], cos: &[R], sin: &[R], sign: R) {
    for (pair, (&cos, &sin)) in vector.chunks_exact_mut(2).zip(cos.iter().zip(sin)) {
        let (a, b, sin) = (pair[0], pair[1], sin * sign);
        pair[0] = a * cos - b * sin;
        pair[1] = a * sin + b * cos;
    }
}
