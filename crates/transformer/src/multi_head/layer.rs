use burn::module::{Module, Param};
use burn::nn::Linear;
use burn::tensor::{Bool, Device, Distribution, Tensor};
use seq_core::blocks::Norm;
use seq_core::{Lengths, PackedWeights, SequenceLayer, linear_packed};

use crate::{Alignment, Attention, AttentionDropout, KvCache, Rotary};

/// Attention with its projections (Vaswani et al. 2017, section 3.2.2), made by
/// [`MultiHeadAttentionConfig`](super::MultiHeadAttentionConfig).
///
/// As a [`SequenceLayer`] it is causal self-attention, its state a [`KvCache`] in which a step costs as much as
/// there are steps before it. [`attend`](Self::attend) sees both ways, [`cross`](Self::cross) another sequence.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_transformer::{AttentionMask, MultiHeadAttentionConfig, SequenceLayer};
///
/// let device = seq_transformer::device();
/// let layer = MultiHeadAttentionConfig::new(16, 4).init(&device);
/// let x = Tensor::<3>::random([2, 10, 16], Distribution::Default, &device);
/// let (y, state) = layer.forward(x.clone(), None);
/// assert_eq!(y.dims(), [2, 10, 16]);
/// let (y, _state) = layer.step(Tensor::zeros([2, 16], &device), state);
/// assert_eq!(y.dims(), [2, 16]);
///
/// assert_eq!(layer.attend(x, &AttentionMask::default()).dims(), [2, 10, 16]);
/// # }
/// ```
#[derive(Module, Debug)]
pub struct MultiHeadAttention {
    /// `[d_model, num_heads * d_head]`
    pub query: Linear,
    /// `[d_memory, num_kv_heads * d_head]`
    pub key: Linear,
    /// As `key`.
    pub value: Linear,
    /// `[num_heads * d_head, d_model]`
    pub output: Linear,
    /// Of each head's queries, of width `d_head`.
    pub query_norm: Option<Norm>,
    /// Of each head's keys.
    pub key_norm: Option<Norm>,
    /// How queries and keys are turned by their positions.
    #[module(skip)]
    pub rotary: Option<Rotary>,
    /// By how much distance lowers the score of each head.
    #[module(skip)]
    pub alibi: Option<Vec<f64>>,
    /// The width of a head.
    #[module(skip)]
    pub d_head: usize,
    /// How many steps a step sees, itself included.
    #[module(skip)]
    pub window: Option<usize>,
    /// What the products of queries and keys are multiplied by.
    #[module(skip)]
    pub scale: Option<f64>,
    /// The bound that scores are bent to.
    #[module(skip)]
    pub softcap: Option<f64>,
    /// The probability that an attention weight is dropped while training.
    #[module(skip)]
    pub dropout: f64,
    /// The weights of `query`, `key`, `value` and `output` as the CPU kernels read them.
    #[module(skip)]
    pub packed: [PackedWeights; 4],
}

/// What the queries of one call may see, all of it together; by default everything.
///
/// The example is at [`MultiHeadAttention`].
#[derive(Debug, Clone, Default)]
pub struct AttentionMask {
    /// Only what is not behind them.
    pub causal: bool,
    /// How many keys each row has.
    pub lengths: Option<Lengths>,
    /// True where a query may see a key; each axis that of `[batch, num_heads, time_query, time_key]`, or 1.
    pub mask: Option<Tensor<4, Bool>>,
    /// Added to the scores, of a shape as that of `mask`.
    pub bias: Option<Tensor<4>>,
}

/// The keys and values of a sequence that others look at, by [`MultiHeadAttention::remember`].
///
/// The example is at [`MultiHeadAttention::cross`].
#[derive(Debug, Clone)]
pub struct Memory {
    /// `[batch, time, num_kv_heads, d_head]`
    pub keys: Tensor<4>,
    /// As the keys.
    pub values: Tensor<4>,
}

