//! Scaled dot-product attention.

#[cfg(any(feature = "ndarray", feature = "flex"))]
pub(crate) mod cpu;
mod dropout;
#[cfg(any(feature = "ndarray", feature = "flex"))]
mod gradient;
#[cfg(any(feature = "ndarray", feature = "flex"))]
#[allow(deprecated, reason = "Burn prefers flex to ndarray; both are kept")]
mod ops;
mod reach;
mod reference;

#[cfg(any(feature = "ndarray", feature = "flex"))]
use burn::tensor::DType;
use burn::tensor::{Bool, Tensor};
use seq_core::Lengths;

pub use dropout::AttentionDropout;
pub(crate) use reach::Reach;

/// Scaled dot-product attention (Vaswani et al. 2017, <https://arxiv.org/abs/1706.03762>, section 3.2.1):
/// what every query takes from the values, weighted by how well their keys fit it.
///
/// ```text
/// score_ij = softcap * tanh(scale * q_i k_j / softcap) + bias_ij - slope * |distance_ij|
/// y_i = sum_j softmax_j(score_ij) v_j
/// ```
///
/// over the keys `j` that query `i` may see. A query that may see none gives zeros and takes part in no
/// gradient. Query head `h` reads key-value head `h / (num_heads / num_kv_heads)`: grouped queries (Ainslie et al.
/// 2023, <https://arxiv.org/abs/2305.13245>), and with one key-value head multi-query attention (Shazeer 2019,
/// <https://arxiv.org/abs/1911.02150>).
///
/// On CPU backends, in `f32` and `f64`, it runs in tiles with a running softmax (Dao et al. 2022,
/// <https://arxiv.org/abs/2205.14135>; Dao 2023, <https://arxiv.org/abs/2307.08691>), and the gradient makes the
/// weights again: nothing as large as `time_query * time_key` is ever stored. Elsewhere by the
/// [`reference`](Self::reference) body.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// use burn::tensor::{Distribution, Tensor};
/// use seq_transformer::Attention;
///
/// let device = seq_transformer::device();
/// let random = |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Default, &device);
/// // Batch 2, 10 steps; 4 heads of 8 share 2 heads of keys and values.
/// let attention = Attention {
///     causal: true,
///     ..Attention::new(random([2, 10, 4, 8]), random([2, 10, 2, 8]), random([2, 10, 2, 8]))
/// };
/// assert_eq!(attention.run().dims(), [2, 10, 4, 8]);
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Attention {
    /// `[batch, time_query, num_heads, d_head]`
    pub query: Tensor<4>,
    /// `[batch, time_key, num_kv_heads, d_head]`; `num_kv_heads` divides `num_heads`.
    pub key: Tensor<4>,
    /// `[batch, time_key, num_kv_heads, d_value]`
    pub value: Tensor<4>,
    /// Whether a query sees only the keys up to its own position.
    pub causal: bool,
    /// Where among the keys the queries stand, for `causal`, `window` and `alibi`.
    pub alignment: Alignment,
    /// How many keys a query sees at most, the one at its own position the last of them (Mistral's
    /// `sliding_window`); without `causal` as many on the other side of it.
    pub window: Option<usize>,
    /// What the products are multiplied by; by default `1 / sqrt(d_head)`.
    pub scale: Option<f64>,
    /// The bound that scores are bent to by a hyperbolic tangent, as in Gemma 2; by default none.
    pub softcap: Option<f64>,
    /// The slope of each head by which distance lowers a score (ALiBi, Press et al. 2022,
    /// <https://arxiv.org/abs/2108.12409>).
    pub alibi: Option<Vec<f64>>,
    /// True where a query may see a key; each axis is that of `[batch, num_heads, time_query, time_key]`, or 1.
    pub mask: Option<Tensor<4, Bool>>,
    /// Added to the scores, of a shape as that of `mask`; minus infinity hides a key.
    pub bias: Option<Tensor<4>>,
    /// How many keys of each row there are; those beyond are not seen.
    pub key_lengths: Option<Lengths>,
    /// Weights that are dropped, while training.
    pub dropout: Option<AttentionDropout>,
}

/// Where the first query stands among the keys; the others follow it, a key each.
///
/// The example is at [`Attention`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Alignment {
    /// At the first key, as PyTorch's `is_causal` has it.
    Start,
    /// So that the last query stands at the last key, of each row's own number of keys: as queries that
    /// follow what a cache holds. For as many queries as keys it is the same as `Start`.
    #[default]
    End,
    /// At the key of this index, in each row.
    At(Vec<usize>),
}

