use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, Initializer, LayerNorm, LayerNormConfig};
use burn::tensor::{Device, Distribution, Tensor};
use serde::{Deserialize, Serialize};

use super::{CellState, Recurrence};
use crate::PackedWeights;

/// What the cells of all recurrent layers have in common: the weights of the input product and of the
/// recurrent product, in PyTorch's names and layout.
///
/// The rows are blocks of `d_hidden`, one a gate, and the gates stand in [`groups`](Self::groups). In a
/// cell of one group every gate takes the sum of both products (RNN, LSTM); with several groups the
/// products stay apart until the cell joins them (GRU).
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use seq_core::recurrent::WeightsConfig;
///
/// let config = WeightsConfig { bias: false, ..WeightsConfig::new(&[4], 8, 16) };
/// let weights = config.init(&seq_core::device());
/// assert_eq!(weights.weight_ih.dims(), [4 * 16, 8]);
/// assert_eq!(weights.d_hidden(), 16);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct CellWeights {
    /// `[gates * d_hidden, d_input]`
    pub weight_ih: Param<Tensor<2>>,
    /// `[gates * d_hidden, d_output]`, or `[1, d_hidden]` for a single gate whose product is elementwise.
    pub weight_hh: Param<Tensor<2>>,
    /// `[gates * d_hidden]`
    pub bias_ih: Option<Param<Tensor<1>>>,
    /// `[gates * d_hidden]`
    pub bias_hh: Option<Param<Tensor<1>>>,
    /// Layer normalisation of the two products.
    pub norm: Option<ProductNorm>,
    /// On the hidden state that enters the recurrent product: one mask a sequence (Gal and Ghahramani
    /// 2016, <https://arxiv.org/abs/1512.05287>).
    pub hidden_dropout: Dropout,
    /// How many gates each group has.
    #[module(skip)]
    pub groups: &'static [usize],
    /// The weights as the CPU kernels read them.
    #[module(skip)]
    pub packed: PackedWeights,
}

/// The layer normalisations of the two products (Ba et al. 2016, <https://arxiv.org/abs/1607.06450>),
/// without biases, as the gates have their own.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use seq_core::recurrent::WeightsConfig;
///
/// let config = WeightsConfig { layer_norm: true, ..WeightsConfig::new(&[2, 1], 8, 16) };
/// let norm = config.init(&seq_core::device()).norm.unwrap();
/// assert_eq!(norm.hidden[0].gamma.dims(), [2 * 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct ProductNorm {
    /// Of the input product, one for each group of gates.
    pub input: Vec<LayerNorm>,
    /// Of the recurrent product, one for each group of gates.
    pub hidden: Vec<LayerNorm>,
}

/// How the recurrent weights of a gate begin.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use seq_core::recurrent::{RecurrentInit, WeightsConfig};
///
/// let recurrent = RecurrentInit::Identity;
/// let config = WeightsConfig { recurrent, ..WeightsConfig::new(&[1], 2, 3) };
/// let weights = config.init(&seq_core::device());
/// assert_eq!(weights.weight_hh.val().sum().into_scalar::<f32>(), 3.0);
/// # }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RecurrentInit {
    /// As the input weights do.
    #[default]
    LikeInput,
    /// As an orthogonal matrix, which keeps gradients from vanishing or growing early in training
    /// (Saxe et al. 2014, <https://arxiv.org/abs/1312.6120>).
    Orthogonal,
    /// As the identity, which with ReLU makes a unit remember until it is told otherwise (Le et al.
    /// 2015, <https://arxiv.org/abs/1504.00941>). The hidden state must be as wide as a gate.
    Identity,
}

/// What [`CellWeights`] are made from; the example is there.
#[derive(Debug, Clone)]
pub struct WeightsConfig<'a> {
    /// How many gates each group has.
    pub groups: &'static [usize],
    /// The width of one input step.
    pub d_input: usize,
    /// The width of a gate.
    pub d_hidden: usize,
    /// The width of the hidden state; by default `d_hidden`.
    pub d_output: usize,
    /// Whether there are biases.
    pub bias: bool,
    /// Whether the recurrent product is elementwise; for a single gate.
    pub elementwise: bool,
    /// Whether both products are layer-normalised.
    pub layer_norm: bool,
    /// By default uniform within 1/sqrt(d_hidden), as in PyTorch.
    pub initializer: Option<&'a Initializer>,
    /// How each gate's recurrent weights begin.
    pub recurrent: RecurrentInit,
    /// The probability of dropout on the hidden state that enters the recurrent product.
    pub hidden_dropout: f64,
}

