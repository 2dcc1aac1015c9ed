use std::f64::consts::PI;

use burn::config::Config;
use seq_core::ConfigError;
use serde::{Deserialize, Serialize};

use super::Rotary;

/// Configuration of rotary positions, [`Rotary`], made with [`init`](RotaryConfig::init).
///
/// ```
/// use seq_transformer::{RotaryConfig, RotaryScaling};
///
/// // As in Llama 3.1.
/// let rotary = RotaryConfig::new(128)
///     .with_base(500_000.0)
///     .with_scaling(Some(RotaryScaling::Llama3 {
///         factor: 8.0,
///         low_freq_factor: 1.0,
///         high_freq_factor: 4.0,
///         original_max_positions: 8192,
///     }))
///     .init();
/// assert_eq!(rotary.frequencies(1).len(), 64);
/// ```
#[derive(Config, Debug, PartialEq)]
pub struct RotaryConfig {
    /// The width of a head.
    pub d_head: usize,
    /// Pair i turns by `base^(-2 i / d_rotary)` radians a position; above 1. The default is the paper's.
    #[config(default = 10000.0)]
    pub base: f64,
    /// How many dimensions of a head turn, the first ones; even, by default all.
    pub d_rotary: Option<usize>,
    /// Whether neighbours are a pair, `2 i` and `2 i + 1`, as in the paper, in GPT-J and in Llama's own
    /// files, and not `i` and `i + d_rotary / 2`, as in Hugging Face's checkpoints.
    #[config(default = false)]
    pub interleaved: bool,
    /// How the angles are changed for sequences longer than those of the training; by default not at all.
    pub scaling: Option<RotaryScaling>,
}

/// How rotary positions reach beyond the sequences of the training, under the names of Hugging Face's
/// `rope_type`, but for [`Factors`](RotaryScaling::Factors); its `modeling_rope_utils.py` is the reference code.
///
/// Factors are positive; they say how many times as long sequences become.
///
/// ```
/// use seq_transformer::{RotaryConfig, RotaryScaling};
///
/// let config = RotaryConfig::new(64).with_scaling(Some(RotaryScaling::yarn(4.0, 32768)));
/// assert!((config.init().attention_factor() - 1.1386).abs() < 1e-4);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum RotaryScaling {
    /// All positions are divided by the factor (Chen et al. 2023, <https://arxiv.org/abs/2306.15595>).
    Linear {
        /// What positions are divided by.
        factor: f64,
    },
    /// The base grows with the sequence, from where that is longer than `max_positions`.
    ///
    /// The length is that of the longest row in a call, the steps before it included, whatever was called
    /// before. So a sequence given in chunks is turned otherwise than in one piece, and keys that were kept
    /// stay as they were turned, as in the reference code. That code also keeps the base of the longest call
    /// until one comes that is shorter than `max_positions`, which here would tie streams to one another.
    DynamicNtk {
        /// How fast the base grows.
        factor: f64,
        /// The length of the sequences of the training.
        max_positions: usize,
    },
    /// Slow pairs are interpolated, fast ones left alone (Peng et al. 2023,
    /// <https://arxiv.org/abs/2309.00071>); [`yarn`](RotaryScaling::yarn) fills in the paper's values.
    Yarn {
        /// What the angles of slow pairs are divided by.
        factor: f64,
        /// The length of the sequences of the training.
        original_max_positions: usize,
        /// What turned vectors are multiplied by; by default `0.1 ln(factor) + 1`.
        attention_factor: Option<f64>,
        /// Pairs that turn at least so often in a sequence of the training are left alone.
        beta_fast: f64,
        /// Pairs that turn at most so often are interpolated in full.
        beta_slow: f64,
        /// With `mscale_all_dim`, and neither zero, the default attention factor is `(0.1 mscale ln(factor) +
        /// 1) / (0.1 mscale_all_dim ln(factor) + 1)`, as in DeepSeek's models.
        mscale: Option<f64>,
        /// See `mscale`.
        mscale_all_dim: Option<f64>,
        /// Whether the bounds between fast and slow pairs are rounded to whole pairs, outwards.
        truncate: bool,
    },
    /// That of Llama 3.1: pairs with long waves are interpolated, those with short ones left alone.
    Llama3 {
        /// What the angles of pairs with long waves are divided by.
        factor: f64,
        /// Waves longer than `original_max_positions` over this are long.
        low_freq_factor: f64,
        /// Waves shorter than `original_max_positions` over this are short; above `low_freq_factor`.
        high_freq_factor: f64,
        /// The length of the sequences of the training.
        original_max_positions: usize,
    },
    /// The angle of each pair is divided by a factor of its own, as llama.cpp's files have it for Llama 3.
    Factors {
        /// One for each of the `d_rotary / 2` pairs.
        factors: Vec<f64>,
    },
}

