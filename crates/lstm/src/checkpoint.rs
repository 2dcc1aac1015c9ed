//! Weights under PyTorch's names, from Burn's modules and from Keras' arrays.

use burn::nn;
use burn::tensor::Tensor;
use seq_core::checkpoint::Stored;
use seq_core::recurrent::{
    Activation, CellWeights, ConvertError, FromBurn, Names, PyTorchCell, Recurrent,
};

use crate::config::LstmConfig;
use crate::layer::{Lstm, LstmCell};

/// Beside PyTorch's, the names are `peephole`, and for layer normalisation `norm_input`, `norm_hidden`,
/// `norm_cell` and `norm_cell_bias`.
impl PyTorchCell for LstmCell {
    type Config = LstmConfig;

    fn infer(names: &Names<'_>) -> LstmConfig {
        LstmConfig::new(
            names.size("weight_ih", 1),
            (names.size("weight_ih", 0) / 4).max(1),
        )
        .with_num_layers(names.num_layers())
        .with_bidirectional(names.is_bidirectional())
        .with_bias(names.has("bias_"))
        .with_d_projection(names.has("weight_hr").then(|| names.size("weight_hr", 0)))
        .with_peephole(names.has("peephole"))
        .with_layer_norm(names.has("norm_"))
    }

    fn parameters(&mut self) -> Vec<(&'static str, Stored<'_>)> {
        let mut all = self.weights.parameters();
        let projection = self.weight_hr.as_mut().map(Stored::Matrix);
        let peephole = self.peephole.as_mut().map(Stored::Vector);
        all.extend(projection.map(|param| ("weight_hr", param)));
        all.extend(peephole.map(|param| ("peephole", param)));
        if let Some(norm) = &mut self.cell_norm {
            all.push(("norm_cell", Stored::Vector(&mut norm.gamma)));
            let bias = norm.beta.as_mut().map(Stored::Vector);
            all.extend(bias.map(|bias| ("norm_cell_bias", bias)));
        }
        all
    }
}

impl LstmCell {
    /// From the weights of a Keras `LSTM` layer, as `get_weights()` lists them: `kernel`
    /// `[d_input, 4 * d_hidden]`, `recurrent_kernel` `[d_hidden, 4 * d_hidden]` and, with
    /// `use_bias`, `bias` `[4 * d_hidden]`. Keras has the gates in the same order as PyTorch.
    ///
    /// Where the layer has other activations than Keras' defaults, or was made before Keras 2.3,
    /// whose `recurrent_activation` was the hard sigmoid, set them on the cell.
    ///
    /// # Errors
    ///
    /// [`ConvertError::WrongShape`] when the arrays do not fit one another.
    ///
    /// ```
    /// # #[cfg(feature = "ndarray")] {
    /// use burn::tensor::Tensor;
    /// use seq_lstm::{Activation, Lstm, LstmCell};
    ///
    /// let device = seq_lstm::device();
    /// let kernel = Tensor::<2>::ones([3, 8], &device);
    /// let recurrent_kernel = Tensor::<2>::ones([2, 8], &device);
    /// let mut cell = LstmCell::from_keras(kernel, recurrent_kernel, None).unwrap();
    /// cell.gate_activation = Activation::HardSigmoid;
    /// let lstm = Lstm::from(cell);
    /// # }
    /// ```
    pub fn from_keras(
        kernel: Tensor<2>,
        recurrent_kernel: Tensor<2>,
        bias: Option<Tensor<1>>,
    ) -> Result<Self, ConvertError> {
        let order = [0, 1, 2, 3];
        let weights = CellWeights::from_keras(&[4], &order, kernel, recurrent_kernel, bias, None)?;
        Ok(Self::of(weights))
    }

    /// Everything beside the weights at its default.
    fn of(weights: CellWeights) -> Self {
        let config = LstmConfig::new(weights.d_input(), weights.d_hidden());
        let cell = config.init_cell(&weights.weight_ih.device());
        Self { weights, ..cell }
    }
}

/// Takes over weights, activations, `reverse`, and `clip` as [`cell_clip`](LstmConfig::cell_clip).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::nn::LstmConfig;
/// use seq_lstm::{ConvertError, Lstm};
///
/// let device = seq_lstm::device();
/// let lstm = Lstm::from_burn(LstmConfig::new(3, 4, true).init(&device)).unwrap();
///
/// let coupled = LstmConfig::new(3, 4, true).with_input_forget(true).init(&device);
/// let error = Lstm::from_burn(coupled).unwrap_err();
/// assert!(matches!(error, ConvertError::CoupledGates));
/// # }
/// ```
impl FromBurn<nn::Lstm> for LstmCell {
    fn from_burn(lstm: nn::Lstm) -> Result<Lstm, ConvertError> {
        let reverse = lstm.reverse;
        Ok(Recurrent {
            reverse,
            ..from_burn(lstm, "")?.into()
        })
    }
}

/// As the conversion of [`nn::Lstm`], for both directions.
impl FromBurn<nn::BiLstm> for LstmCell {
    fn from_burn(lstm: nn::BiLstm) -> Result<Lstm, ConvertError> {
        let forward = from_burn(lstm.forward, "forward.")?;
        Recurrent::from_directions(forward, from_burn(lstm.reverse, "reverse.")?)
    }
}

fn from_burn(lstm: nn::Lstm, prefix: &str) -> Result<LstmCell, ConvertError> {
    let forget_gate = match lstm.forget_gate {
        Some(gate) if !lstm.input_forget => gate,
        _ => return Err(ConvertError::CoupledGates),
    };
    let gates = [
        ("input_gate", lstm.input_gate),
        ("forget_gate", forget_gate),
        ("cell_gate", lstm.cell_gate),
        ("output_gate", lstm.output_gate),
    ];
    Ok(LstmCell {
        cell_clip: lstm.clip,
        gate_activation: Activation::from_burn("gate_activation", lstm.gate_activation)?,
        cell_activation: Activation::from_burn("cell_activation", lstm.cell_activation)?,
        hidden_activation: Activation::from_burn("hidden_activation", lstm.hidden_activation)?,
        ..LstmCell::of(CellWeights::from_burn(&[4], &gates, prefix)?)
    })
}
