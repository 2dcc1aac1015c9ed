//! Encoders, decoders and the models of both.

use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use seq_core::models::Sampler;
use seq_core::testing::backends;
use seq_transformer::{
    AttentionMask, DecoderBlockConfig, DecoderConfig, Encoder, EncoderConfig, FeedForwardConfig,
    Lengths, MultiHeadAttentionConfig, NormPosition, PositionsConfig, SequenceState,
    TransformerBlockConfig, TransformerSeq2Seq, TransformerSeq2SeqConfig,
};

/// What rounding may make of values of about 1; 9e-7 was seen.
const TOLERANCE: f32 = 1e-5;
const SYMBOLS: usize = 11;

fn attention() -> MultiHeadAttentionConfig {
    MultiHeadAttentionConfig::new(8, 2)
}

fn encoder(position: NormPosition) -> EncoderConfig {
    let feed_forward = FeedForwardConfig::new(8, 12).into();
    let block = TransformerBlockConfig::new(attention(), feed_forward);
    EncoderConfig::new(2, block.with_norm_position(position))
}

fn decoder(position: NormPosition) -> DecoderConfig {
    let feed_forward = FeedForwardConfig::new(8, 12).into();
    let block = DecoderBlockConfig::new(attention(), attention(), feed_forward);
    DecoderConfig::new(2, block.with_norm_position(position))
}

fn seq2seq() -> TransformerSeq2SeqConfig {
    let [pre, post] = [NormPosition::Pre, NormPosition::Post];
    TransformerSeq2SeqConfig::new(SYMBOLS, SYMBOLS, encoder(post), decoder(pre))
}

fn random(shape: [usize; 3], device: &Device) -> Tensor<3> {
    Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
}

fn ids<const D: usize>(ids: &[u32], shape: [usize; D], device: &Device) -> Tensor<D, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), shape), device)
}

fn assert_close<const D: usize>(found: Tensor<D>, expected: Tensor<D>, what: &str) {
    assert_eq!(found.dims(), expected.dims(), "{what}");
    let off: f32 = (found - expected).abs().max().into_scalar();
    assert!(off <= TOLERANCE, "{what}: off by {off:e}");
}

/// On each backend, with a seed.
fn everywhere(body: impl Fn(&Device, &str)) {
    for backend in backends() {
        let device = backend.device();
        device.seed(7);
        body(&device, backend.name());
    }
}

fn causal(lengths: Option<Lengths>) -> AttentionMask {
    AttentionMask {
        causal: true,
        lengths,
        ..AttentionMask::default()
    }
}

fn up_to(lengths: &Lengths) -> AttentionMask {
    AttentionMask {
        lengths: Some(lengths.clone()),
        ..AttentionMask::default()
    }
}

#[test]
fn padded_rows_are_encoded_as_each_alone() {
    everywhere(|device, name| {
        for position in [NormPosition::Pre, NormPosition::Post] {
            let encoder: Encoder = encoder(position).init(device);
            let x = random([3, 5, 8], device);
            let lengths = Lengths::new([3, 5, 1]);
            for is_causal in [false, true] {
                let mask = AttentionMask {
                    causal: is_causal,
                    ..up_to(&lengths)
                };
                let all = encoder.forward(x.clone(), &mask);
                let by_mask = AttentionMask {
                    causal: is_causal,
                    mask: Some(lengths.mask(5, device).reshape([3, 1, 1, 5])),
                    ..AttentionMask::default()
                };
                // The padding too, which PyTorch gives out.
                assert_close(encoder.forward(x.clone(), &by_mask), all.clone(), name);
                for (row, &length) in lengths.as_slice().iter().enumerate() {
                    let own = |x: &Tensor<3>| x.clone().narrow(0, row, 1).narrow(1, 0, length);
                    let mask = AttentionMask {
                        causal: is_causal,
                        ..AttentionMask::default()
                    };
                    let what = format!("{name}, {position:?}, row {row}, causal {is_causal}");
                    assert_close(own(&all), encoder.forward(own(&x), &mask), &what);
                }
            }
        }
    });
}

