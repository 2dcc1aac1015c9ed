//! Weights under PyTorch's names, from Burn's modules and from Keras' arrays; and from one convention
//! of the update gate to the other.

use burn::module::Param;
use burn::nn;
use burn::tensor::{Tensor, s};
use seq_core::checkpoint::Stored;
use seq_core::recurrent::{
    Activation, CellWeights, ConvertError, FromBurn, Names, PyTorchCell, Recurrent, RecurrentCell,
};

use crate::config::{GROUPS, GruConfig, UpdateGate};
use crate::layer::{Gru, GruCell};

/// Beside PyTorch's, the names are `h_0` for a trained state, and for layer normalisation `norm_input`
/// and `norm_hidden` of the gates, `norm_input_1` and `norm_hidden_1` of the candidate.
impl PyTorchCell for GruCell {
    type Config = GruConfig;

    fn infer(names: &Names<'_>) -> GruConfig {
        GruConfig::new(
            names.size("weight_ih", 1),
            (names.size("weight_ih", 0) / 3).max(1),
        )
        .with_num_layers(names.num_layers())
        .with_bidirectional(names.is_bidirectional())
        .with_bias(names.has("bias_"))
        .with_layer_norm(names.has("norm_"))
        .with_trained_state(names.has("h_0"))
    }

    fn parameters(&mut self) -> Vec<(&'static str, Stored<'_>)> {
        let mut all = self.weights.parameters();
        let initial = self.initial_hidden.as_mut().map(Stored::Vector);
        all.extend(initial.map(|param| ("h_0", param)));
        all
    }
}

impl GruCell {
    /// From the weights of a Keras `GRU` layer, as `get_weights()` lists them: `kernel`
    /// `[d_input, 3 * d_hidden]`, `recurrent_kernel` `[d_hidden, 3 * d_hidden]` and, with `use_bias`,
    /// a bias. With `reset_after`, Keras' default, that is `[2, 3 * d_hidden]`: its first row is `bias`
    /// and its second `recurrent_bias`. Without, it is `bias` alone; then set
    /// [`reset_after`](Self::reset_after) of the cell to false.
    ///
    /// Keras has the gates in the order update, reset, candidate; they are put into PyTorch's. Where
    /// the layer has other activations than Keras' defaults, set them on the cell.
    ///
    /// # Errors
    ///
    /// [`ConvertError::WrongShape`] when the arrays do not fit one another.
    ///
    /// ```
    /// # #[cfg(feature = "ndarray")] {
    /// use burn::tensor::Tensor;
    /// use seq_gru::{Gru, GruCell};
    ///
    /// let device = seq_gru::device();
    /// let kernel = Tensor::<2>::ones([3, 6], &device);
    /// let recurrent_kernel = Tensor::<2>::ones([2, 6], &device);
    /// let bias = || Some(Tensor::<1>::zeros([6], &device));
    /// let cell = GruCell::from_keras(kernel, recurrent_kernel, bias(), bias()).unwrap();
    /// let gru = Gru::from(cell);
    /// # }
    /// ```
    pub fn from_keras(
        kernel: Tensor<2>,
        recurrent_kernel: Tensor<2>,
        bias: Option<Tensor<1>>,
        recurrent_bias: Option<Tensor<1>>,
    ) -> Result<Self, ConvertError> {
        let order = [1, 0, 2];
        Ok(Self::of(CellWeights::from_keras(
            GROUPS,
            &order,
            kernel,
            recurrent_kernel,
            bias,
            recurrent_bias,
        )?))
    }

    /// Everything beside the weights at its default.
    fn of(weights: CellWeights) -> Self {
        let config = GruConfig::new(weights.d_input(), weights.d_hidden());
        let cell = config.init_cell(&weights.weight_ih.device());
        Self { weights, ..cell }
    }

    /// The same function with its update gate in the other convention: everything that enters the
    /// gate changes its sign, as `sigmoid(-x) = 1 - sigmoid(x)`.
    ///
    /// # Errors
    ///
    /// [`ConvertError::Asymmetric`] when that does not hold of the gates' activation.
    ///
    /// ```
    /// # #[cfg(feature = "ndarray")] {
    /// use seq_gru::{GruConfig, UpdateGate};
    ///
    /// let cell = GruConfig::new(3, 4).init_cell(&seq_gru::device());
    /// let same = cell.into_update_gate(UpdateGate::Write).unwrap();
    /// assert_eq!(same.update_gate, UpdateGate::Write);
    /// # }
    /// ```
    pub fn into_update_gate(mut self, update_gate: UpdateGate) -> Result<Self, ConvertError> {
        if self.update_gate == update_gate {
            return Ok(self);
        }
        if !matches!(
            self.gate_activation,
            Activation::Sigmoid | Activation::HardSigmoid
        ) {
            let activation = self.gate_activation;
            return Err(ConvertError::Asymmetric { activation });
        }
        self.update_gate = update_gate;
        let hidden = self.d_hidden();
        let rows = hidden..2 * hidden;
        let weights = &mut self.weights;
        // A normalised product keeps its weights and changes its scale, as the mean is over both gates.
        match &mut weights.norm {
            Some(norm) => {
                for norm in [&mut norm.input[0], &mut norm.hidden[0]] {
                    negate(&mut norm.gamma, rows.clone());
                }
            }
            None => {
                negate(&mut weights.weight_ih, rows.clone());
                negate(&mut weights.weight_hh, rows.clone());
            }
        }
        let biases = [&mut weights.bias_ih, &mut weights.bias_hh];
        for bias in biases.into_iter().flatten() {
            negate(bias, rows.clone());
        }
        Ok(self)
    }
}

fn negate<const D: usize>(param: &mut Param<Tensor<D>>, rows: std::ops::Range<usize>) {
    let values = param.val().detach();
    let part = values.clone().slice(s![rows.clone()]);
    *param = Param::from_tensor(values.slice_assign(s![rows], -part));
}

/// Takes over weights, activations, `reset_after`, and `clip` as
/// [`hidden_clip`](GruConfig::hidden_clip).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::nn::gru::GruConfig;
/// use seq_gru::Gru;
///
/// let device = seq_gru::device();
/// let gru = Gru::from_burn(GruConfig::new(3, 4, true).init(&device)).unwrap();
/// # }
/// ```
impl FromBurn<nn::gru::Gru> for GruCell {
    fn from_burn(gru: nn::gru::Gru) -> Result<Gru, ConvertError> {
        Ok(from_burn(gru, "")?.into())
    }
}

/// As the conversion of [`nn::gru::Gru`], for both directions.
impl FromBurn<nn::gru::BiGru> for GruCell {
    fn from_burn(gru: nn::gru::BiGru) -> Result<Gru, ConvertError> {
        let forward = from_burn(gru.forward, "forward.")?;
        Recurrent::from_directions(forward, from_burn(gru.reverse, "reverse.")?)
    }
}

fn from_burn(gru: nn::gru::Gru, prefix: &str) -> Result<GruCell, ConvertError> {
    let gates = [
        ("reset_gate", gru.reset_gate),
        ("update_gate", gru.update_gate),
        ("new_gate", gru.new_gate),
    ];
    Ok(GruCell {
        reset_after: gru.reset_after,
        hidden_clip: gru.clip,
        gate_activation: Activation::from_burn("gate_activation", gru.gate_activation)?,
        hidden_activation: Activation::from_burn("hidden_activation", gru.hidden_activation)?,
        ..GruCell::of(CellWeights::from_burn(GROUPS, &gates, prefix)?)
    })
}
