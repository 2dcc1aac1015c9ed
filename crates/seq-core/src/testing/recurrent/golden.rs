use burn::config::Config;
use burn::module::Param;
use burn::tensor::Tensor;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::checkpoint::Stored;
use crate::recurrent::{
    CellState, PyTorchCell, Recurrent, RecurrentCell, RecurrentConfig, RecurrentState,
};
use crate::testing::{Golden, Run};
use crate::{Lengths, SequenceLayer};

type Options = Map<String, Value>;

/// What a case says of its inputs, and the sizes of the layer. The rest are options of the layer.
#[derive(Deserialize)]
struct Layer {
    batch: usize,
    time: usize,
    d_input: usize,
    d_hidden: usize,
    initial_state: bool,
    with_lengths: bool,
}

impl Golden {
    /// Says how to compute the cases of kind `layer` of a recurrent architecture: those of PyTorch's
    /// `nn.RNN`, `nn.LSTM` and `nn.GRU`, and of ONNX' operators of these names.
    ///
    /// `begin(d_input, d_hidden, options)` gives the configuration that the case's options are then
    /// set in by name; it removes those from `options` that have another name or other values there.
    /// An option that is left and has no place in the configuration is a failure.
    pub fn recurrent<K>(
        self,
        architecture: &'static str,
        begin: impl Fn(usize, usize, &mut Options) -> K + 'static,
    ) -> Self
    where
        K: Config + RecurrentConfig,
        K::Cell: PyTorchCell,
    {
        self.kind(architecture, "layer", move |mut options: Options, run| {
            let case: Layer = serde_json::from_value(Value::Object(options.clone()))
                .expect("the sizes and inputs of a recurrent layer");
            for name in ["batch", "time", "initial_state", "with_lengths"] {
                options.remove(name);
            }
            let config = begin(case.d_input, case.d_hidden, &mut options);
            layer(&case, &with_options(&config, options), run);
        })
    }
}

fn with_options<K: Config>(config: &K, options: Options) -> K {
    let mut fields: Options = serde_json::to_value(config)
        .and_then(serde_json::from_value)
        .expect("a configuration is a json object");
    for (name, value) in options {
        let field = fields.get_mut(&name);
        *field.unwrap_or_else(|| panic!("the configuration has no option `{name}`")) = value;
    }
    let config = serde_json::from_value(Value::Object(fields));
    config.unwrap_or_else(|error| panic!("the options of the case: {error}"))
}

fn layer<K: RecurrentConfig>(case: &Layer, config: &K, run: &mut Run)
where
    K::Cell: PyTorchCell,
{
    let mut layer = config.init(run.device());
    take_weights(&mut layer, run);
    let x = run.float::<3>("input.x");
    assert_eq!(x.dims(), [case.batch, case.time, case.d_input]);
    let state = case.initial_state.then(|| initial_state(&layer, run));
    let (y, state) = match case.with_lengths {
        true => layer.forward_padded(x, &Lengths::new(run.numbers("input.lengths")), state),
        false => layer.forward(x, state),
    };
    let states = state.cells.into_iter().map(CellState::into_parts);
    let (hidden, cell): (Vec<_>, Vec<_>) = states.unzip();
    run.output("y", y);
    run.output("h_n", Tensor::stack::<3>(hidden, 0));
    if let Some(cell) = cell.into_iter().collect() {
        run.output("c_n", Tensor::stack::<3>(cell, 0));
    }
}

/// The parameters of the layer are those tensors of the case that have their names.
fn take_weights<C: PyTorchCell>(layer: &mut Recurrent<C>, run: &mut Run) {
    let names = layer.state_dict().into_iter().map(|(name, _)| name);
    let parameters = layer.cells.iter_mut().flat_map(PyTorchCell::parameters);
    for (name, (_, parameter)) in names.zip(parameters) {
        let name = format!("weight.{name}");
        match parameter {
            Stored::Matrix(parameter) => *parameter = Param::from_tensor(run.float(&name)),
            Stored::Vector(parameter) => *parameter = Param::from_tensor(run.float(&name)),
            other => unreachable!("a file of PyTorch has {name} as {other:?}"),
        }
    }
}

fn initial_state<C: RecurrentCell>(
    layer: &Recurrent<C>,
    run: &mut Run,
) -> RecurrentState<C::State> {
    let hidden = run.float::<3>("input.h_0");
    let cell = C::State::MEMORY.then(|| run.float::<3>("input.c_0"));
    let state = |row| {
        let row = |x: Tensor<3>| x.narrow(0, row, 1).squeeze_dim(0);
        C::State::from_parts(row(hidden.clone()), cell.clone().map(row))
    };
    RecurrentState {
        cells: (0..layer.cells.len()).map(state).collect(),
    }
}
