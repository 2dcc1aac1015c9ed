use burn::module::Param;
use burn::nn::{self, GateController, Linear};
use burn::tensor::{Device, Distribution, Gradients, Tensor};
use seq_lstm::{Lstm, LstmConfig, SequenceLayer};

use crate::{Agreement, Case, Disagreement, Profile, Workload};

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

pub fn cases(profile: Profile) -> Vec<Case> {
    let mut cases: Vec<Case> = QUICK
        .into_iter()
        .map(|(kind, size)| case(kind, size, false))
        .collect();
    if profile == Profile::Full {
        cases.extend(FULL.into_iter().map(|(kind, size)| case(kind, size, false)));
        for kind in [Kind::Infer, Kind::Train] {
            cases.extend(SCALING.map(|time| case(kind, size([1, time, 64, 64, 1]), true)));
        }
    }
    cases
}

fn case(kind: Kind, size: Size, scaling: bool) -> Case {
    let Size {
        batch,
        time,
        d_input,
        d_hidden,
        num_layers,
    } = size;
    let sizes = format!("B{batch}_T{time}_I{d_input}_H{d_hidden}_L{num_layers}");
    Case {
        name: match kind {
            Kind::Infer => format!("lstm_infer/{sizes}"),
            Kind::Train => format!("lstm_train/{sizes}"),
            Kind::Step => format!("lstm_step/B{batch}_H{d_hidden}"),
        },
        flops: flops(kind, size),
        steps: if kind == Kind::Step { time } else { 1 },
        scaling,
        build: Box::new(move |device| Box::new(LstmWorkload::new(kind, size, device))),
    }
}

fn flops(kind: Kind, size: Size) -> f64 {
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
        2 * size.batch * size.time * 4 * hidden * (forward + backward)
    };
    (0..size.num_layers).map(layer).sum::<usize>() as f64
}

struct LstmWorkload {
    kind: Kind,
    device: Device,
    ours: Lstm,
    /// One for each layer.
    burn_nn: Vec<nn::Lstm>,
    /// `[batch, time, d_input]`, of which a stream takes the first step again and again.
    x: Tensor<3>,
    /// What the output is multiplied with for the loss, shaped like it.
    probe: Tensor<3>,
}

impl LstmWorkload {
    fn new(kind: Kind, size: Size, device: &Device) -> Self {
        let device = match kind {
            Kind::Train => device.clone().autodiff(),
            Kind::Infer | Kind::Step => device.clone(),
        };
        device.seed(0);
        let ours = LstmConfig::new(size.d_input, size.d_hidden)
            .with_num_layers(size.num_layers)
            .init(&device);
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
            burn_nn: burn_nn_lstm(&ours, &device),
            ours,
            x: random(size.d_input),
            probe: random(size.d_hidden),
            device,
        }
    }

    fn burn_nn_forward(&self) -> (Tensor<3>, Vec<nn::LstmState<2>>) {
        let mut y = self.x.clone();
        let mut states = Vec::new();
        for lstm in &self.burn_nn {
            let (outputs, state) = lstm.forward(y, None);
            y = outputs;
            states.push(state);
        }
        (y, states)
    }

    fn gradients(&self, y: Tensor<3>) -> Gradients {
        (y * self.probe.clone()).sum().backward()
    }

    fn our_stream(&self) -> (Tensor<3>, seq_lstm::LstmState) {
        let x: Tensor<2> = self.x.clone().squeeze_dim(1);
        let mut state = self.ours.initial_state(x.dims()[0], &self.device);
        let mut y = None;
        for _ in 0..STEPS {
            let (output, next) = self.ours.step(x.clone(), state);
            (y, state) = (Some(output), next);
        }
        (y.expect("at least one step").unsqueeze_dim(1), state)
    }

    fn burn_nn_stream(&self) -> (Tensor<3>, Vec<nn::LstmState<2>>) {
        let mut states = vec![None; self.burn_nn.len()];
        let mut y = self.x.clone();
        for _ in 0..STEPS {
            y = self.x.clone();
            for (lstm, state) in self.burn_nn.iter().zip(&mut states) {
                let (output, next) = lstm.forward(y, state.take());
                (y, *state) = (output, Some(next));
            }
        }
        (y, states.into_iter().flatten().collect())
    }

    fn check_gradients(
        &self,
        agreement: Agreement,
        ours: &Gradients,
        burn_nn: &Gradients,
    ) -> Result<Agreement, Disagreement> {
        let mut agreement = agreement;
        for (layer, (cell, lstm)) in self.ours.cells.iter().zip(&self.burn_nn).enumerate() {
            let inputs = gates(lstm).map(|gate| &gate.input_transform);
            let hiddens = gates(lstm).map(|gate| &gate.hidden_transform);
            let weights = [
                ("weight_ih", &cell.weight_ih, inputs),
                ("weight_hh", &cell.weight_hh, hiddens),
            ];
            for (name, weight, linears) in weights {
                let rows = linears.map(|linear| gradient(&linear.weight, burn_nn).transpose());
                let reference = Tensor::cat(rows.to_vec(), 0);
                let what = format!("the gradient of {name} of layer {layer}");
                agreement = agreement.compare(&what, gradient(weight, ours), reference)?;
            }
            let biases = [
                ("bias_ih", &cell.bias_ih, inputs),
                ("bias_hh", &cell.bias_hh, hiddens),
            ];
            for (name, bias, linears) in biases {
                let rows = linears.map(|linear| gradient(bias_of(&linear.bias), burn_nn));
                let reference = Tensor::cat(rows.to_vec(), 0);
                let what = format!("the gradient of {name} of layer {layer}");
                agreement = agreement.compare(&what, gradient(bias_of(bias), ours), reference)?;
            }
        }
        Ok(agreement)
    }
}

