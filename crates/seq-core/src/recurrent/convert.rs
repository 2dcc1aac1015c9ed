//! Weights from modules of Burn, and from arrays in the layout of Keras.

use burn::module::Param;
use burn::nn::activation::Activation as BurnActivation;
use burn::nn::{GateController, Linear};
use burn::tensor::Tensor;
use thiserror::Error;

use super::{Activation, CellWeights, Recurrent, RecurrentCell, WeightsConfig};

/// Why weights made elsewhere do not make a layer.
///
/// ```
/// use burn::nn::activation::{Activation as BurnActivation, Gelu};
/// use seq_core::recurrent::{Activation, ConvertError};
///
/// let error = Activation::from_burn("gate_activation", BurnActivation::Gelu(Gelu::new())).unwrap_err();
/// assert!(matches!(error, ConvertError::UnknownActivation { .. }));
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
        /// Which of the module's activations.
        role: &'static str,
        /// The module found.
        found: String,
    },
    /// An activation that is more than a function of one value.
    #[error("`{role}` is {found}: an activation must have no weights of its own")]
    WeightedActivation {
        /// Which of the module's activations.
        role: &'static str,
        /// The module found.
        found: String,
    },
    /// An activation of which `f(-x) = 1 - f(x)` does not hold.
    #[error("the gates' activation is {activation:?}, which has no opposite: sigmoids have")]
    Asymmetric {
        /// The activation.
        activation: Activation,
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

impl ConvertError {
    /// An error, unless the tensor `name` has the shape expected.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn unless_shape<const D: usize>(
        name: &str,
        found: [usize; D],
        expected: [usize; D],
    ) -> Result<(), Self> {
        if found == expected {
            return Ok(());
        }
        Err(Self::WrongShape {
            name: name.to_string(),
            expected: expected.to_vec(),
            found: found.to_vec(),
        })
    }
}

/// A cell that takes over a module `M` of Burn; see [`Recurrent::from_burn`].
pub trait FromBurn<M>: RecurrentCell {
    /// The layer of `module`'s weights and options.
    ///
    /// # Errors
    ///
    /// When the module has an option that the layer does not.
    fn from_burn(module: M) -> Result<Recurrent<Self>, ConvertError>;
}

impl<C: RecurrentCell> Recurrent<C> {
    /// Takes over the weights and options of a module of Burn. The layer made is batch first whatever
    /// `batch_first` is there; [`forward_time_major`](Self::forward_time_major) is the other.
    ///
    /// # Errors
    ///
    /// When the module has an option that the layer does not.
    pub fn from_burn<M>(module: M) -> Result<Self, ConvertError>
    where
        C: FromBurn<M>,
    {
        C::from_burn(module)
    }

    /// One layer of cells that were a module's `forward` and `reverse`.
    ///
    /// # Errors
    ///
    /// When the two are of different sizes.
    pub fn from_directions(forward: C, reverse: C) -> Result<Self, ConvertError> {
        let sizes = |cell: &C| [cell.d_hidden(), cell.d_input()];
        ConvertError::unless_shape("a weight of `reverse`", sizes(&reverse), sizes(&forward))?;
        Ok([forward, reverse].into())
    }
}

impl Activation {
    /// The same function as Burn's module, which in an error is called `role`.
    ///
    /// # Errors
    ///
    /// When it is none of these functions.
    pub fn from_burn(role: &'static str, activation: BurnActivation) -> Result<Self, ConvertError> {
        Ok(match activation {
            BurnActivation::Sigmoid(_) => Self::Sigmoid,
            BurnActivation::Tanh(_) => Self::Tanh,
            BurnActivation::Relu(_) => Self::Relu,
            BurnActivation::Softsign(_) => Self::Softsign,
            BurnActivation::Identity(_) => Self::Identity,
            BurnActivation::HardSigmoid(hard) if (hard.alpha, hard.beta) == (0.2, 0.5) => {
                Self::HardSigmoid
            }
            other => {
                let found = format!("{other:?}");
                return Err(ConvertError::UnknownActivation { role, found });
            }
        })
    }
}