impl WeightsConfig<'_> {
    /// Gates in `groups`, each of width `d_hidden`, with biases and nothing else.
    pub fn new(groups: &'static [usize], d_input: usize, d_hidden: usize) -> Self {
        Self {
            groups,
            d_input,
            d_hidden,
            d_output: d_hidden,
            bias: true,
            elementwise: false,
            layer_norm: false,
            initializer: None,
            recurrent: RecurrentInit::LikeInput,
            hidden_dropout: 0.0,
        }
    }

    /// Makes fresh weights.
    pub fn init(&self, device: &Device) -> CellWeights {
        let (hidden, output) = (self.d_hidden, self.d_output);
        let rows = self.groups.iter().sum::<usize>() * hidden;
        let gates = |gate: &dyn Fn() -> Tensor<2>| {
            let gates = (0..rows / hidden).map(|_| gate()).collect();
            Param::from_tensor(Tensor::cat(gates, 0).detach())
        };
        let weight_hh = match self.recurrent {
            RecurrentInit::Identity if self.elementwise => {
                Param::from_tensor(Tensor::ones([1, output], device))
            }
            _ if self.elementwise => self.matrix(1, output, device),
            RecurrentInit::LikeInput => self.matrix(rows, output, device),
            RecurrentInit::Orthogonal => gates(&|| {
                let orthogonal = Initializer::Orthogonal { gain: 1.0 };
                let gate: Param<Tensor<2>> = orthogonal.init([hidden, output], device);
                gate.into_value()
            }),
            RecurrentInit::Identity => gates(&|| Tensor::eye(hidden, device)),
        };
        let bias = || self.bias.then(|| self.vector(rows, device));
        let norms = || {
            let config = |&gates: &usize| LayerNormConfig::new(gates * hidden).with_bias(false);
            let norms = self.groups.iter().map(config);
            norms.map(|config| config.init(device)).collect()
        };
        CellWeights {
            weight_ih: self.matrix(rows, self.d_input, device),
            weight_hh,
            bias_ih: bias(),
            bias_hh: bias(),
            norm: self.layer_norm.then(|| ProductNorm {
                input: norms(),
                hidden: norms(),
            }),
            hidden_dropout: DropoutConfig::new(self.hidden_dropout).init(),
            groups: self.groups,
            packed: PackedWeights::default(),
        }
    }

    /// A parameter `[rows, columns]` that begins as the weights do.
    pub fn matrix(&self, rows: usize, columns: usize, device: &Device) -> Param<Tensor<2>> {
        self.initializer()
            .init_with([rows, columns], Some(columns), Some(rows), device)
    }

    /// A parameter `[size]` that begins as the weights do.
    pub fn vector(&self, size: usize, device: &Device) -> Param<Tensor<1>> {
        self.initializer()
            .init_with([size], Some(self.d_output), Some(size), device)
    }

    fn initializer(&self) -> Initializer {
        let bound = 1.0 / (self.d_hidden as f64).sqrt();
        self.initializer.cloned().unwrap_or(Initializer::Uniform {
            min: -bound,
            max: bound,
        })
    }
}

impl CellWeights {
    /// The width of one input step.
    pub fn d_input(&self) -> usize {
        self.weight_ih.dims()[1]
    }

    /// The width of a gate.
    pub fn d_hidden(&self) -> usize {
        self.weight_ih.dims()[0] / self.groups.iter().sum::<usize>()
    }

    /// The width of the hidden state.
    pub fn d_output(&self) -> usize {
        self.weight_hh.dims()[1]
    }

    /// Whether dropout and zoneout are drawn: in training, on a device with autodiff. All dropouts of
    /// a module are switched together, so the one here tells of all.
    pub fn is_training(&self) -> bool {
        self.hidden_dropout.training.is_enabled() && self.weight_hh.val().device().is_autodiff()
    }

    /// A mask `[batch, width]` for all steps of a sequence, where `dropout` is at work.
    pub fn mask(&self, dropout: &Dropout, batch: usize, width: usize) -> Option<Tensor<2>> {
        (dropout.prob > 0.0 && self.is_training()).then(|| {
            let weight = self.weight_hh.val();
            let ones = Tensor::ones([batch, width], (&weight.device(), weight.dtype()));
            dropout.forward(ones)
        })
    }

    /// Whether the recurrent product is elementwise. (A matrix of one unit is, too.)
    pub fn is_elementwise(&self) -> bool {
        self.weight_hh.dims()[0] == 1
    }

    /// Whether the products are plain, as the fused kernels make them: neither normalised nor of a
    /// hidden state with units dropped.
    pub(super) fn are_plain(&self) -> bool {
        self.norm.is_none() && !(self.hidden_dropout.prob > 0.0 && self.is_training())
    }

    /// The input product: `[rows, d_input]` to `[rows, gates * d_hidden]`, with `bias_ih` and, in a
    /// cell of one group, `bias_hh` too.
    pub fn project(&self, x: Tensor<2>) -> Tensor<2> {
        let mut product = x.matmul(self.weight_ih.val().transpose());
        if let Some(norm) = &self.norm {
            product = normalise(product, &norm.input);
        }
        let both = self.groups.len() == 1;
        let biases = [Some(&self.bias_ih), both.then_some(&self.bias_hh)];
        for bias in biases.into_iter().flatten().flatten() {
            product = product + bias.val().unsqueeze();
        }
        product
    }

