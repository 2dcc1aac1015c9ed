//! The conformance suite and the golden runner find the faults that they are there for.
#![cfg(feature = "testing")]

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use burn::module::{Module, Param};
use burn::tensor::{Device, Distribution, Tensor, TensorData};
use safetensors::tensor::{Dtype, TensorView};
use seq_core::recurrent::unroll;
use seq_core::testing::{Conformance, Golden, Run, backends};
use seq_core::{BackendName, Lengths, SequenceLayer, SequenceState, StateMapper};

/// A leaky integrator, `h_t = decay * h_{t-1} + x_t weight`, and what may be wrong with it.
#[derive(Module, Debug)]
struct Leaky {
    weight: Param<Tensor<2>>,
    decay: Param<Tensor<1>>,
    #[module(skip)]
    fault: Fault,
    /// Added to the output, and not in the module's record.
    #[module(skip)]
    secret: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    OtherStep,
    StartsAnew,
    IgnoresLengths,
    SpreadsNanOfPadding,
    LooksAhead,
    DetachesParameter,
    DetachesState,
    OtherWithAutodiff,
    #[cfg(feature = "ndarray")]
    TrustsLayout,
    ForgetsPartOfState,
    MixesRows,
    ForgetsParameter,
}

#[derive(Debug, Clone)]
struct Memory {
    level: Tensor<2>,
    /// Added to the next outputs, and not in the state's bytes.
    secret: f64,
}

impl SequenceState for Memory {
    fn map(self, mapper: &mut impl StateMapper) -> Self {
        Self {
            level: mapper.tensor("level", self.level),
            ..self
        }
    }
}

impl Leaky {
    fn new(width: usize, fault: Fault, device: &Device) -> Self {
        let random = Distribution::Uniform(-0.5, 0.5);
        let secret = Tensor::<1>::random([1], random, device).into_scalar::<f32>();
        Self {
            weight: Param::from_tensor(Tensor::random([width, width + 1], random, device)),
            decay: Param::from_tensor(Tensor::random([width + 1], random, device)),
            secret: if fault == Fault::ForgetsParameter {
                secret.into()
            } else {
                0.0
            },
            fault,
        }
    }

    fn run(&self, x: Tensor<3>, lengths: Option<&Lengths>, state: Memory) -> (Tensor<3>, Memory) {
        let [batch, time, width] = x.dims();
        let mut x = x;
        #[cfg(feature = "ndarray")]
        if self.fault == Fault::TrustsLayout {
            x = as_stored(x);
        }
        if let Some(lengths) = lengths {
            let real = lengths.mask(time, &x.device()).reshape([batch, time, 1]);
            let real = real.expand([batch, time, width]);
            x = match self.fault {
                Fault::SpreadsNanOfPadding => x * real.float().cast(self.weight.dtype()),
                _ => x.mask_fill(real.bool_not(), 0.0),
            };
        }
        let (mut decay, mut level) = (self.decay.val(), state.level);
        match self.fault {
            Fault::DetachesParameter => decay = decay.without_autodiff(),
            Fault::DetachesState => level = level.without_autodiff(),
            Fault::StartsAnew if time > 1 => level = level * 0.0,
            _ => {}
        }
        let mut inputs =
            x.clone().matmul(self.weight.val().unsqueeze()) + state.secret + self.secret;
        match self.fault {
            Fault::LooksAhead => inputs = inputs + x.clone().mean_dim(1).mean_dim(2) * 1e-3,
            Fault::MixesRows => inputs = inputs + x.clone().mean_dim(0).mean_dim(2) * 1e-3,
            Fault::OtherWithAutodiff if x.is_autodiff() => inputs = inputs * 1.001,
            _ => {}
        }
        let lengths = lengths.filter(|_| self.fault != Fault::IgnoresLengths);
        let state = Memory { level, secret: 0.0 };
        let (y, mut state) = unroll(inputs, lengths, false, state, |x, state| {
            let level = state.level * decay.clone().unsqueeze() + x;
            (level.clone(), Memory { level, secret: 0.0 })
        });
        if self.fault == Fault::ForgetsPartOfState {
            state.secret = 0.1;
        }
        (y, state)
    }
}

/// The input with its elements as they lie in memory, whatever its strides say.
#[cfg(feature = "ndarray")]
#[allow(
    deprecated,
    reason = "Burn prefers its successor `flex`; both are kept"
)]
fn as_stored(x: Tensor<3>) -> Tensor<3> {
    use burn::backend::ndarray::{NdArray, NdArrayTensor};
    let options = (&x.device(), x.dtype());
    match x.clone().try_into_primitive::<NdArray>() {
        Ok(NdArrayTensor::F32(storage)) => match storage.view().to_slice_memory_order() {
            Some(values) => Tensor::from_data(TensorData::new(values.to_vec(), x.dims()), options),
            None => x,
        },
        _ => x,
    }
}