impl MultiHeadAttention {
    /// Self-attention over whole sequences `[batch, time, d_model]`, to the same shape, without a state.
    ///
    /// A window reaches to both sides unless the mask is causal. What a query beyond its row's length gives
    /// is of no meaning, but finite where the input is.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn attend(&self, x: Tensor<3>, mask: &AttentionMask) -> Tensor<3> {
        self.check_width(x.dims()[2]);
        let (key, value) = (self.keys(x.clone(), &[0]), self.values(x.clone()));
        let attention = Attention {
            window: self.window,
            alibi: self.alibi.clone(),
            ..self.masked(self.queries(x, &[0]), key, value, mask)
        };
        self.finish(attention)
    }

    /// The keys and values of a sequence `[batch, time, d_memory]`.
    pub fn remember(&self, memory: Tensor<3>) -> Memory {
        Memory {
            keys: self.keys(memory.clone(), &[0]),
            values: self.values(memory),
        }
    }

    /// Cross-attention of `x` `[batch, time, d_model]` to a sequence that was
    /// [remembered](Self::remember); positions, windows and slopes have no part in it.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    ///
    /// ```
    /// # #[cfg(feature = "ndarray")] {
    /// use burn::tensor::{Distribution, Tensor};
    /// use seq_transformer::{AttentionMask, Lengths, MultiHeadAttentionConfig};
    ///
    /// let device = seq_transformer::device();
    /// let layer = MultiHeadAttentionConfig::new(16, 4).with_d_memory(Some(6)).init(&device);
    /// let memory = Tensor::<3>::random([2, 7, 6], Distribution::Default, &device);
    /// let memory = layer.remember(memory);
    /// let mask = AttentionMask { lengths: Some(Lengths::new([7, 4])), ..Default::default() };
    /// let y = layer.cross(Tensor::ones([2, 3, 16], &device), &memory, &mask);
    /// assert_eq!(y.dims(), [2, 3, 16]);
    /// # }
    /// ```
    pub fn cross(&self, x: Tensor<3>, memory: &Memory, mask: &AttentionMask) -> Tensor<3> {
        self.check_width(x.dims()[2]);
        let Memory { keys, values } = memory.clone();
        self.finish(self.masked(self.queries(x, &[0]), keys, values, mask))
    }

    fn check_width(&self, found: usize) {
        let expected = self.d_input();
        assert_eq!(
            found, expected,
            "the input is {found} wide, the layer has d_model {expected}"
        );
    }

    fn check_state(&self, state: &KvCache, batch: usize) {
        let expected = [self.key.weight.dims()[1] / self.d_head, self.d_head];
        let found = state.heads();
        assert_eq!(
            found, expected,
            "the state has heads of keys {found:?}, the layer has {expected:?}"
        );
        let found = state.held().len();
        assert_eq!(
            found, batch,
            "the state is of batch {found}, the input of {batch}"
        );
    }

    fn masked(
        &self,
        query: Tensor<4>,
        key: Tensor<4>,
        value: Tensor<4>,
        mask: &AttentionMask,
    ) -> Attention {
        Attention {
            causal: mask.causal,
            key_lengths: mask.lengths.clone(),
            mask: mask.mask.clone(),
            bias: mask.bias.clone(),
            // Of padded rows, too, the first query stands at the first key.
            alignment: Alignment::Start,
            ..Attention::new(query, key, value)
        }
    }

    fn finish(&self, attention: Attention) -> Tensor<3> {
        let training = attention.query.is_autodiff() && self.dropout > 0.0;
        let y = Attention {
            scale: self.scale,
            softcap: self.softcap,
            dropout: training.then(|| AttentionDropout {
                prob: self.dropout,
                seed: draw(&attention.query.device()),
            }),
            ..attention
        }
        .run();
        let [batch, time, heads, width] = y.dims();
        map(
            &self.output,
            y.reshape([batch, time, heads * width]),
            &self.packed[3],
        )
    }

    fn heads(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, time, width] = x.dims();
        x.reshape([batch, time, width / self.d_head, self.d_head])
    }

    fn queries(&self, x: Tensor<3>, positions: &[usize]) -> Tensor<4> {
        let queries = self.heads(map(&self.query, x, &self.packed[0]));
        self.turned(queries, self.query_norm.as_ref(), positions)
    }

    fn keys(&self, x: Tensor<3>, positions: &[usize]) -> Tensor<4> {
        let keys = self.heads(map(&self.key, x, &self.packed[1]));
        self.turned(keys, self.key_norm.as_ref(), positions)
    }

    fn values(&self, x: Tensor<3>) -> Tensor<4> {
        self.heads(map(&self.value, x, &self.packed[2]))
    }

    fn turned(&self, x: Tensor<4>, norm: Option<&Norm>, positions: &[usize]) -> Tensor<4> {
        let x = match norm {
            Some(norm) => norm.forward(x),
            None => x,
        };
        match &self.rotary {
            Some(rotary) => rotary.forward(x, positions),
            None => x,
        }
    }

    /// Causal self-attention after what the cache holds.
    fn run(
        &self,
        x: Tensor<3>,
        lengths: Option<&Lengths>,
        state: Option<KvCache>,
    ) -> (Tensor<3>, KvCache) {
        let shape @ [batch, time, width] = x.dims();
        self.check_width(width);
        Lengths::check_input(lengths, shape);
        if let Some(state) = &state {
            self.check_state(state, batch);
        }
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        let state = match (lengths, state) {
            (None, Some(cache)) if time == 1 && super::step::has_kernel(self, &x, &cache) => {
                return super::step::run(self, x, cache);
            }
            (_, state) => state,
        };
        let counts = match lengths {
            Some(lengths) => lengths.as_slice().to_vec(),
            None => vec![time; batch],
        };
        let positions = match &state {
            Some(cache) => cache.positions(),
            None => vec![0; batch],
        };
        let (key, value) = (self.keys(x.clone(), &positions), self.values(x.clone()));
        let query = self.queries(x, &positions);
        let attention = |key, value, alignment, key_lengths| Attention {
            causal: true,
            window: self.window,
            alibi: self.alibi.clone(),
            alignment,
            key_lengths,
            ..Attention::new(query, key, value)
        };
        let (attention, cache) = match state {
            None => {
                let attention = attention(
                    key.clone(),
                    value.clone(),
                    Alignment::Start,
                    lengths.cloned(),
                );
                (attention, KvCache::of(key, value, counts, self.window))
            }
            Some(cache) => {
                let (cache, first) = cache.append(key, value, &counts);
                let held = Lengths::new(cache.held().iter().copied());
                let (keys, values) = (cache.keys(), cache.values());
                let attention = attention(keys, values, Alignment::At(first), Some(held));
                (attention, cache)
            }
        };
        let y = self.finish(attention);
        match lengths {
            Some(lengths) => (lengths.clear(y), cache),
            None => (y, cache),
        }
    }
}

