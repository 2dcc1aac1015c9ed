//! The workloads of all recurrent layers, beside Burn's modules.

use burn::module::{Module, Param};
use burn::nn::{GateController, Linear};
use burn::tensor::{Device, Distribution, Gradients, Tensor};
use seq_core::SequenceLayer;
use seq_core::recurrent::{CellState, Recurrent, RecurrentCell, RecurrentConfig, RecurrentState};

use crate::{Agreement, Case, Disagreement, Profile, Workload};

/// A cell whose layers are compared with a module of Burn: what differs from one to the other.
pub trait Compared: RecurrentCell + 'static {
    /// What the names of the workloads begin with.
    const NAME: &'static str;
    /// How many blocks of `d_hidden` rows the weights have.
    const GATES: usize;
    /// Burn's module: a single layer.
    type BurnNn: Module;

    /// The configuration of our layer.
    fn config(
        d_input: usize,
        d_hidden: usize,
        num_layers: usize,
    ) -> impl RecurrentConfig<Cell = Self>;

    /// Burn's module with fresh weights.
    fn burn_nn(d_input: usize, d_hidden: usize, device: &Device) -> Self::BurnNn;

    /// Its gates, in the order of the rows of our weights.
    fn gates(module: &mut Self::BurnNn) -> Vec<&mut GateController>;

    /// Runs it over `[batch, time, d_input]`, from zeros where there is no state: the outputs
    /// `[batch, time, d_hidden]` and the state after the last step.
    fn forward(
        module: &Self::BurnNn,
        x: Tensor<3>,
        state: Option<Self::State>,
    ) -> (Tensor<3>, Self::State);
}

const STEPS: usize = 500;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The whole sequence without gradients.
    Infer,
    /// Forward, and the gradients of all parameters.
    Train,
    /// A stream, one step after the other.
    Step,
}

#[derive(Clone, Copy)]
struct Size {
    batch: usize,
    time: usize,
    d_input: usize,
    d_hidden: usize,
    num_layers: usize,
}

const fn size([batch, time, d_input, d_hidden, num_layers]: [usize; 5]) -> Size {
    Size {
        batch,
        time,
        d_input,
        d_hidden,
        num_layers,
    }
}

const QUICK: [(Kind, Size); 7] = [
    (Kind::Infer, size([1, 256, 128, 256, 1])),
    (Kind::Infer, size([1, 1000, 512, 512, 1])),
    (Kind::Infer, size([32, 128, 128, 256, 1])),
    (Kind::Infer, size([32, 128, 256, 512, 2])),
    (Kind::Train, size([32, 128, 128, 256, 1])),
    (Kind::Train, size([16, 256, 256, 512, 1])),
    (Kind::Step, size([1, STEPS, 256, 256, 1])),
];

const FULL: [(Kind, Size); 13] = [
    (Kind::Infer, size([1, 256, 64, 64, 1])),
    (Kind::Infer, size([1, 256, 1024, 1024, 1])),
    (Kind::Infer, size([8, 128, 64, 64, 1])),
    (Kind::Infer, size([8, 128, 128, 256, 1])),
    (Kind::Infer, size([8, 128, 512, 512, 1])),
    (Kind::Infer, size([32, 128, 512, 1024, 1])),
    (Kind::Train, size([8, 128, 128, 256, 1])),
    (Kind::Train, size([32, 128, 64, 64, 1])),
    (Kind::Train, size([32, 128, 256, 512, 2])),
    (Kind::Step, size([1, STEPS, 64, 64, 1])),
    (Kind::Step, size([1, STEPS, 512, 512, 1])),
    (Kind::Step, size([1, STEPS, 1024, 1024, 1])),
    (Kind::Step, size([8, STEPS, 256, 256, 1])),
];

/// The lengths over which time must grow linearly.
const SCALING: [usize; 5] = [256, 1024, 4096, 16384, 65536];

pub fn cases<C: Compared>(profile: Profile) -> Vec<Case> {
    let all = |(kind, size)| case::<C>(kind, size, false);
    let mut cases: Vec<Case> = QUICK.into_iter().map(all).collect();
    if profile == Profile::Full {
        cases.extend(FULL.into_iter().map(all));
        for kind in [Kind::Infer, Kind::Train] {
            cases.extend(SCALING.map(|time| case::<C>(kind, size([1, time, 64, 64, 1]), true)));
        }
    }
    cases
}

