//! Decoding with a cache: one step after a context.

use std::cell::Cell;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use seq_core::{SequenceLayer, SequenceState, StateMapper};
use seq_transformer::{
    Activation, FeedForwardConfig, KvCache, MultiHeadAttention, MultiHeadAttentionConfig,
    NormConfig, RotaryConfig, Transformer, TransformerBlockConfig, TransformerConfig,
    TransformerState,
};

use super::{attention_flops, finish};
use crate::kind::{Kind, NORMAL, build, placed};
use crate::{Agreement, Case, Disagreement, Workload};

const CONTEXTS: [usize; 4] = [256, 1024, 4096, 16384];

/// Steps of one run, all after the same context but for these.
const STEPS: usize = 16;

/// The longest context after which a step is compared.
const COMPARED: usize = 64;

/// SmolLM2-135M has 30 layers.
const LAYERS: usize = 4;
const D_MODEL: usize = 576;
const D_HEAD: usize = 64;
const KV_HEADS: usize = 3;
const D_FF: usize = 1536;

pub fn cases() -> Vec<Case> {
    let alone = CONTEXTS.into_iter().map(attention);
    alone.chain(CONTEXTS.into_iter().map(stack)).collect()
}

fn case(name: String, context: usize, cost: &Cost, build: crate::Build) -> Case {
    // The last of the steps sees `STEPS` keys, the first one, more than the context.
    let keys = context as f64 + (STEPS + 1) as f64 / 2.0;
    let products = 2.0 * cost.weights as f64;
    let attention = attention_flops(1.0, keys, cost.queries, false);
    let numbers = cost.weights as f64 + 2.0 * keys * cost.keys as f64;
    Case {
        name,
        flops: STEPS as f64 * (products + attention),
        steps: STEPS,
        scaling: false,
        checked: true,
        reads: size_of::<f32>() as f64 * numbers,
        inputs: None,
        baseline: None,
        build,
    }
}

/// What a step is counted by, over all layers: the weights of its products, and the widths of queries and keys.
struct Cost {
    weights: usize,
    queries: usize,
    keys: usize,
}

fn attention(context: usize) -> Case {
    let cost = Cost {
        weights: 4 * 512 * 512,
        queries: 512,
        keys: 512,
    };
    let make = move |device: &Device| {
        let init = |device: &Device| MultiHeadAttentionConfig::new(512, 8).init(device);
        Decoding::new(context, init, rewind, device)
    };
    let name = format!("attention_step/B1_H8_C{context}_D64");
    case(
        name,
        context,
        &cost,
        build::<Decoding<MultiHeadAttention>>(make),
    )
}

fn stack(context: usize) -> Case {
    let kv_width = KV_HEADS * D_HEAD;
    let weights = 2 * D_MODEL * (D_MODEL + kv_width) + 3 * D_MODEL * D_FF;
    let cost = Cost {
        weights: LAYERS * weights,
        queries: LAYERS * D_MODEL,
        keys: LAYERS * kv_width,
    };
    let make = move |device: &Device| {
        Decoding::new(context, |device| llama().init(device), rewind_all, device)
    };
    let name = format!("decode_step/B1_C{context}_L{LAYERS}");
    case(name, context, &cost, build::<Decoding<Transformer>>(make))
}

/// The blocks of SmolLM2-135M, fewer of them.
fn llama() -> TransformerConfig {
    let attention = MultiHeadAttentionConfig::new(D_MODEL, D_MODEL / D_HEAD)
        .with_num_kv_heads(Some(KV_HEADS))
        .with_bias(false)
        .with_output_bias(false)
        .with_rotary(Some(RotaryConfig::new(D_HEAD).with_base(100_000.0)));
    let feed_forward = FeedForwardConfig::new(D_MODEL, D_FF)
        .with_activation(Activation::Silu)
        .with_gated(true)
        .with_bias(false);
    let block = TransformerBlockConfig::new(attention, feed_forward.into())
        .with_norm(NormConfig::Rms { epsilon: 1e-5 });
    TransformerConfig::new(LAYERS, block)
}

fn rewind(state: KvCache, length: usize) -> KvCache {
    state.rewind(length).expect("a cache without a window")
}

fn rewind_all(state: TransformerState, length: usize) -> TransformerState {
    state.rewind(length).expect("caches without a window")
}

