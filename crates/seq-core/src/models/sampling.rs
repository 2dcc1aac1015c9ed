use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Picks a symbol from logits.
///
/// By default it draws from the distribution as it is. `temperature` sharpens or flattens it, then
/// `top_k` and `top_p` cut off what is unlikely, in this order.
///
/// ```
/// use seq_core::models::Sampler;
///
/// let logits = [1.0, 4.0, 3.9, -2.0];
/// assert_eq!(Sampler::greedy().sample(&logits), 1);
/// let mut sampler = Sampler::new(42).with_temperature(0.7).with_top_k(2);
/// assert!([1, 2].contains(&sampler.sample(&logits)));
/// ```
#[derive(Debug)]
pub struct Sampler {
    temperature: f64,
    top_k: usize,
    top_p: f64,
    rng: StdRng,
}

impl Sampler {
    /// Draws in proportion to the probabilities. The same seed gives the same symbols.
    pub fn new(seed: u64) -> Self {
        Self {
            temperature: 1.0,
            top_k: usize::MAX,
            top_p: 1.0,
            rng: StdRng::seed_from_u64(seed),
        }
    }

    /// Always picks the likeliest symbol, of equals the first.
    pub fn greedy() -> Self {
        Self::new(0).with_temperature(0.0)
    }

    /// Divides the logits by this: below 1 makes likely symbols likelier, 0 is greedy.
    ///
    /// # Panics
    ///
    /// When it is negative, infinite or NaN.
    pub fn with_temperature(self, temperature: f64) -> Self {
        let valid = temperature.is_finite() && temperature >= 0.0;
        assert!(
            valid,
            "temperature must be finite and at least 0, is {temperature}"
        );
        Self {
            temperature,
            ..self
        }
    }

    /// Draws from the `k` likeliest symbols only (Fan et al. 2018).
    ///
    /// # Panics
    ///
    /// When `k` is zero.
    pub fn with_top_k(self, k: usize) -> Self {
        assert!(k > 0, "top_k must be at least 1");
        Self { top_k: k, ..self }
    }

    /// Draws from the fewest symbols that together have the probability `p` (nucleus sampling,
    /// Holtzman et al. 2020).
    ///
    /// # Panics
    ///
    /// When `p` is not in `(0, 1]`.
    pub fn with_top_p(self, p: f64) -> Self {
        assert!(p > 0.0 && p <= 1.0, "top_p must be in (0, 1], is {p}");
        Self { top_p: p, ..self }
    }

    /// The index of the symbol picked. A NaN is never picked.
    ///
    /// # Panics
    ///
    /// When there are no logits, or none but NaN.
    pub fn sample(&mut self, logits: &[f32]) -> u32 {
        let mut ids: Vec<usize> = (0..logits.len())
            .filter(|&id| !logits[id].is_nan())
            .collect();
        assert!(
            !ids.is_empty(),
            "no symbol to pick from {} logits",
            logits.len()
        );
        ids.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        if self.temperature == 0.0 {
            return ids[0] as u32;
        }
        ids.truncate(self.top_k);

        let highest = logits[ids[0]];
        let weight = |&id: &usize| match logits[id] {
            // Also where the highest is infinite and the difference would be NaN.
            logit if logit == highest => 1.0,
            logit => (f64::from(logit - highest) / self.temperature).exp(),
        };
        let mut sums: Vec<f64> = ids.iter().map(weight).collect();
        for i in 1..sums.len() {
            sums[i] += sums[i - 1];
        }
        let nucleus = self.top_p * sums[sums.len() - 1];
        let last = sums
            .partition_point(|&sum| sum < nucleus)
            .min(sums.len() - 1);
        let drawn = self.rng.random::<f64>() * sums[last];
        ids[sums[..last].partition_point(|&sum| sum <= drawn)] as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each of the symbols is drawn in 20,000 draws.
    fn frequencies(mut sampler: Sampler, logits: &[f32]) -> Vec<f64> {
        const DRAWS: usize = 20_000;
        let mut counts = vec![0.0; logits.len()];
        for _ in 0..DRAWS {
            counts[sampler.sample(logits) as usize] += 1.0 / DRAWS as f64;
        }
        counts
    }

    fn logits(probabilities: &[f32]) -> Vec<f32> {
        probabilities.iter().map(|p| p.ln() + 3.0).collect()
    }

    /// Six standard deviations of a frequency near a half are 0.021.
    fn assert_near(found: &[f64], expected: &[f64]) {
        let near = |(found, expected): (&f64, &f64)| (found - expected).abs() < 0.021;
        assert!(
            found.iter().zip(expected).all(near),
            "{found:?}, expected {expected:?}"
        );
    }

    #[test]
    fn symbols_come_as_often_as_they_are_likely() {
        let p = [0.5, 0.1, 0.0, 0.4];
        let found = frequencies(Sampler::new(3), &logits(&p));
        assert_near(&found, &[0.5, 0.1, 0.0, 0.4]);
        assert_eq!(found[2], 0.0);
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        let logits = logits(&[0.8, 0.2]);
        assert_near(
            &frequencies(Sampler::new(3).with_temperature(0.5), &logits),
            &[16.0 / 17.0, 1.0 / 17.0],
        );
        assert_near(
            &frequencies(Sampler::new(3).with_temperature(2.0), &logits),
            &[2.0 / 3.0, 1.0 / 3.0],
        );
        let cold = frequencies(Sampler::new(3).with_temperature(1e-300), &logits);
        assert_eq!(cold[1], 0.0);
    }

    #[test]
    fn top_k_and_top_p_cut_the_tail() {
        let logits = logits(&[0.1, 0.4, 0.3, 0.2]);
        let top_k = frequencies(Sampler::new(3).with_top_k(2), &logits);
        assert_near(&top_k, &[0.0, 4.0 / 7.0, 3.0 / 7.0, 0.0]);
        assert_eq!((top_k[0], top_k[3]), (0.0, 0.0));
        let top_p = frequencies(Sampler::new(3).with_top_p(0.75), &logits);
        assert_near(&top_p, &[0.0, 4.0 / 9.0, 3.0 / 9.0, 2.0 / 9.0]);
        assert_eq!(top_p[0], 0.0);
        // The likeliest symbol stays, however small p is; a k beyond the symbols cuts nothing.
        assert!(frequencies(Sampler::new(3).with_top_p(1e-9), &logits)[1] > 0.999);
        assert_near(
            &frequencies(Sampler::new(3).with_top_k(99), &logits),
            &[0.1, 0.4, 0.3, 0.2],
        );
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(Sampler::greedy().sample(&[1.0, 2.0, 2.0]), 1);
        assert_eq!(Sampler::new(9).with_top_k(1).sample(&[1.0, 2.0, 2.0]), 1);
    }

    #[test]
    fn a_seed_repeats_itself() {
        let draw = |seed| {
            let mut sampler = Sampler::new(seed);
            (0..50)
                .map(|_| sampler.sample(&[0.0; 100]))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn infinite_and_nan_logits_do_no_harm() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let found = frequencies(Sampler::new(3), &[inf, nan, inf, 5.0, -inf]);
        assert_near(&found, &[0.5, 0.0, 0.5, 0.0, 0.0]);
        assert_eq!(found[1] + found[3] + found[4], 0.0);
        assert!(Sampler::new(3).sample(&[nan, -inf]) == 1);
    }

    #[test]
    #[should_panic(expected = "no symbol to pick from 2 logits")]
    fn there_is_nothing_to_pick_from_nan() {
        Sampler::greedy().sample(&[f32::NAN, f32::NAN]);
    }
}