impl SequenceLayer for Leaky {
    type State = Memory;

    fn d_input(&self) -> usize {
        self.weight.dims()[0]
    }

    fn d_output(&self) -> usize {
        self.weight.dims()[1]
    }

    fn initial_state(&self, batch: usize, device: &Device) -> Memory {
        let level = Tensor::zeros([batch, self.d_output()], (device, self.weight.dtype()));
        Memory { level, secret: 0.0 }
    }

    fn forward(&self, x: Tensor<3>, state: Option<Memory>) -> (Tensor<3>, Memory) {
        let state = state.unwrap_or_else(|| self.initial_state(x.dims()[0], &x.device()));
        self.run(x, None, state)
    }

    fn forward_padded(
        &self,
        x: Tensor<3>,
        lengths: &Lengths,
        state: Option<Memory>,
    ) -> (Tensor<3>, Memory) {
        let state = state.unwrap_or_else(|| self.initial_state(x.dims()[0], &x.device()));
        self.run(x, Some(lengths), state)
    }

    fn step(&self, x: Tensor<2>, state: Memory) -> (Tensor<2>, Memory) {
        let x = if self.fault == Fault::OtherStep {
            x + 1e-3
        } else {
            x
        };
        let (y, state) = self.run(x.unsqueeze_dim(1), None, state);
        (y.squeeze_dim(1), state)
    }
}

fn suite(fault: Fault) -> Conformance<Leaky> {
    Conformance::new(move |width, device| Leaky::new(width, fault, device)).with_cases(3)
}

/// What a panic says.
fn complaint(check: impl FnOnce()) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(check)).err()?;
    Some(
        *panic
            .downcast::<String>()
            .expect("checks panic with a message"),
    )
}

#[test]
fn a_right_layer_obeys_all_laws() {
    suite(Fault::None)
        .with_reference(|layer, x, lengths, state| layer.run(x, lengths, state))
        .check();
}

/// Whether the tests run on another backend than the first, which has what all faults need to be seen: f64, and
/// tensors whose layout can be mistaken. The suites themselves are the same on every backend.
fn elsewhere() -> bool {
    backends()[0].name() != BackendName::compiled()[0].name()
}

#[test]
fn every_law_catches_its_faults() {
    if elsewhere() {
        return;
    }
    type Law = fn(&Conformance<Leaky>);
    let faults: &[(Fault, &str, Law)] = &[
        (Fault::OtherStep, "streaming", Conformance::streaming),
        (Fault::StartsAnew, "streaming", Conformance::streaming),
        (Fault::IgnoresLengths, "padding", Conformance::padding),
        (Fault::SpreadsNanOfPadding, "padding", Conformance::padding),
        (Fault::MixesRows, "padding", Conformance::padding),
        (Fault::LooksAhead, "causality", Conformance::causality),
        (
            Fault::DetachesParameter,
            "gradients",
            Conformance::gradients,
        ),
        (Fault::DetachesState, "gradients", Conformance::gradients),
        (Fault::OtherWithAutodiff, "kernels", Conformance::kernels),
        #[cfg(feature = "ndarray")]
        (Fault::TrustsLayout, "kernels", Conformance::kernels),
        (Fault::ForgetsPartOfState, "state", Conformance::state),
        (Fault::MixesRows, "state", Conformance::state),
        (Fault::ForgetsParameter, "saving", Conformance::saving),
    ];
    for (fault, name, law) in faults {
        let found = complaint(|| law(&suite(*fault)));
        let found = found.unwrap_or_else(|| panic!("{name} does not see {fault:?}"));
        assert!(
            found.contains(&format!("the law of {name} is broken")),
            "{fault:?}: {found}"
        );
    }
}