impl Workload for LstmWorkload {
    fn ours(&self) {
        match self.kind {
            Kind::Infer => drop(self.ours.forward(self.x.clone(), None)),
            Kind::Train => drop(self.gradients(self.ours.forward(self.x.clone(), None).0)),
            Kind::Step => drop(self.our_stream()),
        }
        self.device.sync().expect("the device finishes its work");
    }

    fn burn_nn(&self) {
        match self.kind {
            Kind::Infer => drop(self.burn_nn_forward()),
            Kind::Train => drop(self.gradients(self.burn_nn_forward().0)),
            Kind::Step => drop(self.burn_nn_stream()),
        }
        self.device.sync().expect("the device finishes its work");
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
            agreement = agreement
                .compare("the final hidden state", ours.hidden, reference.hidden)?
                .compare("the final cell state", ours.cell, reference.cell)?;
        }
        if self.kind == Kind::Train {
            let (ours, burn_nn) = (self.gradients(y), self.gradients(reference));
            agreement = self.check_gradients(agreement, &ours, &burn_nn)?;
        }
        Ok(agreement)
    }
}

/// Burn's modules with the weights of `ours`, one for each layer.
fn burn_nn_lstm(ours: &Lstm, device: &Device) -> Vec<nn::Lstm> {
    let layer = |cell: &seq_lstm::LstmCell| {
        let hidden = cell.d_hidden();
        // A copy through plain data is contiguous and a leaf of its own for the gradients.
        let weight = |weight: &Param<Tensor<2>>, gate: usize| {
            let rows = weight.val().narrow(0, gate * hidden, hidden);
            Param::from_data(rows.transpose().into_data(), device)
        };
        let bias = |bias: &Option<Param<Tensor<1>>>, gate: usize| {
            let rows = bias_of(bias).val().narrow(0, gate * hidden, hidden);
            Some(Param::from_data(rows.into_data(), device))
        };
        let gate = |gate: usize| GateController {
            input_transform: Linear {
                weight: weight(&cell.weight_ih, gate),
                bias: bias(&cell.bias_ih, gate),
            },
            hidden_transform: Linear {
                weight: weight(&cell.weight_hh, gate),
                bias: bias(&cell.bias_hh, gate),
            },
        };
        let mut lstm = nn::LstmConfig::new(cell.d_input(), hidden, true).init(device);
        lstm.input_gate = gate(0);
        lstm.forget_gate = Some(gate(1));
        lstm.cell_gate = gate(2);
        lstm.output_gate = gate(3);
        lstm
    };
    ours.cells.iter().map(layer).collect()
}

/// In the order of the rows of our weights.
fn gates(lstm: &nn::Lstm) -> [&GateController; 4] {
    let forget = lstm.forget_gate.as_ref().expect("a forget gate of its own");
    [&lstm.input_gate, forget, &lstm.cell_gate, &lstm.output_gate]
}

fn gradient<const D: usize>(param: &Param<Tensor<D>>, gradients: &Gradients) -> Tensor<D> {
    param
        .val()
        .grad(gradients)
        .expect("a gradient for every parameter")
}

fn bias_of(bias: &Option<Param<Tensor<1>>>) -> &Param<Tensor<1>> {
    bias.as_ref().expect("an LSTM with biases")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_counted_as_in_the_libraries_measured_beside() {
        let small = size([2, 3, 5, 7, 1]);
        assert_eq!(flops(Kind::Infer, small), 2.0 * 6.0 * 28.0 * 12.0);
        assert_eq!(
            flops(Kind::Train, small),
            2.0 * 6.0 * 28.0 * (12.0 + 12.0 + 7.0)
        );
        let stacked = Size {
            num_layers: 2,
            ..small
        };
        assert_eq!(
            flops(Kind::Infer, stacked),
            2.0 * 6.0 * 28.0 * (12.0 + 14.0)
        );
    }

    #[test]
    fn ours_and_burns_agree_to_the_gradients() {
        for backend in seq_core::BackendName::compiled() {
            for kind in [Kind::Infer, Kind::Train, Kind::Step] {
                let workload = LstmWorkload::new(kind, size([3, 5, 4, 7, 2]), &backend.device());
                workload
                    .check()
                    .unwrap_or_else(|error| panic!("{backend}: {error}"));
            }
        }
    }

    #[test]
    fn another_weight_is_a_disagreement() {
        let mut workload =
            LstmWorkload::new(Kind::Train, size([2, 3, 4, 5, 1]), &Device::default());
        let cell = &mut workload.ours.cells[0];
        cell.weight_hh = cell.weight_hh.clone().map(|weight| weight.mul_scalar(1.01));
        assert!(workload.check().is_err());
    }
}
