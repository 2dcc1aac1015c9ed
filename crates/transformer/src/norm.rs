use burn::nn::{LayerNormConfig, RmsNormConfig};
use burn::tensor::Device;
use seq_core::ConfigError;
use seq_core::blocks::Norm;
use serde::{Deserialize, Serialize};

/// Which norm a layer has, and its epsilon.
///
/// ```
/// use seq_transformer::NormConfig;
///
/// # #[cfg(feature = "ndarray")]
/// let norm = NormConfig::Rms { epsilon: 1e-6 }.init(8, &seq_transformer::device());
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub enum NormConfig {
    /// To mean zero and variance one, then scaled and moved (Ba et al. 2016).
    Layer {
        /// Added to the variance.
        epsilon: f64,
    },
    /// As `Layer`, without the bias that moves.
    LayerWithoutBias {
        /// Added to the variance.
        epsilon: f64,
    },
    /// To a root mean square of one, then scaled (Zhang and Sennrich 2019).
    Rms {
        /// Added to the mean square.
        epsilon: f64,
    },
}

impl NormConfig {
    /// Makes the norm of `width` features.
    pub fn init(&self, width: usize, device: &Device) -> Norm {
        match *self {
            Self::Layer { epsilon } => Norm::from(
                LayerNormConfig::new(width)
                    .with_epsilon(epsilon)
                    .init(device),
            ),
            Self::LayerWithoutBias { epsilon } => {
                let config = LayerNormConfig::new(width).with_epsilon(epsilon);
                Norm::from(config.with_bias(false).init(device))
            }
            Self::Rms { epsilon } => {
                Norm::from(RmsNormConfig::new(width).with_epsilon(epsilon).init(device))
            }
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let (Self::Layer { epsilon } | Self::LayerWithoutBias { epsilon } | Self::Rms { epsilon }) =
            *self;
        ConfigError::bounds([("epsilon", Some(epsilon))])
    }
}
