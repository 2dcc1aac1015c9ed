//! Weights from modules of Burn, and from arrays in the layout of Keras.

use burn::module::Param;
use burn::nn::activation::Activation as BurnActivation;
use burn::nn::{self, DropoutConfig, GateController, Linear};
use burn::tensor::Tensor;
use thiserror::Error;

use seq_core::recurrent::Activation;

use crate::config::LstmConfig;
use crate::layer::{Lstm, LstmCell};

/// Why weights made elsewhere do not make an LSTM.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::nn::LstmConfig;
/// use seq_lstm::{ConvertError, Lstm};
///
/// let coupled = LstmConfig::new(3, 4, true).with_input_forget(true).init(&seq_lstm::device());
/// let error = Lstm::try_from(coupled).unwrap_err();
/// assert!(matches!(error, ConvertError::CoupledGates));
/// # }
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ConvertError {
    /// The forget gate is one minus the input gate and has no weights of its own.
    #[error("input and forget gate are coupled (`input_forget`): there are no forget gate weights")]
    CoupledGates,
    /// An activation that is not among [`Activation`].
    #[error(
        "`{role}` is {found}, which is not among sigmoid, tanh, relu, hard sigmoid (0.2, 0.5), softsign, identity"
    )]
    UnknownActivation {
        /// Which of the three activations.
        role: &'static str,
        /// The module found.
        found: String,
    },
    /// A tensor does not have the shape that the others call for.
    #[error("`{name}` has shape {found:?}, expected {expected:?}")]
    WrongShape {
        /// The tensor, in the words of its source.
        name: String,
        /// The shape that would fit.
        expected: Vec<usize>,
        /// The shape found.
        found: Vec<usize>,
    },
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
        let (d_input, hidden) = (kernel.dims()[0].max(1), recurrent_kernel.dims()[0].max(1));
        expect("kernel", kernel.dims(), [d_input, 4 * hidden])?;
        expect(
            "recurrent_kernel",
            recurrent_kernel.dims(),
            [hidden, 4 * hidden],
        )?;
        if let Some(bias) = &bias {
            expect("bias", bias.dims(), [4 * hidden])?;
        }
        // Keras has one bias where PyTorch adds two.
        let zeros = bias.as_ref().map(|bias| bias.zeros_like());
        // A transposed view would be copied for every run.
        let transposed = |kernel: Tensor<2>| {
            let options = (&kernel.device(), kernel.dtype());
            Tensor::from_data(kernel.transpose().into_data(), options)
        };
        Ok(cell(
            transposed(kernel),
            transposed(recurrent_kernel),
            bias,
            zeros,
        ))
    }
}

/// One layer in one direction.
impl From<LstmCell> for Lstm {
    fn from(cell: LstmCell) -> Self {
        Self {
            cells: vec![cell],
            dropout: DropoutConfig::new(0.0).init(),
            bidirectional: false,
            reverse: false,
        }
    }
}

/// Takes over weights, activations, `reverse`, and `clip` as
/// [`cell_clip`](LstmConfig::cell_clip). Whatever `batch_first` is, the layer made is batch first;
/// [`Lstm::forward_time_major`] is the other.
impl TryFrom<nn::Lstm> for Lstm {
    type Error = ConvertError;

    fn try_from(lstm: nn::Lstm) -> Result<Self, ConvertError> {
        let reverse = lstm.reverse;
        Ok(Self {
            reverse,
            ..from_burn(lstm, "")?.into()
        })
    }
}

/// As the conversion of [`nn::Lstm`], for both directions.
impl TryFrom<nn::BiLstm> for Lstm {
    type Error = ConvertError;

    fn try_from(lstm: nn::BiLstm) -> Result<Self, ConvertError> {
        let forward = from_burn(lstm.forward, "forward.")?;
        let backward = from_burn(lstm.reverse, "reverse.")?;
        let sizes = |cell: &LstmCell| [cell.d_input(), cell.d_hidden()];
        let name = "reverse.input_gate.input_transform.weight";
        expect(name, sizes(&backward), sizes(&forward))?;
        Ok(Self {
            cells: vec![forward, backward],
            bidirectional: true,
            dropout: DropoutConfig::new(0.0).init(),
            reverse: false,
        })
    }
}