fn case<C: Compared>(kind: Kind, size: Size, scaling: bool) -> Case {
    let Size {
        batch,
        time,
        d_input,
        d_hidden,
        num_layers,
    } = size;
    let name = C::NAME;
    let sizes = format!("B{batch}_T{time}_I{d_input}_H{d_hidden}_L{num_layers}");
    Case {
        name: match kind {
            Kind::Infer => format!("{name}_infer/{sizes}"),
            Kind::Train => format!("{name}_train/{sizes}"),
            Kind::Step => format!("{name}_step/B{batch}_H{d_hidden}"),
        },
        flops: flops(kind, size, C::GATES),
        steps: if kind == Kind::Step { time } else { 1 },
        scaling,
        checked: !scaling,
        reads: 0.0,
        inputs: None,
        baseline: (!scaling).then_some("burn_nn"),
        build: Box::new(move |device| Box::new(RecurrentWorkload::<C>::new(kind, size, device))),
    }
}

fn flops(kind: Kind, size: Size, gates: usize) -> f64 {
    let layer = |layer: usize| {
        let (input, hidden) = (
            if layer == 0 {
                size.d_input
            } else {
                size.d_hidden
            },
            size.d_hidden,
        );
        let forward = input + hidden;
        let backward = match (kind, layer) {
            (Kind::Train, 0) => forward + hidden,
            (Kind::Train, _) => forward + hidden + input,
            _ => 0,
        };
        2 * size.batch * size.time * gates * hidden * (forward + backward)
    };
    (0..size.num_layers).map(layer).sum::<usize>() as f64
}

struct RecurrentWorkload<C: Compared> {
    kind: Kind,
    device: Device,
    ours: Recurrent<C>,
    /// One for each layer.
    burn_nn: Vec<C::BurnNn>,
    /// `[batch, time, d_input]`, of which a stream takes the first step again and again.
    x: Tensor<3>,
    /// What the output is multiplied with for the loss, shaped like it.
    probe: Tensor<3>,
}

impl<C: Compared> RecurrentWorkload<C> {
    fn new(kind: Kind, size: Size, device: &Device) -> Self {
        let device = match kind {
            Kind::Train => device.clone().autodiff(),
            Kind::Infer | Kind::Step => device.clone(),
        };
        device.seed(0);
        let ours = C::config(size.d_input, size.d_hidden, size.num_layers).init(&device);
        let time = if kind == Kind::Step { 1 } else { size.time };
        let random = |width| {
            Tensor::random(
                [size.batch, time, width],
                Distribution::Uniform(-1.0, 1.0),
                &device,
            )
        };
        Self {
            kind,
            burn_nn: ours
                .cells
                .iter()
                .map(|cell| burn_nn(cell, &device))
                .collect(),
            ours,
            x: random(size.d_input),
            probe: random(size.d_hidden),
            device,
        }
    }

    fn burn_nn_forward(&self) -> (Tensor<3>, Vec<C::State>) {
        let mut y = self.x.clone();
        let mut states = Vec::new();
        for module in &self.burn_nn {
            let (outputs, state) = C::forward(module, y, None);
            y = outputs;
            states.push(state);
        }
        (y, states)
    }

    fn gradients(&self, y: Tensor<3>) -> Gradients {
        (y * self.probe.clone()).sum().backward()
    }

    fn our_stream(&self) -> (Tensor<3>, RecurrentState<C::State>) {
        let x: Tensor<2> = self.x.clone().squeeze_dim(1);
        let mut state = self.ours.initial_state(x.dims()[0], &self.device);
        let mut y = None;
        for _ in 0..STEPS {
            let (output, next) = self.ours.step(x.clone(), state);
            (y, state) = (Some(output), next);
        }
        (y.expect("at least one step").unsqueeze_dim(1), state)
    }

