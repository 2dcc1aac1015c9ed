//! The kernels of attention beside its reference body.

use burn::tensor::{Bool, DType, Device, Tensor, TensorData};
use proptest::prelude::*;
use seq_core::testing::random::Random;
use seq_core::testing::recurrent::cpu_backends;
use seq_core::testing::{backends, first_device};
use seq_transformer::{Alignment, Attention, AttentionDropout, Lengths};

/// Everything that a call may have.
#[derive(Debug, Clone)]
struct Case {
    batch: usize,
    time: [usize; 2],
    kv_heads: usize,
    group: usize,
    widths: [usize; 2],
    causal: bool,
    alignment: usize,
    window: Option<usize>,
    softcap: Option<f64>,
    alibi: bool,
    mask: Option<usize>,
    bias: Option<usize>,
    lengths: bool,
    dropout: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let time = prop_oneof![1_usize..9, 30..40_usize, 60..70_usize, 125..140_usize];
    let time_key = prop_oneof![1_usize..9, 60..70_usize, 125..140_usize, 250..265_usize];
    let width = prop_oneof![1_usize..6, 15..18_usize, 31..34_usize];
    (
        (1_usize..3, time, time_key, 1_usize..3, 1_usize..4),
        (width.clone(), width, any::<bool>(), 0_usize..3),
        proptest::option::of(1_usize..20),
        proptest::option::of(0.5_f64..3.0),
        (any::<bool>(), proptest::option::of(0_usize..16)),
        (
            proptest::option::of(0_usize..16),
            any::<bool>(),
            any::<bool>(),
            any::<u64>(),
        ),
    )
        .prop_map(|(sizes, widths, window, softcap, more, rest)| Case {
            batch: sizes.0,
            time: [sizes.1, sizes.2],
            kv_heads: sizes.3,
            group: sizes.4,
            widths: [widths.0, widths.1],
            causal: widths.2,
            alignment: widths.3,
            window,
            softcap,
            alibi: more.0,
            mask: more.1,
            bias: rest.0,
            lengths: rest.1,
            dropout: rest.2,
            seed: rest.3,
        })
}

impl Case {
    fn heads(&self) -> usize {
        self.kv_heads * self.group
    }

    /// The axes that are not spread, by the bits of `which`.
    fn spread(&self, which: usize) -> [usize; 4] {
        let whole = [self.batch, self.heads(), self.time[0], self.time[1]];
        std::array::from_fn(|axis| {
            if which >> axis & 1 == 1 {
                whole[axis]
            } else {
                1
            }
        })
    }

    fn attention(&self, device: &Device, dtype: DType) -> (Attention, Vec<Tensor<4>>) {
        let [time_query, time_key] = self.time;
        let mut numbers = Random::new(self.seed, device, dtype);
        // Of variance one.
        let mut random = |shape: [usize; 4]| {
            let edge = 3_f64.sqrt();
            numbers.between("", shape, -edge, edge)
        };
        let query = random([self.batch, time_query, self.heads(), self.widths[0]]);
        let key = random([self.batch, time_key, self.kv_heads, self.widths[0]]);
        let value = random([self.batch, time_key, self.kv_heads, self.widths[1]]);
        let bias = self.bias.map(|which| random(self.spread(which)));
        let mask = self.mask.map(|which| {
            let shape = self.spread(which);
            let count = shape.iter().product::<usize>();
            let bits =
                (0..count as u64).map(|i| !(i * i * 7 + i + self.seed % 97).is_multiple_of(5));
            let bits = TensorData::new(bits.collect::<Vec<_>>(), shape);
            Tensor::<4, Bool>::from_data(bits, device)
        });
        let lengths = (0..self.batch).map(|b| (time_key / (b + 1)).min(time_key));
        let attention = Attention {
            causal: self.causal,
            alignment: match self.alignment {
                0 => Alignment::Start,
                1 => Alignment::End,
                _ => Alignment::At((0..self.batch).map(|b| 3 * b + 1).collect()),
            },
            window: self.window,
            softcap: self.softcap,
            alibi: self
                .alibi
                .then(|| (0..self.heads()).map(|h| 0.1 / (h + 1) as f64).collect()),
            mask,
            bias: bias.clone(),
            key_lengths: self.lengths.then(|| Lengths::new(lengths)),
            dropout: self.dropout.then_some(AttentionDropout {
                prob: 0.25,
                seed: self.seed,
            }),
            ..Attention::new(query.clone(), key.clone(), value.clone())
        };
        let inputs = [query, key, value].into_iter().chain(bias).collect();
        (attention, inputs)
    }
}

