use burn::tensor::{DType, Tensor};
use seq_core::scan::Complex;

use super::layer::S4;

/// The discretised system of every feature, diagonal plus rank 1:
///
/// ```text
/// s' = (I - h A)^-1 ((I + h A) s + dt B x),   A = diag(lambda) - p p*,   h = dt / 2
/// ```
///
/// States are real rows `[.., d_model, d_state]`, the real parts of the conjugate pairs and then the
/// imaginary ones, and p* sums over both numbers of a pair.
#[derive(Clone)]
pub(super) struct System {
    /// `r = 1 / (1 - h lambda)`, `[d_model, pairs]`
    r: Complex<2>,
    /// `2 h lambda r`
    turn: Complex<2>,
    /// `[d_model, pairs]`
    p: Complex<2>,
    /// `h r p / (1 + h p* r p)`
    carried: Complex<2>,
    /// What one input writes to the state, `[d_model, d_state]`.
    pub b: Tensor<2>,
    /// What an output reads of it, `[d_model, d_state]`.
    pub c: Tensor<2>,
}

impl System {
    pub fn new(layer: &S4, dtype: DType) -> Self {
        let planes = |x: Tensor<3>| {
            let x = x.cast(dtype);
            let plane = |index| x.clone().narrow(2, index, 1).squeeze_dim(2);
            Complex::new(plane(0), plane(1))
        };
        let [p, b, c] = [&layer.p, &layer.b, &layer.c].map(|x| planes(x.val()));
        let dt = layer.dt().cast(dtype).unsqueeze_dim::<2>(1);
        let h = dt.clone() * 0.5;
        let lambda = Complex::new(
            -layer.log_a_real.val().cast(dtype).exp(),
            layer.a_imag.val().cast(dtype),
        );
        let step = lambda.map(|plane| plane * h.clone());
        let one = Complex::from_real(step.re.ones_like());
        let r = (one - step.clone()).recip();
        let rp = r.clone() * p.clone();
        let scale = h.clone() / (h * dot(&p, &rp) + 1.0);
        let system = Self {
            turn: step * r.clone().map(|plane| plane * 2.0),
            carried: rp.map(|plane| plane * scale.clone()),
            r,
            p,
            b: b.re.zeros_like(),
            c: Tensor::cat(vec![c.re * 2.0, c.im * -2.0], 1),
        };
        // (I - h A)^-1 dt B
        let rb = system.r.clone() * b;
        let b = rb.clone() - system.returned(&rb);
        Self {
            b: joined(b.map(|plane| plane * dt.clone()), 1),
            ..system
        }
    }

    /// The states a step later, without an input.
    pub fn advance(&self, states: Tensor<3>) -> Tensor<3> {
        let pairs = states.dims()[2] / 2;
        let states = Complex::new(
            states.clone().narrow(2, 0, pairs),
            states.narrow(2, pairs, pairs),
        );
        let wide = |x: &Complex<2>| x.clone().map(Tensor::unsqueeze::<3>);
        let rs = wide(&self.r) * states.clone();
        let returned = self.returned(&rs).map(|plane| plane * 2.0);
        // As a sum with the state, so that what a short step leaves of it is not rounded.
        joined(states.clone() + (wide(&self.turn) * states - returned), 2)
    }

    /// What the part of rank 1 takes back of `r` times a state, `h r p (p* r s) / (1 + h p* r p)`.
    fn returned<const D: usize>(&self, rs: &Complex<D>) -> Complex<D> {
        let wide = |x: &Complex<2>| x.clone().map(Tensor::unsqueeze::<D>);
        let share = dot(&wide(&self.p), rs);
        wide(&self.carried).map(|plane| plane * share.clone())
    }

    /// The matrices that advance a state, `[d_model, d_state, d_state]`.
    pub fn matrices(&self) -> Tensor<3> {
        let [d_model, d_state] = self.c.dims();
        let units = Tensor::<2>::eye(d_state, &self.c.device()).cast(self.c.dtype());
        let units = units
            .unsqueeze_dim::<3>(1)
            .expand([d_state, d_model, d_state]);
        self.advance(units).permute([1, 2, 0])
    }
}

/// `p* s`: the sum over both numbers of every pair, the last axis, which is kept.
fn dot<const D: usize>(p: &Complex<D>, s: &Complex<D>) -> Tensor<D> {
    let products = p.re.clone() * s.re.clone() + p.im.clone() * s.im.clone();
    products.sum_dim(D - 1) * 2.0
}

fn joined<const D: usize>(x: Complex<D>, dim: usize) -> Tensor<D> {
    Tensor::cat(vec![x.re, x.im], dim)
}
