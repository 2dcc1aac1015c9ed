//! The operation of one layer in one direction: its reference body, which specifies it.

use burn::module::Param;
use burn::nn::Dropout;
use burn::tensor::{Distribution, Tensor};
use seq_core::Lengths;
use seq_core::recurrent::{Recurrence, unroll};

use crate::Activation;
use crate::config::Zoneout;
use crate::layer::{LstmCell, LstmCellState};

pub(crate) fn lstm(
    cell: &LstmCell,
    x: Tensor<3>,
    lengths: Option<&Lengths>,
    reverse: bool,
    state: LstmCellState,
) -> (Tensor<3>, LstmCellState) {
    match fused(cell, x, lengths, reverse, state) {
        Ok(done) => done,
        Err(undone) => {
            let (x, state) = *undone;
            reference(cell, x, lengths, reverse, state)
        }
    }
}

pub(crate) fn lstm_step(
    cell: &LstmCell,
    x: Tensor<2>,
    state: LstmCellState,
) -> (Tensor<2>, LstmCellState) {
    match fused(cell, x.unsqueeze_dim(1), None, false, state) {
        Ok((_, state)) => (state.hidden.clone(), state),
        Err(undone) => {
            let (x, state) = *undone;
            let inputs = project(cell, x.squeeze_dim(1));
            let state = Step::new(cell, inputs.dims()[0]).run(inputs, state);
            (state.hidden.clone(), state)
        }
    }
}

/// The options of a cell that reach into the pointwise mathematics.
#[derive(Debug, Clone)]
#[cfg_attr(
    not(any(feature = "ndarray", feature = "flex")),
    allow(dead_code, reason = "a build without a CPU backend has no kernels")
)]
pub(crate) struct LstmKernel {
    pub peephole: bool,
    pub clip: Option<f64>,
    pub cell_clip: Option<f64>,
    pub gate: Activation,
    pub cell: Activation,
    pub hidden: Activation,
}

type Done = (Tensor<3>, LstmCellState);
type Undone = Box<(Tensor<3>, LstmCellState)>;

/// By the fused kernel, or the arguments again: it runs on CPU backends and leaves projections,
/// layer normalisation, zoneout and dropout inside the recurrence to the reference.
fn fused(
    cell: &LstmCell,
    x: Tensor<3>,
    lengths: Option<&Lengths>,
    reverse: bool,
    state: LstmCellState,
) -> Result<Done, Undone> {
    let weight = cell.weight_hh.val();
    let dropouts = [
        &cell.gates_dropout,
        &cell.hidden_dropout,
        &cell.cell_dropout,
    ];
    if cell.weight_hr.is_some()
        || cell.norm.is_some()
        || cell.zoneout != Zoneout::new()
        || dropouts
            .into_iter()
            .any(|dropout| training(dropout, &weight))
    {
        return Err(Box::new((x, state)));
    }
    let vector = |param: &Option<Param<Tensor<1>>>| param.as_ref().map(Param::val);
    let recurrence = Recurrence {
        x,
        weight_ih: cell.weight_ih.val(),
        weight_hh: weight,
        bias_ih: vector(&cell.bias_ih),
        bias_hh: vector(&cell.bias_hh),
        weights: vector(&cell.peephole),
        hidden: state.hidden,
        cell: Some(state.cell),
        packed: cell.packed.share(),
    };
    let kernel = LstmKernel {
        peephole: cell.peephole.is_some(),
        clip: cell.clip,
        cell_clip: cell.cell_clip,
        gate: cell.gate_activation,
        cell: cell.cell_activation,
        hidden: cell.hidden_activation,
    };
    match recurrence.run(kernel, lengths, reverse) {
        Ok((y, hidden, Some(cell))) => Ok((y, LstmCellState { hidden, cell })),
        Err(Recurrence {
            x,
            hidden,
            cell: Some(cell),
            ..
        }) => Err(Box::new((x, LstmCellState { hidden, cell }))),
        _ => unreachable!("an LSTM has a cell state"),
    }
}

/// The whole operation in plain tensor operations.
pub(crate) fn reference(
    cell: &LstmCell,
    x: Tensor<3>,
    lengths: Option<&Lengths>,
    reverse: bool,
    state: LstmCellState,
) -> (Tensor<3>, LstmCellState) {
    let [batch, time, width] = x.dims();
    // What the padding holds, NaN perhaps, must not reach the gradient of the weights.
    let x = lengths.map_or(x.clone(), |lengths| lengths.clear(x));
    let inputs = project(cell, x.reshape([batch * time, width]));
    let inputs = inputs.reshape([batch, time, 4 * cell.d_hidden()]);
    let step = Step::new(cell, batch);
    unroll(inputs, lengths, reverse, state, |x, state| {
        let state = step.run(x, state);
        (state.hidden.clone(), state)
    })
}

