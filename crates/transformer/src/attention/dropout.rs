/// Attention weights that are dropped while training (Vaswani et al. 2017, section 5.4): each with the same
/// probability, the others made larger by what is missing.
///
/// Which ones are dropped is a function of the seed and of a weight's place, so that the backward pass makes the
/// choice again instead of storing it.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_transformer::{Attention, AttentionDropout};
///
/// let x = Tensor::<4>::random([1, 6, 2, 4], Distribution::Default, &seq_transformer::device());
/// let dropped = |seed| {
///     let dropout = Some(AttentionDropout { prob: 0.5, seed });
///     let attention = Attention { dropout, ..Attention::new(x.clone(), x.clone(), x.clone()) };
///     attention.run().into_data()
/// };
/// assert_eq!(dropped(1), dropped(1));
/// assert_ne!(dropped(1), dropped(2));
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionDropout {
    /// The probability that a weight is dropped, in `[0, 1)`; it is rounded to a multiple of 2^-16.
    pub prob: f64,
    /// One for each call, or each call drops the same places.
    pub seed: u64,
}

impl AttentionDropout {
    /// The choice for the weights of one query, `row` its number among all queries of all heads and rows.
    pub(super) fn row(&self, row: usize) -> DropoutRow {
        let threshold = (self.prob * 65536.0).round() as u32;
        DropoutRow {
            key: mix(self.seed ^ mix(row as u64)),
            threshold,
            kept: 65536.0 / f64::from(65536 - threshold.min(65535)),
        }
    }
}

/// What the weights of one query are multiplied by.
#[derive(Debug, Clone, Copy)]
pub(super) struct DropoutRow {
    key: u64,
    threshold: u32,
    kept: f64,
}

impl DropoutRow {
    /// Puts the factors of the weights of the keys `first..` to `factors`.
    pub fn fill<R: Copy>(
        &self,
        first: usize,
        factors: &mut [R],
        zero: R,
        number: impl Fn(f64) -> R,
    ) {
        let kept = number(self.kept);
        let mut four = None;
        for (j, factor) in (first..).zip(factors) {
            // Sixteen bits a key out of one number for four.
            let bits = match four {
                Some((place, bits)) if place == j / 4 => bits,
                _ => mix(self.key.wrapping_add((j / 4) as u64)),
            };
            four = Some((j / 4, bits));
            let drawn = (bits >> (16 * (j % 4))) as u32 & 0xffff;
            *factor = if drawn < self.threshold { zero } else { kept };
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014) after one step of its sequence.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::AttentionDropout;

    #[test]
    fn as_many_are_dropped_as_asked_and_the_place_of_a_cut_changes_nothing() {
        let dropout = AttentionDropout { prob: 0.3, seed: 5 };
        let mut all = Vec::new();
        for row in 0..200 {
            let mut factors = [0.0; 500];
            dropout.row(row).fill(0, &mut factors, 0.0, |x| x);
            let mut part = [0.0; 123];
            dropout.row(row).fill(77, &mut part, 0.0, |x| x);
            assert_eq!(part, factors[77..200]);
            all.extend(factors);
        }
        let dropped = all.iter().filter(|&&factor| factor == 0.0).count() as f64 / all.len() as f64;
        // Five standard deviations of 100,000 draws.
        assert!(
            (dropped - 0.3).abs() < 5.0 * (0.21_f64 / 1e5).sqrt(),
            "{dropped}"
        );
        let mean = all.iter().sum::<f64>() / all.len() as f64;
        assert!((mean - 1.0).abs() < 0.02, "{mean}");
    }
}