struct Decoding<L: SequenceLayer> {
    context: usize,
    device: Device,
    layer: L,
    /// `[1, d_model]`, what each step reads.
    x: Tensor<2>,
    rewind: fn(L::State, usize) -> L::State,
    /// That of the last run. It goes back to the context, and so nothing but the first run makes room.
    state: Cell<Option<L::State>>,
}

impl<L: SequenceLayer> Decoding<L> {
    fn new(
        context: usize,
        init: impl Fn(&Device) -> L,
        rewind: fn(L::State, usize) -> L::State,
        device: &Device,
    ) -> Self {
        let device = placed(Kind::Step, device);
        let layer = init(&device);
        let state = layer.initial_state(1, &device).map(&mut Filled(context));
        Self {
            context,
            x: Tensor::random([1, layer.d_input()], NORMAL, &device),
            layer,
            rewind,
            state: Cell::new(Some(state)),
            device,
        }
    }
}

impl<L: SequenceLayer + Module> Workload for Decoding<L> {
    fn ours(&self) {
        let last = self.state.take().expect("the state of the last run");
        let mut state = (self.rewind)(last, self.context);
        for _ in 0..STEPS {
            (_, state) = self.layer.step(self.x.clone(), state);
        }
        self.state.set(Some(state));
        finish(&self.device);
    }

    fn baseline(&self) {
        unreachable!("it is compared with whole sequences alone");
    }

    fn num_params(&self) -> usize {
        self.layer.num_params()
    }

    /// Compares steps after a prompt with the whole sequence at once.
    fn check(&self) -> Result<Agreement, Disagreement> {
        let context = self.context.min(COMPARED);
        let shape = [1, context + 3, self.layer.d_input()];
        let x = Tensor::<3>::random(shape, NORMAL, &self.device);
        let (whole, _state) = self.layer.forward(x.clone(), None);
        let (_, mut state) = self.layer.forward(x.clone().narrow(1, 0, context), None);
        let mut agreement = Agreement::default();
        for step in context..context + 3 {
            let at = |x: &Tensor<3>| x.clone().narrow(1, step, 1).squeeze_dim::<2>(1);
            let (y, next) = self.layer.step(at(&x), state);
            agreement = agreement.compare("the output of a step", y, at(&whole))?;
            state = next;
        }
        Ok(agreement)
    }
}

/// Gives caches the length of a context, of random contents: reading one as long would take the most of the time.
struct Filled(usize);

impl StateMapper for Filled {
    fn tensor<const D: usize>(&mut self, _: &str, tensor: Tensor<D>) -> Tensor<D> {
        tensor
    }

    fn growing<const D: usize>(&mut self, _: &str, tensor: Tensor<D>, axis: usize) -> Tensor<D> {
        let mut shape = tensor.dims();
        shape[axis] = self.0;
        Tensor::random(shape, NORMAL, &tensor.device())
    }

    fn counts<const N: usize>(&mut self, _: &str, counts: Vec<[usize; N]>) -> Vec<[usize; N]> {
        vec![[self.0; N]; counts.len()]
    }
}

#[cfg(test)]
mod tests {
    use seq_core::BackendName;

    use super::*;

    #[test]
    fn steps_agree_with_the_whole_sequence() {
        for backend in BackendName::compiled() {
            for case in [attention(9), stack(9)] {
                if let Err(error) = (case.build)(&backend.device()).check() {
                    panic!("{} on {backend}: {error}", case.name);
                }
            }
        }
    }

    #[test]
    fn every_run_begins_at_the_context() {
        let init = |device: &Device| MultiHeadAttentionConfig::new(16, 2).init(device);
        let decoding = Decoding::new(40, init, rewind, &Device::default());
        for _ in 0..3 {
            decoding.ours();
            let state = decoding.state.take().expect("the state");
            assert_eq!(state.positions(), [40 + STEPS]);
            decoding.state.set(Some(state));
        }
    }

    #[test]
    fn weights_are_counted_but_for_norms() {
        let device = Device::default();
        let stack = llama().init(&device);
        let norms = (2 * LAYERS + 1) * D_MODEL;
        let cost = stack.num_params() - norms;
        let case = super::stack(1000);
        let read = 4.0 * (cost as f64 + 2.0 * 1008.5 * (LAYERS * KV_HEADS * D_HEAD) as f64);
        assert_eq!(case.reads, read);
    }
}
