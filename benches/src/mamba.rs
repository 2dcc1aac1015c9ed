//! The workloads of Mamba: the selective scan alone, and the layer around it. Burn has neither: they stand
//! beside their reference bodies in tensor operations.

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Distribution, Gradients, Tensor};
use seq_core::SequenceLayer;
use seq_mamba::{Mamba, MambaConfig, MambaState, Projection, SelectiveScan};

use crate::kind::{Kind, NORMAL, Named, build, compare, flat, leaf, placed};
use crate::{Agreement, Case, Disagreement, Profile, Workload};

/// What the workloads are called by.
pub const NAME: &str = "mamba";

/// What they are timed beside.
const REFERENCE: &str = "reference";

const D_MODEL: usize = 256;
const D_INNER: usize = 512;
const D_STATE: usize = 16;

/// Steps of a stream.
const STEPS: usize = 200;

/// How many steps are compared with the reference body, which keeps the states of all.
const COMPARED: usize = 256;

/// The lengths over which time must grow linearly.
const LENGTHS: [usize; 4] = [512, 2048, 8192, 32768];

pub fn cases(profile: Profile) -> Vec<Case> {
    let lengths = match profile {
        Profile::Quick => &LENGTHS[..3],
        Profile::Full => &LENGTHS,
    };
    let scans = |kind| lengths.iter().map(move |&time| scan(kind, time));
    // Beside attention, whose time grows with the square, up to the longest.
    let long = LENGTHS.iter().map(|&time| layer(Kind::Infer, 1, time));
    let others = [
        (Kind::Infer, 4, 1024),
        (Kind::Train, 4, 512),
        (Kind::Step, 1, 1),
    ];
    let others = others.map(|(kind, batch, time)| layer(kind, batch, time));
    scans(Kind::Infer)
        .chain(scans(Kind::Train))
        .chain(long)
        .chain(others)
        .collect()
}

fn scan(kind: Kind, time: usize) -> Case {
    let name = match kind {
        Kind::Infer => "fwd",
        _ => "fwdbwd",
    };
    Case {
        name: format!("sscan_{name}/L{time}"),
        flops: scan_flops(kind, time),
        steps: 1,
        scaling: true,
        checked: true,
        reads: 0.0,
        inputs: None,
        baseline: (time <= 2 * COMPARED).then_some(REFERENCE),
        build: build(move |device| Scan::new(kind, time, device)),
    }
}

fn layer(kind: Kind, batch: usize, time: usize) -> Case {
    let (name, steps) = match kind {
        Kind::Infer => (format!("mamba_infer/B{batch}_T{time}"), 1),
        Kind::Train => (format!("mamba_train/B{batch}_T{time}"), 1),
        Kind::Step => (format!("mamba_step/B{batch}"), STEPS),
    };
    Case {
        name,
        flops: layer_flops(kind, batch * time) * steps as f64,
        steps,
        scaling: kind == Kind::Infer && batch == 1,
        checked: true,
        reads: 0.0,
        inputs: None,
        baseline: (batch * time <= 2 * COMPARED).then_some(REFERENCE),
        build: build(move |device| Layer::new(kind, batch, time, device)),
    }
}

/// Of one state and one step, an exponential counted as one: 7 operations forward; 21 more backward, where
/// the states are made again.
fn scan_flops(kind: Kind, steps: usize) -> f64 {
    let operations = match kind {
        Kind::Infer | Kind::Step => 7,
        Kind::Train => 28,
    };
    (steps * D_INNER * D_STATE * operations) as f64
}

fn layer_flops(kind: Kind, steps: usize) -> f64 {
    let config = config();
    let rank = config.dt_rank();
    let selected = rank + 2 * D_STATE;
    let enter = 2 * D_MODEL * D_INNER;
    let rest = D_INNER * (config.d_conv + selected + rank + D_MODEL);
    // Backward is two products for each of the forward pass, but for the gradient of the input.
    let products = match kind {
        Kind::Infer | Kind::Step => enter + rest,
        Kind::Train => 2 * enter + 3 * rest,
    };
    (2 * steps * products) as f64 + scan_flops(kind, steps)
}

fn config() -> MambaConfig {
    MambaConfig::new(D_MODEL).with_d_state(D_STATE)
}

struct Scan {
    kind: Kind,
    time: usize,
    device: Device,
    scan: SelectiveScan,
}