    fn burn_nn_stream(&self) -> (Tensor<3>, Vec<C::State>) {
        let mut states = vec![None; self.burn_nn.len()];
        let mut y = self.x.clone();
        for _ in 0..STEPS {
            y = self.x.clone();
            for (module, state) in self.burn_nn.iter().zip(&mut states) {
                let (output, next) = C::forward(module, y, state.take());
                (y, *state) = (output, Some(next));
            }
        }
        (y, states.into_iter().flatten().collect())
    }

    fn check_gradients(
        &self,
        mut agreement: Agreement,
        ours: &Gradients,
        burn_nn: &Gradients,
    ) -> Result<Agreement, Disagreement> {
        for (layer, (cell, module)) in self.ours.cells.iter().zip(&self.burn_nn).enumerate() {
            let mut module = module.clone();
            let (weights, gates) = (cell.weights(), C::gates(&mut module));
            for (product, weight, bias, linear) in [
                ("ih", &weights.weight_ih, &weights.bias_ih, INPUT),
                ("hh", &weights.weight_hh, &weights.bias_hh, HIDDEN),
            ] {
                let weights = gates.iter().map(|gate| &linear(gate).weight);
                let rows = weights.map(|weight| gradient(weight, burn_nn).transpose());
                agreement = agreement.compare(
                    &format!("the gradient of weight_{product} of layer {layer}"),
                    gradient(weight, ours),
                    Tensor::cat(rows.collect(), 0),
                )?;
                let biases = gates.iter().map(|gate| bias_of(&linear(gate).bias));
                let rows = biases.map(|bias| gradient(bias, burn_nn));
                agreement = agreement.compare(
                    &format!("the gradient of bias_{product} of layer {layer}"),
                    gradient(bias_of(bias), ours),
                    Tensor::cat(rows.collect(), 0),
                )?;
            }
        }
        Ok(agreement)
    }
}

impl<C: Compared> Workload for RecurrentWorkload<C> {
    fn ours(&self) {
        match self.kind {
            Kind::Infer => drop(self.ours.forward(self.x.clone(), None)),
            Kind::Train => drop(self.gradients(self.ours.forward(self.x.clone(), None).0)),
            Kind::Step => drop(self.our_stream()),
        }
        self.device.sync().expect("the device finishes its work");
    }

    fn baseline(&self) {
        match self.kind {
            Kind::Infer => drop(self.burn_nn_forward()),
            Kind::Train => drop(self.gradients(self.burn_nn_forward().0)),
            Kind::Step => drop(self.burn_nn_stream()),
        }
        self.device.sync().expect("the device finishes its work");
    }

    fn num_params(&self) -> usize {
        self.ours.num_params()
    }

    fn check(&self) -> Result<Agreement, Disagreement> {
        let ((y, state), (reference, reference_states)) = match self.kind {
            Kind::Infer | Kind::Train => (
                self.ours.forward(self.x.clone(), None),
                self.burn_nn_forward(),
            ),
            Kind::Step => (self.our_stream(), self.burn_nn_stream()),
        };
        let mut agreement =
            Agreement::default().compare("the output", y.clone(), reference.clone())?;
        for (ours, reference) in state.cells.into_iter().zip(reference_states) {
            let ((hidden, cell), (reference, reference_cell)) =
                (ours.into_parts(), reference.into_parts());
            agreement = agreement.compare("the final hidden state", hidden, reference)?;
            if let (Some(cell), Some(reference)) = (cell, reference_cell) {
                agreement = agreement.compare("the final cell state", cell, reference)?;
            }
        }
        if self.kind == Kind::Train {
            let (ours, burn_nn) = (self.gradients(y), self.gradients(reference));
            agreement = self.check_gradients(agreement, &ours, &burn_nn)?;
        }
        Ok(agreement)
    }
}

const INPUT: fn(&GateController) -> &Linear = |gate| &gate.input_transform;
const HIDDEN: fn(&GateController) -> &Linear = |gate| &gate.hidden_transform;