impl RotaryScaling {
    /// [`Yarn`](RotaryScaling::Yarn) with the values of its paper: between 32 turns and 1, in whole pairs,
    /// the attention factor by the factor alone.
    pub fn yarn(factor: f64, original_max_positions: usize) -> Self {
        Self::Yarn {
            factor,
            original_max_positions,
            attention_factor: None,
            beta_fast: 32.0,
            beta_slow: 1.0,
            mscale: None,
            mscale_all_dim: None,
            truncate: true,
        }
    }
}

impl RotaryConfig {
    /// How many dimensions turn.
    pub(super) fn rotary_width(&self) -> usize {
        self.d_rotary.unwrap_or(self.d_head)
    }

    /// Makes sure that there is a rotation of these options.
    ///
    /// # Errors
    ///
    /// When an option has a value that it cannot have, naming it.
    ///
    /// ```
    /// use seq_transformer::RotaryConfig;
    ///
    /// let error = RotaryConfig::new(8).with_d_rotary(Some(10)).validate().unwrap_err();
    /// assert_eq!(error.to_string(), "d_rotary must be even, from 2 to d_head, is 10");
    /// ```
    pub fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::sizes([("d_head", self.d_head)])?;
        let width = self.rotary_width();
        let fits = width >= 2 && width <= self.d_head && width.is_multiple_of(2);
        ConfigError::unless(fits, "d_rotary", "even, from 2 to d_head", width)?;
        let fits = self.base > 1.0 && self.base.is_finite();
        ConfigError::unless(fits, "base", "above 1 and finite", self.base)?;
        match self.scaling {
            None => Ok(()),
            Some(RotaryScaling::Linear { factor }) => factors([("factor", factor)]),
            Some(RotaryScaling::DynamicNtk {
                factor,
                max_positions,
            }) => {
                ConfigError::sizes([("max_positions", max_positions)])?;
                let expected = "at least 4 with dynamic scaling";
                ConfigError::unless(width >= 4, "d_rotary", expected, width)?;
                factors([("factor", factor)])
            }
            Some(RotaryScaling::Yarn {
                factor,
                original_max_positions,
                attention_factor,
                beta_fast,
                beta_slow,
                mscale,
                mscale_all_dim,
                truncate: _,
            }) => {
                ConfigError::sizes([("original_max_positions", original_max_positions)])?;
                factors([
                    ("factor", factor),
                    ("attention_factor", attention_factor.unwrap_or(1.0)),
                    ("beta_slow", beta_slow),
                ])?;
                let fits = beta_fast >= beta_slow && beta_fast.is_finite();
                ConfigError::unless(fits, "beta_fast", "at least beta_slow", beta_fast)?;
                let fits = |mscale: Option<f64>| mscale.is_none_or(|x| x >= 0.0 && x.is_finite());
                for (option, mscale) in [("mscale", mscale), ("mscale_all_dim", mscale_all_dim)] {
                    let found = mscale.unwrap_or_default();
                    ConfigError::unless(fits(mscale), option, "finite and not negative", found)?;
                }
                Ok(())
            }
            Some(RotaryScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            }) => {
                ConfigError::sizes([("original_max_positions", original_max_positions)])?;
                factors([("factor", factor), ("low_freq_factor", low_freq_factor)])?;
                let fits = high_freq_factor > low_freq_factor && high_freq_factor.is_finite();
                let expected = "above low_freq_factor";
                ConfigError::unless(fits, "high_freq_factor", expected, high_freq_factor)
            }
            Some(RotaryScaling::Factors { factors: ref all }) => {
                let fits = all.len() == width / 2;
                ConfigError::unless(fits, "factors", "as many as pairs that turn", all.len())?;
                factors(all.iter().map(|&factor| ("factors", factor)))
            }
        }
    }

    /// Makes the rotation, which has no parameters and serves every device.
    ///
    /// # Panics
    ///
    /// When [`validate`](Self::validate) finds an error.
    pub fn init(&self) -> Rotary {
        self.validate().unwrap_or_else(|error| panic!("{error}"));
        Rotary::new(self.clone())
    }

    /// The angle of every pair at position 1, in sequences of so many steps.
    pub(super) fn frequencies(&self, length: usize) -> Vec<f64> {
        let width = self.rotary_width() as f64;
        let powers = |base: f64| {
            let pairs = 0..self.rotary_width() / 2;
            pairs.map(move |pair| base.powf(-2.0 * pair as f64 / width))
        };
        let plain = powers(self.base);
        match self.scaling {
            None => plain.collect(),
            Some(RotaryScaling::Linear { factor }) => plain.map(|angle| angle / factor).collect(),
            Some(RotaryScaling::DynamicNtk {
                factor,
                max_positions,
            }) => {
                let longer = length.max(max_positions) as f64 / max_positions as f64;
                let growth = (factor * longer - (factor - 1.0)).powf(width / (width - 2.0));
                powers(self.base * growth).collect()
            }
            Some(RotaryScaling::Yarn {
                factor,
                original_max_positions,
                beta_fast,
                beta_slow,
                truncate,
                ..
            }) => {
                // The pair, as a fraction, that turns so often in a sequence of the training.
                let pair = |turns: f64| {
                    let wave = original_max_positions as f64 / (turns * 2.0 * PI);
                    width * wave.ln() / (2.0 * self.base.ln())
                };
                let (low, high) = match truncate {
                    true => (pair(beta_fast).floor(), pair(beta_slow).ceil()),
                    false => (pair(beta_fast), pair(beta_slow)),
                };
                let (low, high) = (low.max(0.0), high.min(width - 1.0));
                // As the reference code does where the ramp would have no length.
                let high = if low == high { high + 0.001 } else { high };
                plain
                    .enumerate()
                    .map(|(pair, angle)| {
                        let slow = ((pair as f64 - low) / (high - low)).clamp(0.0, 1.0);
                        angle / factor * slow + angle * (1.0 - slow)
                    })
                    .collect()
            }
            Some(RotaryScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_positions,
            }) => plain
                .map(|angle| {
                    let waves = original_max_positions as f64 * angle / (2.0 * PI);
                    let fast = (waves - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let fast = fast.clamp(0.0, 1.0);
                    angle / factor * (1.0 - fast) + angle * fast
                })
                .collect(),
            Some(RotaryScaling::Factors { ref factors }) => {
                let angles = plain.zip(factors);
                angles.map(|(angle, factor)| angle / factor).collect()
            }
        }
    }

    /// What turned vectors are multiplied by.
    pub(super) fn attention_factor(&self) -> f64 {
        let Some(RotaryScaling::Yarn {
            factor,
            attention_factor,
            mscale,
            mscale_all_dim,
            ..
        }) = self.scaling
        else {
            return 1.0;
        };
        let by = |mscale: f64| match factor <= 1.0 {
            true => 1.0,
            false => 0.1 * mscale * factor.ln() + 1.0,
        };
        let given = |mscale: Option<f64>| mscale.filter(|&mscale| mscale != 0.0);
        attention_factor.unwrap_or_else(|| match (given(mscale), given(mscale_all_dim)) {
            (Some(mscale), Some(all)) => by(mscale) / by(all),
            _ => by(1.0),
        })
    }
}

/// An error for the first factor that is not positive and finite.
fn factors(factors: impl IntoIterator<Item = (&'static str, f64)>) -> Result<(), ConfigError> {
    factors.into_iter().try_for_each(|(option, factor)| {
        let fits = factor > 0.0 && factor.is_finite();
        ConfigError::unless(fits, option, "positive and finite", factor)
    })
}