impl Scan {
    fn new(kind: Kind, time: usize, device: &Device) -> Self {
        let device = placed(kind, device);
        let step_size = Distribution::Normal(-2.0, 0.5);
        let rate = Distribution::Uniform(-8.5, -0.5);
        let x = [1, time, D_INNER];
        let projection = || Projection::Varying(leaf([1, time, 1, D_STATE], NORMAL, kind, &device));
        let scan = SelectiveScan::new(
            leaf(x, NORMAL, kind, &device),
            leaf(x, step_size, kind, &device),
            leaf([D_INNER, D_STATE], rate, kind, &device),
            projection(),
            projection(),
        );
        Self {
            kind,
            time,
            scan: SelectiveScan {
                d: Some(leaf([D_INNER], NORMAL, kind, &device)),
                z: Some(leaf(x, NORMAL, kind, &device)),
                delta_softplus: true,
                ..scan
            },
            device,
        }
    }

    fn gradients(&self, gradients: &Gradients) -> Named {
        let scan = &self.scan;
        let projection = |x: &Projection| match x {
            Projection::Constant(x) => flat(x, gradients),
            Projection::Varying(x) => flat(x, gradients),
        };
        let values = [
            ("u", flat(&scan.u, gradients)),
            ("delta", flat(&scan.delta, gradients)),
            ("a", flat(&scan.a, gradients)),
            ("b", projection(&scan.b)),
            ("c", projection(&scan.c)),
            ("d", scan.d.as_ref().and_then(|d| flat(d, gradients))),
            ("z", scan.z.as_ref().and_then(|z| flat(z, gradients))),
        ];
        let named = |(name, value): (&str, Option<_>)| Some((name.to_owned(), value?));
        values.into_iter().filter_map(named).collect()
    }

    /// One run, and its gradients where they are asked for.
    fn run(&self, run: impl Fn(SelectiveScan) -> (Tensor<3>, Tensor<3>)) {
        let (y, _state) = run(self.scan.clone());
        if self.kind == Kind::Train {
            drop(y.sum().backward());
        }
        self.device.sync().expect("the device finishes its work");
    }
}

impl Workload for Scan {
    fn ours(&self) {
        self.run(SelectiveScan::run);
    }

    fn baseline(&self) {
        self.run(SelectiveScan::reference);
    }

    fn num_params(&self) -> usize {
        0
    }

    fn check(&self) -> Result<Agreement, Disagreement> {
        let short = Self::new(self.kind, self.time.min(COMPARED), &self.device);
        let ours = short.scan.clone().run();
        let reference = short.scan.clone().reference();
        let agreement = Agreement::default()
            .compare("the output", ours.0.clone(), reference.0.clone())?
            .compare("the final state", ours.1, reference.1)?;
        match self.kind {
            Kind::Train => compare(agreement, [ours.0, reference.0], |gradients| {
                short.gradients(gradients)
            }),
            Kind::Infer | Kind::Step => Ok(agreement),
        }
    }
}

struct Layer {
    kind: Kind,
    device: Device,
    mamba: Mamba,
    /// `[batch, time, D_MODEL]`, of which a stream takes the first step again and again.
    x: Tensor<3>,
}

impl Layer {
    fn new(kind: Kind, batch: usize, time: usize, device: &Device) -> Self {
        let device = placed(kind, device);
        Self {
            kind,
            mamba: config().init(&device),
            x: Tensor::random([batch, time, D_MODEL], NORMAL, &device),
            device,
        }
    }

    /// The reference body from a state, zeros by default.
    fn reference(&self, state: Option<MambaState>) -> (Tensor<3>, MambaState) {
        let zeros = || self.mamba.initial_state(self.x.dims()[0], &self.device);
        let state = state.unwrap_or_else(zeros);
        self.mamba.reference(self.x.clone(), None, state)
    }

    fn our_stream(&self) -> (Tensor<3>, MambaState) {
        let x: Tensor<2> = self.x.clone().squeeze_dim(1);
        let mut state = self.mamba.initial_state(x.dims()[0], &self.device);
        let mut y = None;
        for _ in 0..STEPS {
            let (output, next) = self.mamba.step(x.clone(), state);
            (y, state) = (Some(output), next);
        }
        (y.expect("at least one step").unsqueeze_dim(1), state)
    }