impl Attention {
    /// Attention of every query to every key.
    pub fn new(query: Tensor<4>, key: Tensor<4>, value: Tensor<4>) -> Self {
        Self {
            query,
            key,
            value,
            causal: false,
            alignment: Alignment::default(),
            window: None,
            scale: None,
            softcap: None,
            alibi: None,
            mask: None,
            bias: None,
            key_lengths: None,
            dropout: None,
        }
    }

    /// `[batch, time_query, num_heads, d_value]`
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, naming both.
    pub fn run(self) -> Tensor<4> {
        self.check();
        #[cfg(any(feature = "ndarray", feature = "flex"))]
        if self.has_kernel() {
            return ops::run(self);
        }
        reference::run(self)
    }

    /// The specification of [`run`](Self::run), in plain tensor operations; what the fused kernels are
    /// compared with. Many queries are done some at a time, so that no more than about 16 million scores are
    /// there at once.
    ///
    /// # Panics
    ///
    /// As [`run`](Self::run).
    pub fn reference(self) -> Tensor<4> {
        self.check();
        reference::run(self)
    }

    #[cfg(any(feature = "ndarray", feature = "flex"))]
    fn has_kernel(&self) -> bool {
        let dtype = self.query.dtype();
        let others = [Some(&self.key), Some(&self.value), self.bias.as_ref()];
        seq_core::is_cpu(&self.query.device())
            && matches!(dtype, DType::F32 | DType::F64)
            && others.into_iter().flatten().all(|x| x.dtype() == dtype)
    }

    /// Which keys each query may see by its position.
    fn reach(&self) -> Reach {
        let [batch, time_query, _, _] = self.query.dims();
        let [_, time_key, _, _] = self.key.dims();
        let keys = match &self.key_lengths {
            Some(lengths) => lengths.as_slice().to_vec(),
            None => vec![time_key; batch],
        };
        let offsets = match &self.alignment {
            Alignment::Start => vec![0; batch],
            Alignment::End => keys
                .iter()
                .map(|&keys| keys as isize - time_query as isize)
                .collect(),
            Alignment::At(first) => first.iter().map(|&first| first as isize).collect(),
        };
        Reach {
            causal: self.causal,
            window: self.window,
            offsets,
            keys,
        }
    }

    fn scale(&self) -> f64 {
        let [_, _, _, d_head] = self.query.dims();
        self.scale.unwrap_or(1.0 / (d_head as f64).sqrt())
    }

    fn check(&self) {
        let query @ [batch, time_query, heads, d_head] = self.query.dims();
        let [_, time_key, kv_heads, d_value] = self.value.dims();
        let fits = |name: &str, found: &[usize], expected: &[usize]| {
            assert_eq!(
                found, expected,
                "{name} has shape {found:?}, the attention of queries {query:?} needs {expected:?}"
            );
        };
        fits(
            "key",
            &self.key.dims(),
            &[batch, time_key, kv_heads, d_head],
        );
        fits(
            "value",
            &self.value.dims(),
            &[batch, time_key, kv_heads, d_value],
        );
        assert!(
            kv_heads > 0 && heads % kv_heads == 0,
            "{kv_heads} heads of keys do not divide the {heads} heads of the queries"
        );
        let whole = [batch, heads, time_query, time_key];
        let spreads = |name: &str, found: [usize; 4]| {
            assert!(
                found
                    .iter()
                    .zip(whole)
                    .all(|(&found, size)| found == 1 || found == size),
                "{name} has shape {found:?}, which does not spread to the scores' {whole:?}"
            );
        };
        if let Some(mask) = &self.mask {
            spreads("the mask", mask.dims());
        }
        if let Some(bias) = &self.bias {
            spreads("the bias", bias.dims());
        }
        if let Some(slopes) = &self.alibi {
            fits("the slopes", &[slopes.len()], &[heads]);
        }
        if let Some(lengths) = &self.key_lengths {
            fits("key_lengths", &[lengths.as_slice().len()], &[batch]);
            let longest = lengths.as_slice().iter().copied().max().unwrap_or(0);
            assert!(
                longest <= time_key,
                "a row has {longest} keys, there are {time_key}"
            );
        }
        if let Alignment::At(first) = &self.alignment {
            fits("the alignment", &[first.len()], &[batch]);
        }
        assert!(
            self.window != Some(0),
            "a window of no key lets no query see anything"
        );
    }
}