/// Burn's module with the weights of `cell`.
fn burn_nn<C: Compared>(cell: &C, device: &Device) -> C::BurnNn {
    let (weights, hidden) = (cell.weights(), cell.d_hidden());
    // A copy through plain data is contiguous and a leaf of its own for the gradients.
    let linear = |weight: &Param<Tensor<2>>, bias: &Option<Param<Tensor<1>>>, gate: usize| {
        let weight = weight.val().narrow(0, gate * hidden, hidden).transpose();
        let bias = bias_of(bias).val().narrow(0, gate * hidden, hidden);
        Linear {
            weight: Param::from_data(weight.into_data(), device),
            bias: Some(Param::from_data(bias.into_data(), device)),
        }
    };
    let mut module = C::burn_nn(cell.d_input(), hidden, device);
    for (row, gate) in C::gates(&mut module).into_iter().enumerate() {
        gate.input_transform = linear(&weights.weight_ih, &weights.bias_ih, row);
        gate.hidden_transform = linear(&weights.weight_hh, &weights.bias_hh, row);
    }
    module
}

fn gradient<const D: usize>(param: &Param<Tensor<D>>, gradients: &Gradients) -> Tensor<D> {
    param
        .val()
        .grad(gradients)
        .expect("a gradient for every parameter")
}

fn bias_of(bias: &Option<Param<Tensor<1>>>) -> &Param<Tensor<1>> {
    bias.as_ref().expect("a layer with biases")
}

#[cfg(test)]
mod tests {
    use seq_core::BackendName;
    use seq_gru::GruCell;
    use seq_lstm::LstmCell;
    use seq_rnn::RnnCell;

    use super::*;

    #[test]
    fn operations_are_counted_as_in_the_libraries_measured_beside() {
        fn count<C: Compared>(rows: f64) {
            let small = size([2, 3, 5, 7, 1]);
            let flops = |kind, size| flops(kind, size, C::GATES);
            assert_eq!(flops(Kind::Infer, small), 2.0 * 6.0 * rows * 12.0);
            assert_eq!(
                flops(Kind::Train, small),
                2.0 * 6.0 * rows * (12.0 + 12.0 + 7.0)
            );
            let stacked = Size {
                num_layers: 2,
                ..small
            };
            assert_eq!(
                flops(Kind::Infer, stacked),
                2.0 * 6.0 * rows * (12.0 + 14.0)
            );
        }
        count::<LstmCell>(28.0);
        count::<GruCell>(21.0);
        count::<RnnCell>(7.0);
    }

    #[test]
    fn parameters_are_those_of_both_products() {
        fn count<C: Compared>() {
            let sizes = size([1, 1, 5, 7, 2]);
            let workload = RecurrentWorkload::<C>::new(Kind::Infer, sizes, &Device::default());
            let rows = C::GATES * 7;
            assert_eq!(
                workload.num_params(),
                rows * (5 + 7 + 2) + rows * (7 + 7 + 2)
            );
        }
        count::<LstmCell>();
        count::<GruCell>();
        count::<RnnCell>();
    }

    #[test]
    fn ours_and_burns_agree_to_the_gradients() {
        fn agree<C: Compared>(backend: BackendName) {
            for kind in [Kind::Infer, Kind::Train, Kind::Step] {
                let sizes = size([3, 5, 4, 7, 2]);
                let workload = RecurrentWorkload::<C>::new(kind, sizes, &backend.device());
                if let Err(error) = workload.check() {
                    panic!("{} on {backend}: {error}", C::NAME);
                }
            }
        }
        for backend in BackendName::compiled() {
            agree::<LstmCell>(backend);
            agree::<GruCell>(backend);
            agree::<RnnCell>(backend);
        }
    }

    #[test]
    fn another_weight_in_any_gate_is_a_disagreement() {
        fn disagree<C: Compared>() {
            let workload = || {
                let sizes = size([2, 3, 4, 5, 1]);
                RecurrentWorkload::<C>::new(Kind::Train, sizes, &Device::default())
            };
            for gate in 0..C::GATES {
                let mut changed = workload();
                let linear = &mut C::gates(&mut changed.burn_nn[0])[gate].hidden_transform;
                linear.weight = linear.weight.clone().map(|weight| weight * 1.01);
                assert!(changed.check().is_err(), "{} gate {gate}", C::NAME);
            }
            assert!(workload().check().is_ok());
        }
        disagree::<LstmCell>();
        disagree::<GruCell>();
        disagree::<RnnCell>();
    }
}