    fn reference_stream(&self) -> (Tensor<3>, MambaState) {
        let mut last = self.reference(None);
        for _ in 1..STEPS {
            last = self.reference(Some(last.1));
        }
        last
    }

    fn run(&self, whole: (Tensor<3>, MambaState)) {
        if self.kind == Kind::Train {
            drop(whole.0.sum().backward());
        }
        self.device.sync().expect("the device finishes its work");
    }
}

impl Workload for Layer {
    fn ours(&self) {
        self.run(match self.kind {
            Kind::Step => self.our_stream(),
            Kind::Infer | Kind::Train => self.mamba.forward(self.x.clone(), None),
        });
    }

    fn baseline(&self) {
        self.run(match self.kind {
            Kind::Step => self.reference_stream(),
            Kind::Infer | Kind::Train => self.reference(None),
        });
    }

    fn num_params(&self) -> usize {
        self.mamba.num_params()
    }

    fn check(&self) -> Result<Agreement, Disagreement> {
        let [batch, time, _] = self.x.dims();
        let short = Self::new(self.kind, batch, time.min(COMPARED), &self.device);
        let (ours, reference) = match self.kind {
            Kind::Step => (short.our_stream(), short.reference_stream()),
            Kind::Infer | Kind::Train => (
                short.mamba.forward(short.x.clone(), None),
                short.reference(None),
            ),
        };
        let agreement = Agreement::default()
            .compare("the output", ours.0.clone(), reference.0.clone())?
            .compare("the final state", ours.1.ssm, reference.1.ssm)?
            .compare("the convolution's state", ours.1.conv, reference.1.conv)?;
        match self.kind {
            Kind::Train => compare(agreement, [ours.0, reference.0], |gradients| {
                let mut reader = Reader::new(gradients);
                short.mamba.visit(&mut reader);
                reader.found
            }),
            Kind::Infer | Kind::Step => Ok(agreement),
        }
    }
}

/// Reads the gradients of all parameters.
struct Reader<'a> {
    gradients: &'a Gradients,
    path: Vec<String>,
    found: Named,
}

impl<'a> Reader<'a> {
    fn new(gradients: &'a Gradients) -> Self {
        Self {
            gradients,
            path: Vec::new(),
            found: Vec::new(),
        }
    }
}

impl ModuleVisitor for Reader<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = flat(&param.val(), self.gradients);
        self.found
            .extend(gradient.map(|gradient| (self.path.join("."), gradient)));
    }
}

#[cfg(test)]
mod tests {
    use seq_core::BackendName;

    use super::*;

    #[test]
    fn ours_and_the_reference_agree_to_the_gradients() {
        for backend in BackendName::compiled() {
            let device = backend.device();
            if !seq_core::is_cpu(&device) {
                // There, ours is the reference.
                continue;
            }
            for kind in [Kind::Infer, Kind::Train] {
                if let Err(error) = Scan::new(kind, 5, &device).check() {
                    panic!("the scan on {backend}: {error}");
                }
            }
            for kind in [Kind::Infer, Kind::Train, Kind::Step] {
                let time = if kind == Kind::Step { 1 } else { 5 };
                if let Err(error) = Layer::new(kind, 2, time, &device).check() {
                    panic!("the layer on {backend}: {error}");
                }
            }
        }
    }

    #[test]
    fn all_gradients_are_compared() {
        let device = Device::default();
        let scan = Scan::new(Kind::Train, 3, &device);
        let gradients = scan.scan.clone().run().0.sum().backward();
        assert_eq!(scan.gradients(&gradients).len(), 7);
        let layer = Layer::new(Kind::Train, 1, 3, &device);
        let gradients = layer
            .mamba
            .forward(layer.x.clone(), None)
            .0
            .sum()
            .backward();
        let mut reader = Reader::new(&gradients);
        layer.mamba.visit(&mut reader);
        // Four projections, one with a bias, the convolution with one, A and D.
        assert_eq!(reader.found.len(), 9);
    }

    #[test]
    fn operations_of_a_layer_are_those_of_its_products_and_its_scan() {
        let products = 256 * 1024 + 512 * (4 + 48 + 16 + 256);
        let expected = 10 * (2 * products + 7 * 512 * 16);
        assert_eq!(layer_flops(Kind::Infer, 10), expected as f64);
    }
}
