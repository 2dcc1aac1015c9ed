use burn::module::Module;
use burn::nn::Linear;
use burn::tensor::activation::softmax;
use burn::tensor::{Bool, DType, Device, Int, Tensor, TensorData};
use seq_core::{Lengths, linear};

use super::FeedForward;

/// A mixture of experts: several feed-forward layers, of which every token is given to a few (Shazeer et al.
/// 2017, <https://arxiv.org/abs/1701.06538>), made by
/// [`MixtureOfExpertsConfig`](super::MixtureOfExpertsConfig):
///
/// ```text
/// p = softmax(router(x))
/// y = sum of w_e expert_e(x) over the top_k experts e of the largest p_e
/// w_e = p_e, or p_e / (sum of p over these experts)
/// ```
///
/// An expert computes its own tokens alone. None is dropped, however many an expert has: what becomes of a token
/// does not depend on the others, and a sequence may be run step by step. Of equal probabilities, the expert of
/// the lower index is taken.
///
/// Which expert has which token is decided on the host: on a GPU, every call waits for the router. An expert
/// that no token was given to has no gradient.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::Tensor;
/// use seq_transformer::{Lengths, MixtureOfExpertsConfig};
///
/// let device = seq_transformer::device();
/// let layer = MixtureOfExpertsConfig::new(16, 32, 8).init(&device);
/// let routed = layer.forward(Tensor::<3>::ones([2, 10, 16], &device), Some(&Lengths::new([10, 7])));
/// assert_eq!(routed.y.dims(), [2, 10, 16]);
/// assert_eq!(routed.balance.dims(), [1]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct MixtureOfExperts {
    /// `[d_model, num_experts]`, without a bias.
    pub router: Linear,
    /// As many as there are columns of the router.
    pub experts: Vec<FeedForward>,
    /// How many of them a token is given to.
    #[module(skip)]
    pub top_k: usize,
    /// Whether the weights of the chosen experts are scaled to a sum of one.
    #[module(skip)]
    pub normalise: bool,
}

/// What a [`MixtureOfExperts`] makes of tokens. The example is there.
#[derive(Debug, Clone)]
pub struct Routed<const D: usize> {
    /// Of the input's shape.
    pub y: Tensor<D>,
    /// `[1]`: the load-balancing loss `num_experts * sum over e of f_e P_e`, to be added to the loss of a model
    /// with a small factor, 0.01 in the Switch Transformer (Fedus et al. 2021,
    /// <https://arxiv.org/abs/2101.03961>, equations 4 to 6), 0.02 in Mixtral, once for every layer.
    ///
    /// P_e is the mean over the tokens of the router's probability of expert e, before the choice; through it the
    /// loss has a gradient. f_e is how many choices fell on e, divided by the number of tokens: its sum is
    /// `top_k`, and so is the loss when all experts are used alike. This is `load_balancing_loss_func` of
    /// `transformers` on one layer; on several, it takes the means over the tokens of all of them together.
    ///
    /// Padding counts in none of these; without any token the loss is 0.
    pub balance: Tensor<1>,
}

impl MixtureOfExperts {
    /// The width of one step.
    pub fn d_model(&self) -> usize {
        self.router.weight.dims()[0]
    }

    /// `[.., d_model]` to the same shape, and the loss that balances the experts. With lengths, `x` is
    /// `[batch, time, .., d_model]`; they only matter to that loss.
    ///
    /// # Panics
    ///
    /// When `x` has another width, naming both, or the lengths do not fit it.
    pub fn forward<const D: usize>(&self, x: Tensor<D>, lengths: Option<&Lengths>) -> Routed<D> {
        let (shape, d_model) = (x.dims(), self.d_model());
        assert_eq!(
            shape[D - 1],
            d_model,
            "the input has shape {shape:?}, the layer a width of {d_model}"
        );
        let real = lengths.map(|lengths| real(lengths, &shape[..D - 1]));
        let tokens = shape[..D - 1].iter().product();
        if tokens == 0 {
            let balance = Tensor::zeros([1], (&x.device(), x.dtype()));
            return Routed { y: x, balance };
        }
        let x = x.reshape([tokens, d_model]);
        let logits = linear(x.clone(), self.router.weight.val(), None);
        let choices = Choices::of(&logits, self.top_k);
        let probabilities = softmax(logits, 1);
        let weights = choices.weights(probabilities.clone(), self.normalise);
        let y = self.mix(x, weights, &choices).reshape(shape);
        let balance = choices.balance(probabilities, real);
        Routed { y, balance }
    }