/// A gate of a recurrent module of Burn, by its name there.
pub type BurnGate = (&'static str, GateController);

impl CellWeights {
    /// The weights of Burn's gates in the order given, whose names in errors follow on `prefix`.
    ///
    /// # Errors
    ///
    /// When the shapes do not fit one another.
    pub fn from_burn(
        groups: &'static [usize],
        gates: &[BurnGate],
        prefix: &str,
    ) -> Result<Self, ConvertError> {
        let sizes = gates[0].1.input_transform.weight.dims();
        let [d_input, hidden] = sizes.map(|size| size.max(1));
        let gather = |part: &str, transform: fn(&GateController) -> &Linear, rows: usize| {
            let mut weights = Vec::new();
            let mut biases = Vec::new();
            for (gate, controller) in gates {
                let Linear { weight, bias } = transform(controller);
                let name = format!("{prefix}{gate}.{part}");
                let weight_name = format!("{name}.weight");
                ConvertError::unless_shape(&weight_name, weight.dims(), [rows, hidden])?;
                weights.push(weight.val().transpose());
                if let Some(bias) = bias {
                    ConvertError::unless_shape(&format!("{name}.bias"), bias.dims(), [hidden])?;
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
        let (weight_ih, bias_ih) =
            gather("input_transform", |gate| &gate.input_transform, d_input)?;
        let (weight_hh, bias_hh) =
            gather("hidden_transform", |gate| &gate.hidden_transform, hidden)?;
        Ok(Self::from_tensors(
            groups, weight_ih, weight_hh, bias_ih, bias_hh,
        ))
    }

    /// The weights of a Keras layer, as `get_weights()` lists them: `kernel`
    /// `[d_input, gates * d_hidden]`, `recurrent_kernel` `[d_hidden, gates * d_hidden]` and, with
    /// `use_bias`, one bias `[gates * d_hidden]` or two.
    ///
    /// `order` says which of Keras' gates each of ours is.
    ///
    /// # Errors
    ///
    /// [`ConvertError::WrongShape`] when the arrays do not fit one another.
    pub fn from_keras(
        groups: &'static [usize],
        order: &[usize],
        kernel: Tensor<2>,
        recurrent_kernel: Tensor<2>,
        bias: Option<Tensor<1>>,
        recurrent_bias: Option<Tensor<1>>,
    ) -> Result<Self, ConvertError> {
        let (d_input, hidden) = (kernel.dims()[0].max(1), recurrent_kernel.dims()[0].max(1));
        let rows = order.len() * hidden;
        ConvertError::unless_shape("kernel", kernel.dims(), [d_input, rows])?;
        let name = "recurrent_kernel";
        ConvertError::unless_shape(name, recurrent_kernel.dims(), [hidden, rows])?;
        for bias in [&bias, &recurrent_bias].into_iter().flatten() {
            ConvertError::unless_shape("bias", bias.dims(), [rows])?;
        }
        let gate = |gate: usize| gate * hidden..(gate + 1) * hidden;
        // A transposed view would be copied for every run.
        let matrix = |kernel: Tensor<2>| {
            let options = (&kernel.device(), kernel.dtype());
            let rows = kernel.transpose();
            let gates = order.iter().map(|&from| rows.clone().slice([gate(from)]));
            Tensor::from_data(Tensor::cat(gates.collect(), 0).into_data(), options)
        };
        let vector = |bias: Tensor<1>| {
            let gates = order.iter().map(|&from| bias.clone().slice([gate(from)]));
            Tensor::cat(gates.collect(), 0)
        };
        let (bias, recurrent_bias) = (bias.map(vector), recurrent_bias.map(vector));
        let (kernel, recurrent_kernel) = (matrix(kernel), matrix(recurrent_kernel));
        Ok(Self::from_tensors(
            groups,
            kernel,
            recurrent_kernel,
            bias,
            recurrent_bias,
        ))
    }

    /// Parameters of these values, with no history: `weight_ih` `[gates * d_hidden, d_input]`,
    /// `weight_hh` `[gates * d_hidden, d_hidden]` and biases `[gates * d_hidden]`. Where only one bias
    /// is given, the other is zero.
    pub fn from_tensors(
        groups: &'static [usize],
        weight_ih: Tensor<2>,
        weight_hh: Tensor<2>,
        bias_ih: Option<Tensor<1>>,
        bias_hh: Option<Tensor<1>>,
    ) -> Self {
        let ([_, d_input], [_, d_hidden]) = (weight_ih.dims(), weight_hh.dims());
        let zeros = bias_ih.as_ref().or(bias_hh.as_ref());
        let zeros = zeros.map(|bias| bias.zeros_like());
        let device = weight_ih.device();
        Self {
            weight_ih: parameter(weight_ih),
            weight_hh: parameter(weight_hh),
            bias_ih: bias_ih.or(zeros.clone()).map(parameter),
            bias_hh: bias_hh.or(zeros).map(parameter),
            ..WeightsConfig::new(groups, d_input, d_hidden).init(&device)
        }
    }
}

/// A new parameter of these values, with no history.
fn parameter<const D: usize>(values: Tensor<D>) -> Param<Tensor<D>> {
    Param::from_tensor(values.detach())
}