#[test]
fn padded_rows_are_decoded_as_each_alone() {
    everywhere(|device, name| {
        for position in [NormPosition::Pre, NormPosition::Post] {
            let decoder = decoder(position).init(device);
            let (x, memory) = (random([3, 5, 8], device), random([3, 4, 8], device));
            let (lengths, memory_lengths) = (Lengths::new([2, 5, 3]), Lengths::new([4, 1, 2]));
            let mask = causal(Some(lengths.clone()));
            let memory_mask = up_to(&memory_lengths);
            let all = decoder.decode(x.clone(), memory.clone(), &mask, &memory_mask);
            // By the state, in one piece and in steps.
            let state = decoder.begin(memory.clone(), Some(&memory_lengths));
            let (padded, after) = decoder.forward(x.clone(), Some(&lengths), state.clone());
            assert_close(padded, lengths.clear(all.clone()), name);
            assert_eq!(after.positions(), lengths.as_slice());
            for (row, &length) in lengths.as_slice().iter().enumerate() {
                let what = format!("{name}, {position:?}, row {row}");
                let own = |x: &Tensor<3>| x.clone().narrow(0, row, 1).narrow(1, 0, length);
                let memory = memory.clone().narrow(0, row, 1);
                let memory = memory.narrow(1, 0, memory_lengths.as_slice()[row]);
                let none = AttentionMask::default();
                let alone = decoder.decode(own(&x), memory, &causal(None), &none);
                assert_close(own(&all), alone.clone(), &what);
                let mut state = state.clone().select(&[row]);
                for t in 0..length {
                    let step = |x: Tensor<3>| x.narrow(1, t, 1).squeeze_dim::<2>(1);
                    let (y, next) = decoder.step(step(own(&x)), state);
                    assert_close(y, step(alone.clone()), &what);
                    state = next;
                }
            }
        }
    });
}

#[test]
fn states_beside_memories_of_different_lengths_become_one_batch() {
    everywhere(|device, name| {
        let decoder = decoder(NormPosition::Pre).init(device);
        let x = random([2, 2, 8], device);
        let begin = |row: usize, time: usize| {
            let state = decoder.begin(random([1, time, 8], device), None);
            let x = x.clone().narrow(0, row, 1).narrow(1, 0, 1);
            decoder.forward(x, None, state).1
        };
        let states = [begin(0, 5), begin(1, 2)];
        let last = |row| {
            x.clone()
                .narrow(0, row, 1)
                .narrow(1, 1, 1)
                .squeeze_dim::<2>(1)
        };
        let both = decoder.step(
            Tensor::cat(vec![last(0), last(1)], 0),
            SequenceState::concat(states.clone()),
        );
        let bytes = both.1.to_bytes();
        let restored = states[0].clone().restore(&bytes).unwrap();
        assert_eq!(restored.memory_lengths, Lengths::new([5, 2]), "{name}");
        for (row, state) in states.into_iter().enumerate() {
            let (y, state) = decoder.step(last(row), state);
            assert_close(both.0.clone().narrow(0, row, 1), y, name);
            let (after, _) = decoder.step(last(row), state);
            let selected = restored.clone().select(&[row]);
            assert_close(decoder.step(last(row), selected).0, after, name);
        }
    });
}

#[test]
fn damaged_memories_are_refused() {
    let device = seq_transformer::device();
    let decoder = decoder(NormPosition::Pre).init(&device);
    let state = decoder.begin(random([1, 4, 8], &device), None);
    let error = |name: &str, data: TensorData| {
        let mut record = state.record();
        let before = record.tensors.insert(name.to_owned(), data);
        assert!(before.is_some(), "there is no `{name}`");
        state
            .clone()
            .restore_record(record)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        error("memory_steps", TensorData::from([[5i64]])),
        "tensor `memory_steps`: expected at most 4, as there are keys of the memory, found 5"
    );
    let mut shape = state.blocks[0].memory.values.dims();
    shape[1] = 3;
    assert_eq!(
        error("0.memory_values", TensorData::zeros::<f32, _>(shape)),
        "tensor `0.memory_values`: expected as many steps as the keys, 4, found 3"
    );
}

#[test]
#[should_panic(expected = "a length of 9 exceeds the input's time 4")]
fn lengths_that_do_not_fit_the_memory() {
    let device = seq_transformer::device();
    let decoder = decoder(NormPosition::Pre).init(&device);
    decoder.begin(random([1, 4, 8], &device), Some(&Lengths::new([9])));
}