    /// What the fused kernels run: `x` `[batch, time, d_input]` from this state, without elementwise
    /// weights.
    pub fn recurrence(&self, x: Tensor<3>, state: impl CellState) -> Recurrence {
        let (hidden, cell) = state.into_parts();
        Recurrence {
            x,
            weight_ih: self.weight_ih.val(),
            weight_hh: self.weight_hh.val(),
            bias_ih: self.bias_ih.as_ref().map(|bias| bias.val()),
            bias_hh: self.bias_hh.as_ref().map(|bias| bias.val()),
            weights: None,
            hidden,
            cell,
            packed: self.packed.share(),
        }
    }

    /// The recurrent product for one sequence of `batch` rows.
    pub fn recurrent(&self, batch: usize) -> RecurrentProduct {
        let together = self.groups.len() == 1;
        let bias = self.bias_hh.as_ref().filter(|_| !together);
        let weight = self.weight_hh.val();
        let elementwise = self.is_elementwise();
        RecurrentProduct {
            weight: if elementwise {
                weight
            } else {
                weight.transpose()
            },
            elementwise,
            bias: bias.map(|bias| bias.val().unsqueeze()),
            norms: self.norm.as_ref().map(|norm| norm.hidden.clone()),
            mask: self.mask(&self.hidden_dropout, batch, self.d_output()),
            groups: self.groups,
            d_hidden: self.d_hidden(),
        }
    }
}

/// The recurrent product of the reference body, with what stays the same from step to step.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::WeightsConfig;
///
/// let device = seq_core::device();
/// let product = WeightsConfig::new(&[2, 1], 8, 16).init(&device).recurrent(1);
/// let hidden = Tensor::ones([1, 16], &device);
/// assert_eq!(product.all(hidden.clone()).dims(), [1, 3 * 16]);
/// assert_eq!(product.group(1, hidden).dims(), [1, 16]);
/// # }
/// ```
#[derive(Debug)]
pub struct RecurrentProduct {
    weight: Tensor<2>,
    elementwise: bool,
    bias: Option<Tensor<2>>,
    norms: Option<Vec<LayerNorm>>,
    mask: Option<Tensor<2>>,
    groups: &'static [usize],
    d_hidden: usize,
}

impl RecurrentProduct {
    /// Of all gates: `[batch, d_output]` to `[batch, gates * d_hidden]`, in a cell of several groups
    /// with `bias_hh`.
    pub fn all(&self, hidden: Tensor<2>) -> Tensor<2> {
        let (hidden, weight) = (self.drop(hidden), self.weight.clone());
        let mut product = match self.elementwise {
            true => hidden * weight,
            false => hidden.matmul(weight),
        };
        if let Some(norms) = &self.norms {
            product = normalise(product, norms);
        }
        match &self.bias {
            Some(bias) => product + bias.clone(),
            None => product,
        }
    }

    /// Of the gates of one group, which reads a hidden state of its own.
    pub fn group(&self, group: usize, hidden: Tensor<2>) -> Tensor<2> {
        let first = self.groups[..group].iter().sum::<usize>() * self.d_hidden;
        let width = self.groups[group] * self.d_hidden;
        let own = |x: &Tensor<2>| x.clone().narrow(1, first, width);
        let mut product = self.drop(hidden).matmul(own(&self.weight));
        if let Some(norms) = &self.norms {
            product = norms[group].forward(product);
        }
        match &self.bias {
            Some(bias) => product + own(bias),
            None => product,
        }
    }

    fn drop(&self, hidden: Tensor<2>) -> Tensor<2> {
        match &self.mask {
            Some(mask) => hidden * mask.clone(),
            None => hidden,
        }
    }
}

/// Normalises each group of gates by itself.
fn normalise(product: Tensor<2>, norms: &[LayerNorm]) -> Tensor<2> {
    if let [norm] = norms {
        return norm.forward(product);
    }
    let mut first = 0;
    let group = |norm: &LayerNorm| {
        let width = norm.gamma.dims()[0];
        first += width;
        norm.forward(product.clone().narrow(1, first - width, width))
    };
    Tensor::cat(norms.iter().map(group).collect(), 1)
}

/// Units that keep their old value (Krueger et al. 2017, <https://arxiv.org/abs/1606.01305>): while
/// training drawn anew at every step with this probability, otherwise the expected mixture of the
/// values `before` and `after` the step.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_core::recurrent::zoneout;
///
/// let device = seq_core::device();
/// let (before, after) = (Tensor::<2>::zeros([1, 1], &device), Tensor::<2>::ones([1, 1], &device));
/// assert_eq!(zoneout(0.25, false, before, after).into_scalar::<f32>(), 0.75);
/// # }
/// ```
pub fn zoneout(probability: f64, training: bool, before: Tensor<2>, after: Tensor<2>) -> Tensor<2> {
    if probability == 0.0 {
        return after;
    }
    if training {
        let keep = after.random_like(Distribution::Bernoulli(probability));
        after.clone() + (before - after) * keep
    } else {
        before * probability + after * (1.0 - probability)
    }
}