/// A seed out of the device's own random numbers, which `Device::seed` makes the same again.
fn draw(device: &Device) -> u64 {
    let numbers = Tensor::<1>::random([4], Distribution::Uniform(0.0, 65536.0), device);
    let numbers = numbers.into_data();
    let numbers = numbers.iter::<f64>();
    numbers.fold(0, |seed, number| seed << 16 | number as u64 & 0xffff)
}

/// A linear map by the threads of the kernels.
fn map<const D: usize>(map: &Linear, x: Tensor<D>, packed: &PackedWeights) -> Tensor<D> {
    let bias = map.bias.as_ref().map(Param::val);
    linear_packed(x, map.weight.val(), bias, packed)
}

impl SequenceLayer for MultiHeadAttention {
    type State = KvCache;

    fn d_input(&self) -> usize {
        self.query.weight.dims()[0]
    }

    fn d_output(&self) -> usize {
        self.output.weight.dims()[1]
    }

    fn initial_state(&self, batch: usize, device: &Device) -> KvCache {
        let heads = self.key.weight.dims()[1] / self.d_head;
        let dtype = self.key.weight.dtype();
        KvCache::empty([batch, heads, self.d_head], (device, dtype), self.window)
    }

    fn forward(&self, x: Tensor<3>, state: Option<KvCache>) -> (Tensor<3>, KvCache) {
        self.run(x, None, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<KvCache>,
    ) -> (Tensor<3>, KvCache) {
        Lengths::check_input(Some(lengths), x.dims());
        // What the padding holds, NaN perhaps, must not reach a gradient.
        self.run(lengths.clear(x), Some(lengths), state)
    }

    fn step(&self, x: Tensor<2>, state: KvCache) -> (Tensor<2>, KvCache) {
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        if super::step::has_kernel(self, &x, &state) {
            let [batch, width] = x.dims();
            self.check_width(width);
            self.check_state(&state, batch);
            return super::step::run(self, x, state);
        }
        let (y, state) = self.run(x.unsqueeze_dim(1), None, Some(state));
        (y.squeeze_dim(1), state)
    }
}