#[test]
fn a_reference_body_that_disagrees_is_found() {
    let body = |layer: &Leaky, x, lengths: Option<&Lengths>, state| {
        let (y, state) = layer.run(x, lengths, state);
        (y * 1.001, state)
    };
    let found = complaint(|| suite(Fault::None).with_reference(body).kernels());
    assert!(
        found
            .expect("a complaint")
            .contains("by the reference body")
    );
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ScaleConfig {
    factor: f64,
}

/// `y = factor * x * weight`.
fn scale(config: ScaleConfig, run: &mut Run) {
    let y = run.float::<1>("input.x") * run.float::<1>("weight.w") * config.factor;
    run.output("y", y);
}

/// Runs one case of the kind above, with `config` and some of the tensors replaced.
fn golden(
    config: &str,
    tensors: &[(&str, [f64; 2])],
    body: impl Fn(ScaleConfig, &mut Run) + 'static,
) -> Option<String> {
    let mut all = BTreeMap::from([
        ("input.x", [1.0, 2.0]),
        ("weight.w", [3.0, -1.0]),
        ("output.y", [6.0, -4.0]),
        ("probe.y", [1.0, 0.5]),
        ("gradient.input.x", [6.0, -1.0]),
        ("gradient.weight.w", [2.0, 2.0]),
    ]);
    all.extend(tensors.iter().copied());
    let all = all
        .iter()
        .map(|(name, values)| (*name, values.map(f64::to_le_bytes).concat()));
    let all: BTreeMap<_, _> = all.collect();
    let views = all.iter().map(|(name, bytes)| {
        (
            *name,
            TensorView::new(Dtype::F64, vec![2], bytes).expect("two numbers"),
        )
    });
    let json = format!(
        r#"{{"format": 1, "architecture": "toy", "kind": "scale", "source": "this test",
            "config": {config}, "tolerance": {{
            "f32": {{"output": [1e-5, 1e-5], "gradient": [1e-5, 1e-5]}},
            "f64": {{"output": [1e-10, 1e-10], "gradient": [1e-10, 1e-10]}}}}}}"#
    );
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("case.json");
    fs::write(&file, json).expect("a file");
    safetensors::serialize_to_file(views, None, &file.with_extension("safetensors"))
        .expect("a file");
    let golden = Golden::new(folder.path()).kind("toy", "scale", body);
    complaint(|| golden.check())
}

const RIGHT: &str = r#"{"factor": 2.0, "expected_zero_gradients": [], "greedy_margin": 0.5}"#;

#[test]
fn a_right_golden_case_passes() {
    assert_eq!(golden(RIGHT, &[], scale), None);
}

#[test]
fn the_golden_runner_catches_every_fault() {
    if elsewhere() {
        return;
    }
    let expect = |found: Option<String>, text: &str| {
        let found = found.unwrap_or_else(|| panic!("nothing complains of: {text}"));
        assert!(found.contains(text), "expected `{text}` in: {found}");
    };
    expect(
        golden(RIGHT, &[("output.y", [6.0, -4.001])], scale),
        "`output.y`: error",
    );
    expect(
        golden(RIGHT, &[("output.y", [6.0, f64::NAN])], scale),
        "`output.y`: error inf",
    );
    let wrong = [("gradient.weight.w", [2.0, 2.001])];
    expect(golden(RIGHT, &wrong, scale), "`gradient.weight.w`: error");
    // In f64 alone: the values are right to the last bit of f32.
    expect(
        golden(RIGHT, &[("output.y", [6.0, -4.0 - 1e-8])], scale),
        "f64: `output.y`: error",
    );

    expect(
        golden(RIGHT, &[("weight.other", [0.0; 2])], scale),
        "no use of [\"weight.other\"]",
    );
    expect(
        golden(RIGHT, &[("output.other", [0.0; 2])], scale),
        "expected [\"output.other\"",
    );
    expect(
        golden(RIGHT, &[("gradient.input.other", [0.0; 2])], scale),
        "nobody tracks",
    );
    expect(
        golden(r#"{"factor": 2.0, "twist": 1}"#, &[], scale),
        "unknown field `twist`",
    );
    let zero = r#"{"factor": 2.0, "expected_zero_gradients": ["input.x"]}"#;
    expect(
        golden(zero, &[], scale),
        "the gradient of `input.x` is not stored as zeros",
    );

    let constant = |config: ScaleConfig, run: &mut Run| {
        let w = run.float::<1>("weight.w").without_autodiff();
        let y = run.float::<1>("input.x") * w * config.factor;
        run.output("y", y);
    };
    expect(golden(RIGHT, &[], constant), "`gradient.weight.w`: error");
    expect(
        golden(RIGHT, &[], |_, _| panic!("not today")),
        "panicked: not today",
    );

    let folder = tempfile::tempdir().expect("a folder");
    let check = |golden: Golden| complaint(|| golden.kind("toy", "scale", scale).check());
    expect(check(Golden::new(folder.path())), "no golden cases there");
    expect(
        check(Golden::new(folder.path().join("none"))),
        "none: No such file",
    );
    let file = folder.path().join("case.json");
    let json =
        r#"{"format": 1, "architecture": "toy", "kind": "twist", "config": {}, "tolerance": {}}"#;
    fs::write(&file, json).expect("a file");
    expect(
        check(Golden::new(folder.path())),
        "toy has no golden kind `twist`",
    );
    fs::write(&file, json.replace("twist", "scale")).expect("a file");
    expect(check(Golden::new(folder.path())), "case.safetensors");
}