fn largest(x: &Tensor<4>, y: &Tensor<4>) -> f64 {
    let difference = (x.clone() - y.clone()).abs().max();
    difference
        .into_data()
        .iter::<f64>()
        .next()
        .expect("one number")
}

/// The largest difference of values and of gradients.
fn compare(case: &Case, device: &Device, dtype: DType) -> [f64; 2] {
    let (attention, _) = case.attention(device, dtype);
    let (found, expected) = (attention.clone().run(), attention.reference());
    let mut errors = [largest(&found, &expected), 0.0];
    let device = device.clone().autodiff();
    let gradients = |reference: bool| {
        let (attention, inputs) = case.attention(&device, dtype);
        let y = match reference {
            true => attention.reference(),
            false => attention.run(),
        };
        let probe = Random::new(!case.seed, &device, dtype).tensor("", y.dims());
        let gradients = (y * probe).sum().backward();
        let of = |x: &Tensor<4>| {
            let gradient = x.grad(&gradients);
            gradient.unwrap_or_else(|| x.clone().without_autodiff().zeros_like())
        };
        inputs.iter().map(of).collect::<Vec<_>>()
    };
    for (found, expected) in gradients(false).iter().zip(gradients(true)) {
        errors[1] = f64::max(errors[1], largest(found, &expected));
    }
    errors
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    #[test]
    fn the_kernels_are_the_reference(case in cases()) {
        for backend in cpu_backends() {
            let device = backend.device();
            // Measured over 2,000 cases: see the assertions' bounds, five times as much.
            let [value, gradient] = compare(&case, &device, DType::F64);
            prop_assert!(value < 1e-13 && gradient < 1e-12, "f64 {} {}", value, gradient);
            let [value, gradient] = compare(&case, &device, DType::F32);
            prop_assert!(value < 1e-5 && gradient < 1e-4, "f32 {} {}", value, gradient);
        }
    }
}

/// Output and gradients of the inputs, for a loss whose gradient is `probe`, on the CPU.
fn outcome(
    attention: &Attention,
    device: &Device,
    run: impl FnOnce(Attention) -> Tensor<4>,
    probe: &TensorData,
) -> Vec<TensorData> {
    let leaf = |x: &Tensor<4>| Tensor::<4>::from_data(x.to_data(), device).require_grad();
    let bias = attention.bias.as_ref().map(leaf);
    let [query, key, value] = [&attention.query, &attention.key, &attention.value].map(leaf);
    let inputs: Vec<_> = [&query, &key, &value]
        .into_iter()
        .chain(&bias)
        .cloned()
        .collect();
    let mask = attention.mask.as_ref();
    let y = run(Attention {
        query,
        key,
        value,
        bias,
        mask: mask.map(|mask| Tensor::from_data(mask.to_data(), device)),
        ..attention.clone()
    });
    let probe = Tensor::<4>::from_data(probe.clone(), device);
    let gradients = (y.clone() * probe).sum().backward();
    let of = |x: &Tensor<4>| x.grad(&gradients).expect("a gradient").into_data();
    std::iter::once(y.into_data())
        .chain(inputs.iter().map(of))
        .collect()
}

/// So many scores that the reference body makes them in parts, and again in its backward pass.
#[test]
fn parts_of_the_queries_are_the_whole() {
    let case = Case {
        batch: 1,
        time: [600, 4096],
        kv_heads: 1,
        group: 2,
        widths: [3, 2],
        causal: true,
        alignment: 1,
        window: Some(4000),
        softcap: Some(2.0),
        alibi: true,
        mask: Some(0b1100),
        bias: Some(0b1010),
        lengths: true,
        dropout: true,
        seed: 7,
    };
    let cpu = first_device();
    let (attention, _) = case.attention(&cpu, DType::F32);
    let probe: Tensor<4> = Random::new(8, &cpu, DType::F32).tensor("", [1, 600, 2, 2]);
    let probe = probe.into_data();
    let expected = outcome(&attention, &cpu.autodiff(), Attention::run, &probe);
    for backend in backends() {
        let device = backend.device().autodiff();
        let found = outcome(&attention, &device, Attention::reference, &probe);
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            let pairs = found.iter::<f64>().zip(expected.iter::<f64>());
            let error = pairs.fold(0.0, |error, (x, y)| f64::max(error, (x - y).abs()));
            let scale = expected
                .iter::<f64>()
                .fold(0.0, |scale, x| f64::max(scale, x.abs()));
            let error = error / scale;
            println!("{backend}: {i} differs by {error:.1e}");
            assert!(
                error < 1e-5,
                "{backend}: {i} differs by {error:.1e} of the largest"
            );
        }
    }
}
