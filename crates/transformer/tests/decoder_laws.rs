//! The laws of a sequence layer, for a decoder beside a memory.

use burn::module::{Module, Param};
use burn::tensor::{Device, Distribution, Tensor};
use seq_core::testing::Conformance;
use seq_transformer::{
    Decoder, DecoderBlockConfig, DecoderConfig, DecoderState, FeedForwardConfig, Lengths,
    MultiHeadAttentionConfig, NormConfig, NormPosition, RotaryConfig, SequenceLayer,
};

/// A decoder whose memory is a parameter, the same for each row.
#[derive(Module, Debug)]
struct Beside {
    decoder: Decoder,
    memory: Param<Tensor<3>>,
}

/// How many steps of the memory are real.
const REAL: usize = 3;

impl SequenceLayer for Beside {
    type State = DecoderState;

    fn d_input(&self) -> usize {
        self.decoder.blocks[0].attention.d_input()
    }

    fn d_output(&self) -> usize {
        self.d_input()
    }

    fn initial_state(&self, batch: usize, _: &Device) -> DecoderState {
        let memory = self.memory.val().repeat_dim(0, batch);
        let lengths = Lengths::new(vec![REAL; batch]);
        self.decoder.begin(memory, Some(&lengths))
    }

    fn forward(&self, x: Tensor<3>, state: Option<DecoderState>) -> (Tensor<3>, DecoderState) {
        let (batch, device) = (x.dims()[0], x.device());
        let state = state.unwrap_or_else(|| self.initial_state(batch, &device));
        self.decoder.forward(x, None, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<DecoderState>,
    ) -> (Tensor<3>, DecoderState) {
        Lengths::check_input(Some(lengths), x.dims());
        let (batch, device) = (x.dims()[0], x.device());
        let state = state.unwrap_or_else(|| self.initial_state(batch, &device));
        self.decoder.forward(x, Some(lengths), state)
    }

    fn step(&self, x: Tensor<2>, state: DecoderState) -> (Tensor<2>, DecoderState) {
        self.decoder.step(x, state)
    }
}

fn check(change: fn(DecoderBlockConfig) -> DecoderBlockConfig) {
    let make = move |size: usize, device: &Device| {
        let width = 2 * size.div_ceil(2);
        let attention = MultiHeadAttentionConfig::new(size + 2, 2).with_head_width(Some(width));
        let cross = attention.clone().with_d_memory(Some(size + 1));
        let feed_forward = FeedForwardConfig::new(size + 2, size + 3);
        let block = DecoderBlockConfig::new(attention, cross, feed_forward.into())
            .with_norm(NormConfig::Layer { epsilon: 0.3 });
        let memory = Tensor::random([1, REAL + 1, size + 1], Distribution::Default, device);
        Beside {
            decoder: DecoderConfig::new(2, change(block)).init(device),
            memory: Param::from_tensor(memory),
        }
    };
    Conformance::new(make).check();
}

#[test]
fn norms_before() {
    check(|config| config);
}

#[test]
fn norms_after() {
    check(|config| config.with_norm_position(NormPosition::Post));
}

#[test]
fn shared_heads_turned_within_a_window() {
    check(|mut config| {
        let rotary = RotaryConfig::new(config.attention.d_head());
        config.attention = config
            .attention
            .with_rotary(Some(rotary))
            .with_window(Some(3));
        config.cross_attention.num_kv_heads = Some(1);
        config
    });
}