/// The input's part of the gates, biases included: `[rows, d_input]` to `[rows, 4 * d_hidden]`.
fn project(cell: &LstmCell, x: Tensor<2>) -> Tensor<2> {
    let mut gates = x.matmul(cell.weight_ih.val().transpose());
    if let Some(norm) = &cell.norm {
        gates = norm.input.forward(gates);
    }
    for bias in [&cell.bias_ih, &cell.bias_hh].into_iter().flatten() {
        gates = gates + bias.val().unsqueeze();
    }
    gates
}

/// One step of the recurrence, with what stays the same from step to step.
struct Step<'a> {
    cell: &'a LstmCell,
    weight_hh: Tensor<2>,
    /// Of the input, forget and output gates, each `[1, d_hidden]`.
    peephole: Option<[Tensor<2>; 3]>,
    /// Dropout masks of the whole sequence, `[batch, width]`.
    gates_mask: Option<Tensor<2>>,
    hidden_mask: Option<Tensor<2>>,
    cell_mask: Option<Tensor<2>>,
}

impl<'a> Step<'a> {
    fn new(cell: &'a LstmCell, batch: usize) -> Self {
        let weight_hh = cell.weight_hh.val();
        let hidden = cell.d_hidden();
        let mask = |dropout: &Dropout, width| {
            training(dropout, &weight_hh).then(|| {
                let ones = Tensor::ones([batch, width], (&weight_hh.device(), weight_hh.dtype()));
                dropout.forward(ones)
            })
        };
        Self {
            gates_mask: mask(&cell.gates_dropout, hidden),
            hidden_mask: mask(&cell.hidden_dropout, cell.d_output()),
            cell_mask: mask(&cell.cell_dropout, hidden),
            peephole: cell.peephole.as_ref().map(|peephole| {
                [0, 1, 2].map(|gate| peephole.val().narrow(0, gate * hidden, hidden).unsqueeze())
            }),
            weight_hh: weight_hh.transpose(),
            cell,
        }
    }

    /// `inputs` `[batch, 4 * d_hidden]`.
    fn run(&self, inputs: Tensor<2>, before: LstmCellState) -> LstmCellState {
        let cell = self.cell;
        let hidden = cell.d_hidden();
        let clip = |x: Tensor<2>, bound: Option<f64>| match bound {
            Some(bound) => x.clamp(-bound, bound),
            None => x,
        };
        let masked = |x: Tensor<2>, mask: &Option<Tensor<2>>| match mask {
            Some(mask) => x * mask.clone(),
            None => x,
        };
        let peep = |gate: Tensor<2>, index: usize, c: &Tensor<2>| match &self.peephole {
            Some(weights) => gate + weights[index].clone() * c.clone(),
            None => gate,
        };

        let mut product =
            masked(before.hidden.clone(), &self.hidden_mask).matmul(self.weight_hh.clone());
        if let Some(norm) = &cell.norm {
            product = norm.hidden.forward(product);
        }
        let gates = inputs + product;
        // Where nothing else enters the gates, one activation of all four, for the candidate in vain:
        // a GPU starts a kernel for every operation.
        let activated = (cell.clip.is_none() && cell.peephole.is_none())
            .then(|| cell.gate_activation.forward(gates.clone()));
        let gate = |index: usize| gates.clone().narrow(1, index * hidden, hidden);
        let activate = |gate, activation: Activation| activation.forward(clip(gate, cell.clip));
        let open = |index: usize, peephole: usize, c: &Tensor<2>| match &activated {
            Some(gates) => gates.clone().narrow(1, index * hidden, hidden),
            None => activate(peep(gate(index), peephole, c), cell.gate_activation),
        };

        let i = open(0, 0, &before.cell);
        let f = open(1, 1, &before.cell);
        let g = masked(activate(gate(2), cell.cell_activation), &self.gates_mask);
        let c = masked(
            clip(f * before.cell.clone() + i * g, cell.cell_clip),
            &self.cell_mask,
        );
        let o = open(3, 2, &c);
        let output = match &cell.norm {
            Some(norm) => norm.cell.forward(c.clone()),
            None => c.clone(),
        };
        let h = o * cell.hidden_activation.forward(output);
        let h = match &cell.weight_hr {
            Some(weight) => h.matmul(weight.val().transpose()),
            None => h,
        };
        LstmCellState {
            hidden: self.zoneout(cell.zoneout.hidden, before.hidden, h),
            cell: self.zoneout(cell.zoneout.cell, before.cell, c),
        }
    }

    fn zoneout(&self, probability: f64, before: Tensor<2>, after: Tensor<2>) -> Tensor<2> {
        if probability == 0.0 {
            return after;
        }
        // The module's three dropouts are switched together; any tells whether it is training.
        if self.cell.hidden_dropout.training.is_enabled() && after.device().is_autodiff() {
            let keep = after.random_like(Distribution::Bernoulli(probability));
            after.clone() + (before - after) * keep
        } else {
            before * probability + after * (1.0 - probability)
        }
    }
}

fn training(dropout: &Dropout, like: &Tensor<2>) -> bool {
    dropout.prob > 0.0 && dropout.training.is_enabled() && like.device().is_autodiff()
}
