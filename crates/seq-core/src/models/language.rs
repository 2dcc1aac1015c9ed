use burn::module::{Module, Param};
use burn::nn::{Dropout, DropoutConfig, Embedding, EmbeddingConfig, Linear, LinearConfig};
use burn::tensor::activation::log_softmax;
use burn::tensor::{Device, Int, Tensor, TensorData};

use super::Sampler;
use crate::{SequenceLayer, linear, linear_transposed};

/// Predicts the next symbol of a sequence from those before it: an embedding, a layer of any
/// architecture, and a linear head.
///
/// ```
/// use burn::tensor::{Device, Int, Tensor};
/// use seq_core::SequenceLayer;
/// use seq_core::models::{LanguageModel, Sampler};
///
/// /// Works with any layer: 20 symbols after the prompt, each as soon as it is there.
/// fn write<L: SequenceLayer>(layer: L, device: &Device) {
///     let model = LanguageModel::new(83, layer, device);
///     for id in model.generate(&[12, 40], Sampler::new(7).with_temperature(0.8)).take(20) {
///         println!("{id}");
///     }
/// }
/// ```
#[derive(Module, Debug)]
pub struct LanguageModel<L: Module> {
    /// `[vocab_size, d_input]`
    pub embedding: Embedding,
    /// From `d_input` to `d_output`.
    pub layer: L,
    /// On the embeddings and on the outputs of the layer, while training (Zaremba et al. 2014).
    pub dropout: Dropout,
    /// From `d_output` to the logits; where there is none, by the weight of the embedding.
    pub head: Option<Linear>,
}

impl<L: SequenceLayer> LanguageModel<L> {
    /// A model of `vocab_size` symbols with a fresh embedding as wide as the layer's input, a fresh
    /// head, and no dropout.
    pub fn new(vocab_size: usize, layer: L, device: &Device) -> Self {
        Self {
            embedding: EmbeddingConfig::new(vocab_size, layer.d_input()).init(device),
            head: Some(LinearConfig::new(layer.d_output(), vocab_size).init(device)),
            dropout: DropoutConfig::new(0.0).init(),
            layer,
        }
    }

    /// As [`new`](Self::new), without a head: the embedding makes the logits too (Press and Wolf 2017,
    /// <https://arxiv.org/abs/1608.05859>).
    ///
    /// # Panics
    ///
    /// When the layer's output is not as wide as its input.
    pub fn tied(vocab_size: usize, layer: L, device: &Device) -> Self {
        let widths = [layer.d_input(), layer.d_output()];
        assert_eq!(
            widths[0], widths[1],
            "an embedding that is the head too needs one width: d_input and d_output are {widths:?}"
        );
        Self {
            embedding: EmbeddingConfig::new(vocab_size, widths[0]).init(device),
            head: None,
            dropout: DropoutConfig::new(0.0).init(),
            layer,
        }
    }

    /// Takes the bias of the head away.
    pub fn without_head_bias(mut self) -> Self {
        if let Some(head) = &mut self.head {
            head.bias = None;
        }
        self
    }

    /// Sets the probability that a value is dropped while training.
    ///
    /// # Panics
    ///
    /// When it is not in `[0, 1]`.
    pub fn with_dropout(self, prob: f64) -> Self {
        let dropout = DropoutConfig::new(prob).init();
        Self { dropout, ..self }
    }

    /// The number of symbols.
    pub fn vocab_size(&self) -> usize {
        self.embedding.weight.dims()[0]
    }

    /// What follows every symbol: ids `[batch, time]` to logits `[batch, time, vocab_size]`, and the
    /// state after the last one. Without a `state` the sequences begin.
    ///
    /// # Panics
    ///
    /// When an id is not below [`vocab_size`](Self::vocab_size), or as the layer does.
    pub fn forward(&self, ids: Tensor<2, Int>, state: Option<L::State>) -> (Tensor<3>, L::State) {
        let (y, state) = self.read(ids, state);
        (self.logits(y), state)
    }

