//! Weights under PyTorch's names, and from Burn's modules.

use burn::nn;
use burn::nn::activation::Activation as BurnActivation;
use seq_core::checkpoint::Stored;
use seq_core::recurrent::{CellWeights, ConvertError, FromBurn, Names, PyTorchCell, Recurrent};

use crate::config::RnnConfig;
use crate::layer::{Rnn, RnnCell};

/// Beside PyTorch's, the names are `weight_hy` `[d_hidden, d_output]` and `bias_hy` for the output map,
/// and `norm_input` and `norm_hidden` for layer normalisation. Independent units have a `weight_hh` of
/// one row. The activation is not in the file: give one other than tanh with
/// [`Rnn::init_from_checkpoint`](crate::Rnn::init_from_checkpoint).
impl PyTorchCell for RnnCell {
    type Config = RnnConfig;

    fn infer(names: &Names<'_>) -> RnnConfig {
        let d_hidden = names.size("weight_ih", 0);
        let elementwise = names.size("weight_hh", 0) == 1 && d_hidden > 1;
        let d_output = names.has("weight_hy").then(|| names.size("weight_hy", 1));
        RnnConfig::new(names.size("weight_ih", 1), d_hidden)
            .with_num_layers(names.num_layers())
            .with_bidirectional(names.is_bidirectional())
            .with_bias(names.has("bias_"))
            .with_independent(elementwise)
            .with_layer_norm(names.has("norm_"))
            .with_d_output(d_output)
    }

    fn parameters(&mut self) -> Vec<(&'static str, Stored<'_>)> {
        let mut all = self.weights.parameters();
        if let Some(output) = &mut self.output {
            all.push(("weight_hy", Stored::Matrix(&mut output.weight)));
            let bias = output.bias.as_mut().map(Stored::Vector);
            all.extend(bias.map(|bias| ("bias_hy", bias)));
        }
        all
    }
}

/// Takes over weights, the activation, `reverse`, and `clip` as
/// [`hidden_clip`](RnnConfig::hidden_clip).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::nn::RnnConfig;
/// use seq_rnn::Rnn;
///
/// let device = seq_rnn::device();
/// let rnn = Rnn::from_burn(RnnConfig::new(3, 4, true).init(&device)).unwrap();
/// # }
/// ```
impl FromBurn<nn::Rnn> for RnnCell {
    fn from_burn(rnn: nn::Rnn) -> Result<Rnn, ConvertError> {
        let reverse = rnn.reverse;
        Ok(Recurrent {
            reverse,
            ..from_burn(rnn, "")?.into()
        })
    }
}

/// As the conversion of [`nn::Rnn`], for both directions.
impl FromBurn<nn::BiRnn> for RnnCell {
    fn from_burn(rnn: nn::BiRnn) -> Result<Rnn, ConvertError> {
        let forward = from_burn(rnn.forward, "forward.")?;
        Recurrent::from_directions(forward, from_burn(rnn.reverse, "reverse.")?)
    }
}

fn from_burn(rnn: nn::Rnn, prefix: &str) -> Result<RnnCell, ConvertError> {
    if matches!(
        rnn.hidden_activation,
        BurnActivation::PRelu(_) | BurnActivation::SwiGlu(_)
    ) {
        return Err(ConvertError::WeightedActivation {
            role: "hidden_activation",
            found: format!("{:?}", rnn.hidden_activation),
        });
    }
    let weights = CellWeights::from_burn(&[1], &[("gate", rnn.gate)], prefix)?;
    let config = RnnConfig::new(weights.d_input(), weights.d_hidden());
    let cell = config.init_cell(&weights.weight_ih.device());
    Ok(RnnCell {
        weights,
        activation: rnn.hidden_activation,
        hidden_clip: rnn.clip,
        ..cell
    })
}