/// What comes out if all is read again for each symbol.
fn by_hand(model: &TransformerSeq2Seq, source: &[u32], max: usize, device: &Device) -> Vec<u32> {
    let mut target = vec![1];
    while target.len() <= max {
        let time = target.len();
        let (source, target_ids) = (
            ids(source, [1, source.len()], device),
            ids(&target, [1, time], device),
        );
        let logits = model.forward(source, None, target_ids);
        let last = logits.narrow(1, time - 1, 1).into_data();
        let last: Vec<f32> = last.iter::<f32>().collect();
        match Sampler::greedy().sample(&last) {
            2 => break,
            next => target.push(next),
        }
    }
    target.split_off(1)
}

#[test]
fn generation_is_that_without_a_cache() {
    let variants: [fn(TransformerSeq2SeqConfig) -> TransformerSeq2SeqConfig; 4] = [
        |config| config,
        |config| config.with_shared_embeddings(true).with_tied_head(true),
        |config| config.with_tied_head(true).with_scale_embeddings(false),
        |config| {
            let learned = Some(PositionsConfig::learned(9));
            let config = config.with_source_positions(learned);
            config.with_target_positions(learned).with_head_bias(false)
        },
    ];
    everywhere(|device, name| {
        for (variant, change) in variants.iter().enumerate() {
            let model = change(seq2seq()).init(device);
            let sources: [&[u32]; 4] = [&[3, 4, 5, 6, 7], &[8], &[5, 5, 9], &[10, 3, 4, 1]];
            let expected = sources.map(|source| by_hand(&model, source, 9, device));
            let found = model.generate(&sources, 1, 2, 20, Sampler::greedy());
            let found: Vec<&[u32]> = found.iter().map(|ids| &ids[..ids.len().min(9)]).collect();
            assert_eq!(found, expected, "{name}, variant {variant}");
            let alone = model.generate(&sources[1..2], 1, 2, 9, Sampler::greedy());
            assert_eq!(alone, expected[1..2], "{name}, variant {variant}");
        }
        let model = seq2seq().init(device);
        assert!(model.generate(&[], 1, 2, 5, Sampler::greedy()).is_empty());
        assert_eq!(
            model
                .generate(&[&[], &[4]], 1, 99, 3, Sampler::new(3))
                .len(),
            2
        );
        assert_eq!(
            model.generate(&[&[4]], 1, 2, 0, Sampler::greedy()),
            [[0; 0]]
        );
    });
}

#[test]
fn logits_of_a_padded_batch_are_those_of_each_row() {
    everywhere(|device, name| {
        let model = seq2seq().init(device);
        let lengths = Lengths::new([2, 4]);
        let source = ids(&[3, 4, 9, 9, 5, 6, 7, 8], [2, 4], device);
        let target = ids(&[1, 7, 8, 1, 5, 3], [2, 3], device);
        let all = model.forward(source.clone(), Some(&lengths), target.clone());
        assert_eq!(all.dims(), [2, 3, SYMBOLS]);
        let source = source.narrow(0, 0, 1).narrow(1, 0, 2);
        let alone = model.forward(source, None, target.narrow(0, 0, 1));
        assert_close(all.narrow(0, 0, 1), alone, name);
    });
}

#[test]
fn options_that_do_not_fit_are_named() {
    let narrow = |mut config: TransformerSeq2SeqConfig| {
        config.decoder.block.cross_attention.d_memory = Some(6);
        config
    };
    let other = TransformerSeq2SeqConfig {
        target_vocab: 5,
        ..seq2seq()
    };
    let error = |config: TransformerSeq2SeqConfig| config.validate().unwrap_err().to_string();
    let found = [
        error(narrow(seq2seq())),
        error(other.with_shared_embeddings(true)),
        error(seq2seq().with_dropout(1.5)),
    ];
    let expected = [
        "decoder.d_memory must be the encoder's d_model, is 6",
        "target_vocab must be source_vocab where embeddings are shared, is 5",
        "dropout must be in [0, 1), is 1.5",
    ];
    assert_eq!(found, expected);
}