    /// `[tokens, d_model]`: the chosen experts of every token, weighed by `[tokens, top_k]`.
    fn mix(&self, x: Tensor<2>, weights: Tensor<2>, choices: &Choices) -> Tensor<2> {
        let ([tokens, d_model], device) = (x.dims(), x.device());
        let top_k = self.top_k;
        let mut outputs = Vec::new();
        // Where the output of every choice lies among those of all experts, one after the other.
        let mut places = vec![0; tokens * top_k];
        let mut place = 0;
        for (expert, chosen) in self.experts.iter().zip(choices.by_expert()) {
            if chosen.is_empty() {
                continue;
            }
            for &choice in &chosen {
                places[choice] = place;
                place += 1;
            }
            let rows = chosen.into_iter().map(|choice| choice / top_k);
            outputs.push(expert.forward(x.clone().select(0, indices(rows, &device))));
        }
        let outputs = Tensor::cat(outputs, 0).select(0, indices(places, &device));
        let outputs = outputs.reshape([tokens, top_k, d_model]);
        (outputs * weights.unsqueeze_dim::<3>(2))
            .sum_dim(1)
            .squeeze_dim(1)
    }
}

/// Which experts the tokens are given to.
struct Choices {
    /// `[tokens, top_k]`, the most probable expert first.
    experts: Vec<usize>,
    num_experts: usize,
    top_k: usize,
}

impl Choices {
    /// From `[tokens, num_experts]`.
    fn of(logits: &Tensor<2>, top_k: usize) -> Self {
        let [tokens, num_experts] = logits.dims();
        let logits: Vec<f64> = logits.to_data().iter().collect();
        let mut experts = Vec::with_capacity(tokens * top_k);
        let mut order = Vec::with_capacity(num_experts);
        for logits in logits.chunks(num_experts) {
            order.clear();
            order.extend(0..num_experts);
            // Stable, so that of equals the first comes first.
            order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
            experts.extend_from_slice(&order[..top_k]);
        }
        Self {
            experts,
            num_experts,
            top_k,
        }
    }

    /// The choices that fell on every expert, in ascending order.
    fn by_expert(&self) -> Vec<Vec<usize>> {
        let mut chosen = vec![Vec::new(); self.num_experts];
        for (choice, &expert) in self.experts.iter().enumerate() {
            chosen[expert].push(choice);
        }
        chosen
    }

    /// `[tokens, top_k]` of `[tokens, num_experts]`.
    fn weights(&self, probabilities: Tensor<2>, normalise: bool) -> Tensor<2> {
        let [tokens, _] = probabilities.dims();
        let experts = indices(self.experts.iter().copied(), &probabilities.device());
        let weights = probabilities.gather(1, experts.reshape([tokens, self.top_k]));
        match normalise {
            true => weights.clone() / weights.sum_dim(1),
            false => weights,
        }
    }

    /// The load-balancing loss of `[tokens, num_experts]`, see [`Routed::balance`]. `real` says of every token
    /// whether it counts; without it, all do.
    fn balance(&self, probabilities: Tensor<2>, real: Option<Vec<bool>>) -> Tensor<1> {
        let (shape, device) = (probabilities.dims(), probabilities.device());
        let counts = |token: usize| real.as_ref().is_none_or(|real| real[token]);
        let mut used = vec![0_usize; self.num_experts];
        for (token, experts) in self.experts.chunks(self.top_k).enumerate() {
            if counts(token) {
                experts.iter().for_each(|&expert| used[expert] += 1);
            }
        }
        let tokens = (0..shape[0]).filter(|&token| counts(token)).count().max(1) as f64;
        let factor = self.num_experts as f64 / (tokens * tokens);
        let factors = used.iter().map(|&used| used as f64 * factor);
        let factors = floats(factors.collect(), &device, probabilities.dtype());
        let probabilities = match &real {
            Some(real) => {
                let padding: Vec<bool> = real.iter().map(|real| !real).collect();
                let padding = TensorData::new(padding, [shape[0], 1]);
                let padding = Tensor::<2, Bool>::from_data(padding, &device);
                // Not a product with zero, as padding may hold anything.
                probabilities.mask_fill(padding.expand(shape), 0.0)
            }
            None => probabilities,
        };
        (probabilities.sum_dim(0).squeeze_dim(0) * factors).sum()
    }
}

/// Of every token of `[batch, time, ..]`, whether it is within its sequence's length.
fn real(lengths: &Lengths, shape: &[usize]) -> Vec<bool> {
    let [batch, time, rest @ ..] = shape else {
        panic!("lengths were given for tokens of shape {shape:?}, which have no batch and time")
    };
    lengths.check(*batch, *time);
    let rest: usize = rest.iter().product();
    let sequences = lengths.as_slice().iter();
    sequences
        .flat_map(|&length| (0..time * rest).map(move |token| token < length * rest))
        .collect()
}

fn indices(values: impl IntoIterator<Item = usize>, device: &Device) -> Tensor<1, Int> {
    let values: Vec<i64> = values.into_iter().map(|value| value as i64).collect();
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), device)
}

fn floats(values: Vec<f64>, device: &Device, dtype: DType) -> Tensor<1> {
    let len = values.len();
    Tensor::from_data(TensorData::new(values, [len]), (device, dtype))
}
