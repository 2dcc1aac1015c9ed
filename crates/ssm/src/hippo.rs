use burn::tensor::{Tensor, TensorCreationOptions, TensorData};
use nalgebra::DMatrix;
use serde::{Deserialize, Serialize};

/// Systems `s' = A s + B x` whose states are the coefficients of the best approximation of the inputs so far
/// by a basis of functions (HiPPO, Gu et al. 2020, <https://arxiv.org/abs/2008.07669>), as the code of S4
/// has them, <https://github.com/state-spaces/s4>.
///
/// ```
/// use seq_ssm::Hippo;
///
/// # #[cfg(feature = "ndarray")] {
/// let (a, b) = Hippo::LegS.tensors(8, &seq_ssm::device());
/// assert_eq!((a.dims(), b.dims()), ([8, 8], [8, 1]));
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hippo {
    /// Legendre polynomials over the whole past, scaled to it. S4 uses it without the scale, where the past
    /// is weighed exponentially (theorem 2, without 1 / t).
    LegS,
    /// Legendre polynomials over a window that slides. A and B are half of the paper's, as in S4's code.
    LegT,
    /// Sines and cosines over a window that slides, truncated ("How to Train your HiPPO", Gu et al. 2022,
    /// <https://arxiv.org/abs/2206.12037>).
    Fourier,
}

impl Hippo {
    /// A `[d_state, d_state]` and B `[d_state, 1]`. `options` is a `&Device`, or `(&device, dtype)`.
    ///
    /// # Panics
    ///
    /// When there is no state, or for [`Fourier`](Self::Fourier) an odd number of them.
    pub fn tensors(
        self,
        d_state: usize,
        options: impl Into<TensorCreationOptions>,
    ) -> (Tensor<2>, Tensor<2>) {
        let options = options.into();
        let (a, b) = self.matrices(d_state);
        let tensor = |matrix: DMatrix<f64>| {
            let shape = [matrix.nrows(), matrix.ncols()];
            // nalgebra keeps columns.
            let rows = matrix.transpose().as_slice().to_vec();
            Tensor::from_data(TensorData::new(rows, shape), options.clone())
        };
        (tensor(a), tensor(b))
    }

    pub(crate) fn matrices(self, d_state: usize) -> (DMatrix<f64>, DMatrix<f64>) {
        assert!(d_state > 0, "a system needs at least one state");
        let root = |n: usize| (2.0 * n as f64 + 1.0).sqrt();
        let legendre = |entry: fn(usize, usize) -> f64, scale: f64| {
            let a = |n, k| root(n) * root(k) * entry(n, k);
            let b = |n, _| scale * root(n);
            (
                DMatrix::from_fn(d_state, d_state, a),
                DMatrix::from_fn(d_state, 1, b),
            )
        };
        match self {
            Self::LegS => {
                let entry = |n: usize, k: usize| match n.cmp(&k) {
                    std::cmp::Ordering::Less => 0.0,
                    std::cmp::Ordering::Equal => -(n as f64 + 1.0) / (2.0 * n as f64 + 1.0),
                    std::cmp::Ordering::Greater => -1.0,
                };
                legendre(entry, 1.0)
            }
            Self::LegT => {
                let entry = |n: usize, k: usize| match n < k && (k - n) % 2 == 1 {
                    true => 0.5,
                    false => -0.5,
                };
                legendre(entry, 0.5)
            }
            Self::Fourier => {
                assert!(
                    d_state.is_multiple_of(2),
                    "sines and cosines are pairs of states, there are {d_state}"
                );
                let b = |n: usize| match n {
                    0 => 1.0,
                    n if n.is_multiple_of(2) => 2.0f64.sqrt(),
                    _ => 0.0,
                };
                // Neighbours of one frequency turn into one another.
                let turn = |n: usize, k: usize| match n.is_multiple_of(2) {
                    true if k == n + 1 => -std::f64::consts::PI * (n / 2) as f64,
                    false if k + 1 == n => std::f64::consts::PI * (k / 2) as f64,
                    _ => 0.0,
                };
                let a = |n, k| turn(n, k) - b(n) * b(k);
                (
                    DMatrix::from_fn(d_state, d_state, a),
                    DMatrix::from_fn(d_state, 1, |n, _| b(n)),
                )
            }
        }
    }
}
