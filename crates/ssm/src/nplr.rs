use nalgebra::{Complex, DMatrix, DVector, SymmetricEigen};

/// HiPPO-LegS as a normal matrix plus one of rank 1 (Gu et al. 2021,
/// <https://arxiv.org/abs/2111.00396>, theorem 1), in the basis where the normal part is diagonal:
///
/// ```text
/// A = V (diag(lambda) - p p*) V*,   B = V b
/// ```
///
/// with a unitary V. Where `A + P P^T`, `P_n = sqrt(n + 1/2)`, is -1/2 plus a skew-symmetric matrix, -1/2
/// plus i times the eigenvalues of a Hermitian one are those of the normal part. It is HiPPO-N, with
/// which S4D-LegS and S5 begin.
///
/// ```
/// use seq_ssm::Nplr;
///
/// let legs = Nplr::legs(4);
/// assert_eq!(legs.v.shape(), (4, 4));
/// // Conjugate pairs: the first and the last, and so on inwards.
/// assert!((legs.lambda[0] - legs.lambda[3].conj()).norm() < 1e-12);
/// assert_eq!(legs.lambda[3].re, -0.5);
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Nplr {
    /// The eigenvalues of the normal part, `[d_state]`, by ascending imaginary part.
    pub lambda: DVector<Complex<f64>>,
    /// The low-rank part in the basis of the eigenvectors, `[d_state]`.
    pub p: DVector<Complex<f64>>,
    /// What the input writes to the state, in that basis, `[d_state]`.
    pub b: DVector<Complex<f64>>,
    /// The eigenvectors, `[d_state, d_state]`, a column each.
    pub v: DMatrix<Complex<f64>>,
}

impl Nplr {
    /// HiPPO-LegS with `d_state` states.
    ///
    /// # Panics
    ///
    /// When there is no state.
    pub fn legs(d_state: usize) -> Self {
        assert!(d_state > 0, "a system needs at least one state");
        let root = |n: usize| (2.0 * n as f64 + 1.0).sqrt();
        // -i times the skew-symmetric part, of which the lower triangle is -root(n) root(k) / 2.
        let hermitian = DMatrix::from_fn(d_state, d_state, |n, k| {
            let skew = match n.cmp(&k) {
                std::cmp::Ordering::Less => root(n) * root(k) / 2.0,
                std::cmp::Ordering::Equal => 0.0,
                std::cmp::Ordering::Greater => -root(n) * root(k) / 2.0,
            };
            Complex::new(0.0, -skew)
        });
        let eigen = SymmetricEigen::new(hermitian);
        let mut order: Vec<usize> = (0..d_state).collect();
        order.sort_by(|&i, &j| eigen.eigenvalues[i].total_cmp(&eigen.eigenvalues[j]));
        let v = eigen.eigenvectors.select_columns(&order);
        let project = |f: fn(f64) -> f64| {
            let column = |n, _| Complex::new(f(n as f64), 0.0);
            v.adjoint() * DVector::from_fn(d_state, column)
        };
        let lambda = order
            .iter()
            .map(|&i| Complex::new(-0.5, eigen.eigenvalues[i]));
        Self {
            lambda: DVector::from_iterator(d_state, lambda),
            p: project(|n| (n + 0.5).sqrt()),
            b: project(|n| (2.0 * n + 1.0).sqrt()),
            v,
        }
    }

    /// The half with positive imaginary parts, by which a real system of an even number of states is
    /// known: every other state is the conjugate of one of these.
    ///
    /// # Panics
    ///
    /// When `d_state` is odd.
    pub fn half(&self) -> Self {
        let d_state = self.lambda.len();
        assert!(
            d_state.is_multiple_of(2),
            "only an even number of states are conjugate pairs, there are {d_state}"
        );
        let pairs = d_state / 2;
        let rows = |x: &DVector<Complex<f64>>| x.rows(pairs, pairs).into_owned();
        Self {
            lambda: rows(&self.lambda),
            p: rows(&self.p),
            b: rows(&self.b),
            v: self.v.columns(pairs, pairs).into_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn legs(n: usize, k: usize) -> f64 {
        let root = |n: usize| (2.0 * n as f64 + 1.0).sqrt();
        match n.cmp(&k) {
            std::cmp::Ordering::Less => 0.0,
            std::cmp::Ordering::Equal => -(n as f64 + 1.0),
            std::cmp::Ordering::Greater => -root(n) * root(k),
        }
    }

    #[test]
    fn the_parts_are_legs_again() {
        let mut worst = 0.0f64;
        for d_state in (1..=9).chain([16, 31, 64]) {
            let Nplr { lambda, p, b, v } = Nplr::legs(d_state);
            let a = &v * (DMatrix::from_diagonal(&lambda) - &p * p.adjoint()) * v.adjoint();
            let unit = &v * v.adjoint();
            let b = &v * b;
            for n in 0..d_state {
                for k in 0..d_state {
                    let one = f64::from(u8::from(n == k));
                    let wrong = (a[(n, k)] - legs(n, k)).norm();
                    worst = worst.max(wrong).max((unit[(n, k)] - one).norm());
                }
                worst = worst.max((b[n] - (2.0 * n as f64 + 1.0).sqrt()).norm());
            }
        }
        println!("off by {worst:e}");
        assert!(worst < 1e-10, "off by {worst:e}");
    }

    #[test]
    fn half_of_the_states_stand_for_all() {
        for d_state in [2, 8, 64] {
            let whole = Nplr::legs(d_state);
            let Nplr { lambda, p, b, v } = whole.half();
            // A real vector is twice the real part of what its half stands for.
            let b = (&v * b).map(|b| 2.0 * b.re);
            let p = (&v * p).map(|p| 2.0 * p.re);
            for n in 0..d_state {
                assert!((b[n] - (2.0 * n as f64 + 1.0).sqrt()).abs() < 1e-10);
                assert!((p[n] - (n as f64 + 0.5).sqrt()).abs() < 1e-10);
            }
            assert!(lambda.iter().all(|lambda| lambda.im > 0.0));
        }
    }
}