fn from_burn(lstm: nn::Lstm, prefix: &str) -> Result<LstmCell, ConvertError> {
    let forget_gate = match lstm.forget_gate {
        Some(gate) if !lstm.input_forget => gate,
        _ => return Err(ConvertError::CoupledGates),
    };
    let sizes = lstm.input_gate.input_transform.weight.dims();
    let [d_input, hidden] = sizes.map(|size| size.max(1));
    let gates = [
        ("input_gate", lstm.input_gate),
        ("forget_gate", forget_gate),
        ("cell_gate", lstm.cell_gate),
        ("output_gate", lstm.output_gate),
    ];
    let gather = |part: &str, transform: fn(&GateController) -> &Linear, rows: usize| {
        let mut weights = Vec::new();
        let mut biases = Vec::new();
        for (gate, controller) in &gates {
            let Linear { weight, bias } = transform(controller);
            let name = format!("{prefix}{gate}.{part}");
            expect(&format!("{name}.weight"), weight.dims(), [rows, hidden])?;
            weights.push(weight.val().transpose());
            if let Some(bias) = bias {
                expect(&format!("{name}.bias"), bias.dims(), [hidden])?;
            }
            biases.push(bias.as_ref().map(|bias| bias.val()));
        }
        // A gate without a bias, beside others that have one, has a bias of zero.
        let bias = biases.iter().flatten().next().map(|some| {
            let zeros = some.zeros_like();
            let filled = biases
                .iter()
                .map(|bias| bias.clone().unwrap_or_else(|| zeros.clone()));
            Tensor::cat(filled.collect(), 0)
        });
        Ok((Tensor::cat(weights, 0), bias))
    };
    let (weight_ih, bias_ih) = gather("input_transform", |gate| &gate.input_transform, d_input)?;
    let (weight_hh, bias_hh) = gather("hidden_transform", |gate| &gate.hidden_transform, hidden)?;
    let zeros = bias_ih
        .as_ref()
        .or(bias_hh.as_ref())
        .map(|bias| bias.zeros_like());
    let (bias_ih, bias_hh) = (bias_ih.or(zeros.clone()), bias_hh.or(zeros));
    Ok(LstmCell {
        cell_clip: lstm.clip,
        gate_activation: activation("gate_activation", lstm.gate_activation)?,
        cell_activation: activation("cell_activation", lstm.cell_activation)?,
        hidden_activation: activation("hidden_activation", lstm.hidden_activation)?,
        ..cell(weight_ih, weight_hh, bias_ih, bias_hh)
    })
}

/// A cell of `weight_ih` `[4 * d_hidden, d_input]`, `weight_hh` `[4 * d_hidden, d_hidden]` and
/// biases `[4 * d_hidden]`, everything else at its default.
fn cell(
    weight_ih: Tensor<2>,
    weight_hh: Tensor<2>,
    bias_ih: Option<Tensor<1>>,
    bias_hh: Option<Tensor<1>>,
) -> LstmCell {
    let ([_, d_input], [_, d_hidden]) = (weight_ih.dims(), weight_hh.dims());
    let device = weight_ih.device();
    LstmCell {
        weight_ih: parameter(weight_ih),
        weight_hh: parameter(weight_hh),
        bias_ih: bias_ih.map(parameter),
        bias_hh: bias_hh.map(parameter),
        ..LstmConfig::new(d_input, d_hidden).init_cell(&device)
    }
}

/// A new parameter of these values, with no history.
fn parameter<const D: usize>(values: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(values.detach())
}

fn activation(role: &'static str, activation: BurnActivation) -> Result<Activation, ConvertError> {
    Ok(match activation {
        BurnActivation::Sigmoid(_) => Activation::Sigmoid,
        BurnActivation::Tanh(_) => Activation::Tanh,
        BurnActivation::Relu(_) => Activation::Relu,
        BurnActivation::Softsign(_) => Activation::Softsign,
        BurnActivation::Identity(_) => Activation::Identity,
        BurnActivation::HardSigmoid(hard) if (hard.alpha, hard.beta) == (0.2, 0.5) => {
            Activation::HardSigmoid
        }
        other => {
            let found = format!("{other:?}");
            return Err(ConvertError::UnknownActivation { role, found });
        }
    })
}

fn expect<const D: usize>(
    name: &str,
    found: [usize; D],
    expected: [usize; D],
) -> Result<(), ConvertError> {
    if found == expected {
        return Ok(());
    }
    Err(ConvertError::WrongShape {
        name: name.to_string(),
        expected: expected.to_vec(),
        found: found.to_vec(),
    })
}
