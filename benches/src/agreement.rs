use std::fmt;

use burn::tensor::Tensor;

/// The largest difference allowed between two tensors, relative to the largest value of the
/// reference. Sums in another order make up to 1.5e-6 in the quick workloads, gradients included.
pub const TOLERANCE: f64 = 2e-5;

/// How well two computations agree so far.
#[derive(Debug, Clone, Copy, Default)]
pub struct Agreement {
    /// The largest relative difference seen.
    pub error: f64,
}

/// Two computations that should agree do not.
#[derive(Debug)]
pub struct Disagreement {
    /// What was compared.
    pub what: String,
    /// The relative difference; NaN where one of them is.
    pub error: f64,
}

impl fmt::Display for Disagreement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, error } = self;
        write!(
            f,
            "{what} differs from the reference by {error:.1e}, allowed is {TOLERANCE:.0e}"
        )
    }
}

impl std::error::Error for Disagreement {}

impl Agreement {
    /// Compares one tensor with its reference.
    ///
    /// # Errors
    ///
    /// When the shapes differ, a value is not finite, or a difference exceeds [`TOLERANCE`].
    pub fn compare<const D: usize>(
        self,
        what: &str,
        ours: Tensor<D>,
        reference: Tensor<D>,
    ) -> Result<Self, Disagreement> {
        let same_shape = ours.dims() == reference.dims();
        let values = |x: Tensor<D>| {
            x.into_data()
                .convert::<f64>()
                .try_into_vec::<f64>()
                .unwrap_or_default()
        };
        let (ours, reference) = (values(ours), values(reference));
        let scale = reference
            .iter()
            .fold(f64::MIN_POSITIVE, |max, x| max.max(x.abs()));
        // A sum of all differences is NaN when one is, which `max` alone would overlook.
        let differences = ours.iter().zip(&reference).map(|(x, y)| (x - y).abs());
        let (max, sum) = differences.fold((0.0, 0.0), |(max, sum), d| (f64::max(max, d), sum + d));
        let error = if same_shape && f64::is_finite(sum) {
            max / scale
        } else {
            f64::NAN
        };
        if error <= TOLERANCE {
            Ok(Self {
                error: self.error.max(error),
            })
        } else {
            Err(Disagreement {
                what: what.to_owned(),
                error,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compare(ours: [f32; 2], reference: [f32; 2]) -> Result<Agreement, Disagreement> {
        let device = Default::default();
        let tensor = |x: [f32; 2]| Tensor::<1>::from_data(x, &device);
        Agreement::default().compare("x", tensor(ours), tensor(reference))
    }

    #[test]
    fn differences_count_relative_to_the_largest_value() {
        assert!(compare([0.001, 100.0], [0.0, 100.0]).is_ok_and(|a| (a.error - 1e-5).abs() < 1e-9));
        assert!(compare([0.02, 100.0], [0.0, 100.0]).is_err());
        assert!(compare([1e-6, 0.0], [0.0, 0.0]).is_err());
    }

    #[test]
    fn nan_and_infinity_never_agree() {
        assert!(compare([f32::NAN, 1.0], [0.0, 1.0]).is_err());
        assert!(compare([f32::NAN, 1.0], [f32::NAN, 1.0]).is_err());
        assert!(compare([1.0, f32::INFINITY], [1.0, f32::INFINITY]).is_err());
    }
}