    /// One symbol of a stream: ids `[batch]` to the logits of the next `[batch, vocab_size]`, and
    /// the next state.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn step(&self, ids: Tensor<1, Int>, state: L::State) -> (Tensor<2>, L::State) {
        let x = self.embedding.forward(ids.unsqueeze_dim(1)).squeeze_dim(1);
        let (y, state) = self.layer.step(self.dropout.forward(x), state);
        (self.logits(self.dropout.forward(y)), state)
    }

    /// The mean [`surprisal`] `[1]` of `targets` `[batch, time]`, the symbols that follow `inputs`
    /// `[batch, time]`, in nats per symbol.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), and when the two differ in shape.
    pub fn loss(&self, inputs: Tensor<2, Int>, targets: Tensor<2, Int>) -> Tensor<1> {
        surprisal(self.forward(inputs, None).0, targets).mean()
    }

    /// Continues `prompt` without end, each symbol as soon as it is sampled. The prompt is read at
    /// once, every further symbol costs one [`step`](Self::step).
    ///
    /// The model should be the one for inference, `model.valid()`, if it has been trained.
    ///
    /// # Panics
    ///
    /// When the prompt is empty, or an id is not below [`vocab_size`](Self::vocab_size).
    pub fn generate(&self, prompt: &[u32], sampler: Sampler) -> Generation<'_, L> {
        assert!(!prompt.is_empty(), "a prompt needs at least one symbol");
        let time = prompt.len();
        let ids = TensorData::new(prompt.to_vec(), [1, time]);
        let ids = Tensor::from_data(ids, &self.embedding.weight.device());
        let (y, state) = self.read(ids, None);
        let last = y.narrow(1, time - 1, 1).squeeze_dim(1);
        Generation {
            model: self,
            sampler,
            after_prompt: Some(self.logits(last)),
            last: 0,
            state: Some(state),
        }
    }

    /// What follows outputs of the layer.
    fn logits<const D: usize>(&self, y: Tensor<D>) -> Tensor<D> {
        match &self.head {
            Some(head) => {
                let bias = head.bias.as_ref().map(Param::val);
                linear(y, head.weight.val(), bias)
            }
            None => linear_transposed(y, self.embedding.weight.val()),
        }
    }

    fn read(&self, ids: Tensor<2, Int>, state: Option<L::State>) -> (Tensor<3>, L::State) {
        let x = self.dropout.forward(self.embedding.forward(ids));
        let (y, state) = self.layer.forward(x, state);
        (self.dropout.forward(y), state)
    }
}

/// The symbols of [`LanguageModel::generate`]; it never ends by itself.
///
/// ```
/// use seq_core::SequenceLayer;
/// use seq_core::models::Generation;
///
/// /// Everything up to the end of the line.
/// fn line<L: SequenceLayer>(symbols: Generation<'_, L>, newline: u32) -> Vec<u32> {
///     symbols.take_while(|&id| id != newline).collect()
/// }
/// ```
#[derive(Debug)]
pub struct Generation<'a, L: SequenceLayer> {
    model: &'a LanguageModel<L>,
    sampler: Sampler,
    /// `[1, vocab_size]`, until the first symbol has been sampled from it.
    after_prompt: Option<Tensor<2>>,
    last: u32,
    /// Handed to the step and back, so that a cache has one owner and need not be copied.
    state: Option<L::State>,
}

impl<L: SequenceLayer> Iterator for Generation<'_, L> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let logits = match self.after_prompt.take() {
            Some(logits) => logits,
            None => {
                let device = self.model.embedding.weight.device();
                let ids = Tensor::from_data(TensorData::from([self.last]), &device);
                let (logits, state) = self.model.step(ids, self.state.take()?);
                self.state = Some(state);
                logits
            }
        };
        let logits: Vec<f32> = logits.into_data().iter::<f32>().collect();
        self.last = self.sampler.sample(&logits);
        Some(self.last)
    }
}

/// How unexpected each symbol is, -ln p in nats: logits `[batch, time, vocab_size]` and targets
/// `[batch, time]` to `[batch, time]`. Its mean is the cross-entropy.
///
/// # Panics
///
/// When the two differ in batch or time.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Int, Tensor};
/// use seq_core::models::surprisal;
///
/// let device = seq_core::device();
/// let logits = Tensor::<3>::zeros([1, 3, 4], &device);
/// let targets = Tensor::<2, Int>::from_data([[0, 3, 1]], &device);
/// let nats = surprisal(logits, targets).mean().into_scalar::<f64>();
/// assert!((nats - 4f64.ln()).abs() < 1e-6);
/// # }
/// ```
pub fn surprisal(logits: Tensor<3>, targets: Tensor<2, Int>) -> Tensor<2> {
    let ([batch, time, _], found) = (logits.dims(), targets.dims());
    assert_eq!(
        [batch, time],
        found,
        "logits of shape {:?} for targets of shape {found:?}",
        logits.dims()
    );
    let log_p = log_softmax(logits, 2).gather(2, targets.unsqueeze_dim(2));
    log_p.squeeze_dim::<2>(2).neg()
}

/// The bits of so many nats, the customary unit of character models.
///
/// ```
/// assert_eq!(seq_core::models::bits_per_char(2f64.ln()), 1.0);
/// ```
pub fn bits_per_char(nats: f64) -> f64 {
    nats / std::f64::consts::LN_2
}
