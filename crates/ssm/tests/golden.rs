//! What the code of S4 and SciPy answer.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::{Tensor, TensorData, Tolerance};
use seq_core::testing::{Golden, Run};
use seq_ssm::{
    Discretisation, Hippo, LinearSsm, LinearSsmConfig, LinearState, S4d, S4dConfig, S4dInit,
    S4dState, SequenceLayer,
};
use serde::Deserialize;

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "lowercase")]
enum Rule {
    Zoh,
    Bilinear,
}

impl From<Rule> for Discretisation {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Zoh => Self::Zoh,
            Rule::Bilinear => Self::Bilinear,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HippoConfig {
    measure: String,
    d_state: usize,
    discretisation: Rule,
    dt: f64,
}

fn hippo(config: HippoConfig, run: &mut Run) {
    let hippo = match config.measure.as_str() {
        "legs" => Hippo::LegS,
        "legt" => Hippo::LegT,
        "fourier" | "fout" => Hippo::Fourier,
        other => panic!("unknown measure {other}"),
    };
    let plain = LinearSsmConfig::new(1, 1, config.d_state)
        .with_hippo(hippo)
        .with_discretisation(config.discretisation.into())
        .with_dt(config.dt)
        .init(run.device());
    let log_dt = Tensor::from_data([config.dt.ln()], (run.device(), run.dtype()));
    let (a, b) = hippo.tensors(config.d_state, (run.device(), run.dtype()));
    let ssm = LinearSsm {
        log_dt: Param::from_tensor(log_dt),
        a: Param::from_tensor(a),
        b: Param::from_tensor(b),
        ..plain
    };
    let (a, b) = ssm.discretised();
    run.output("A", ssm.a.val());
    run.output("B", ssm.b.val());
    run.output("A_discrete", a);
    run.output("B_discrete", b);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinearConfig {
    d_state: usize,
    d_input: usize,
    d_output: usize,
    discretisation: Rule,
    dt: f64,
    #[serde(rename = "matrix")]
    _matrix: String,
    batch: usize,
    time: usize,
    initial_state: bool,
}

fn linear_ssm(config: LinearConfig, run: &mut Run) {
    let plain = LinearSsmConfig::new(config.d_input, config.d_output, config.d_state)
        .with_discretisation(config.discretisation.into())
        .init(run.device());
    let log_dt = Tensor::from_data([config.dt.ln()], (run.device(), run.dtype()));
    let ssm = LinearSsm {
        log_dt: Param::from_tensor(log_dt),
        a: Param::from_tensor(run.float("weight.A")),
        b: Param::from_tensor(run.float("weight.B")),
        c: Param::from_tensor(run.float("weight.C")),
        d: Param::from_tensor(run.float("weight.D")),
        ..plain.clone()
    };
    assert_eq!(ssm.b.dims(), plain.b.dims());
    assert_eq!(ssm.c.dims(), plain.c.dims());
    let x = run.float("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.d_input]);
    let state = config.initial_state.then(|| LinearState {
        hidden: run.float("input.initial_state"),
    });
    let (y, state) = ssm.forward(x, state);
    let (a, b) = ssm.discretised();
    run.output("y", y);
    run.output("final_state", state.hidden);
    run.output("kernel", ssm.kernel(config.time));
    run.output("A_discrete", a);
    run.output("B_discrete", b);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiagonalConfig {
    d_model: usize,
    d_state: usize,
    initialisation: String,
    discretisation: Rule,
    bidirectional: bool,
    output_transform: String,
    initial_state: bool,
    batch: usize,
    time: usize,
    backward_delay: Option<usize>,
}

fn s4d(config: DiagonalConfig, run: &mut Run) {
    let mixing = match config.output_transform.as_str() {
        "none" => false,
        "gelu_conv_glu" => true,
        other => panic!("unknown output transform {other}"),
    };
    assert!(config.backward_delay.is_none_or(|delay| delay == 1));
    let plain = S4dConfig::new(config.d_model)
        .with_d_state(config.d_state)
        .with_discretisation(config.discretisation.into())
        .with_bidirectional(config.bidirectional)
        .with_mixing(mixing);
    let initialisation = match config.initialisation.as_str() {
        "lin" => Some(S4dInit::Lin),
        "inv" => Some(S4dInit::Inv),
        "legs" => Some(S4dInit::LegS),
        "real" => Some(S4dInit::Real),
        "random" => None,
        other => panic!("unknown initialisation {other}"),
    };
    let layer = S4d {
        log_dt: Param::from_tensor(run.float("weight.kernel.log_dt")),
        log_a_real: Param::from_tensor(run.float("weight.kernel.log_A_real")),
        a_imag: Param::from_tensor(run.float("weight.kernel.A_imag")),
        c: Param::from_tensor(run.float("weight.kernel.C")),
        c_backward: config
            .bidirectional
            .then(|| Param::from_tensor(run.float("weight.kernel.C_backward"))),
        d: Param::from_tensor(run.float("weight.D")),
        mixing: mixing.then(|| {
            let weight: Tensor<3> = run.float("weight.output_linear.0.weight");
            let weight = weight.squeeze_dim::<2>(2).transpose();
            Linear {
                weight: Param::initialized(Default::default(), weight),
                bias: Some(Param::from_tensor(run.float("weight.output_linear.0.bias"))),
            }
        }),
        ..plain.init(run.device())
    };
    if let Some(initialisation) = initialisation {
        let fresh = plain.with_initialisation(initialisation).init(run.device());
        let same = |found: &Param<Tensor<2>>, expected: &Param<Tensor<2>>| {
            let [found, expected] = [found, expected].map(|x| sorted(x.val().into_data()));
            found.assert_approx_eq::<f64>(&expected, Tolerance::rel_abs(1e-5, 1e-5));
        };
        same(&fresh.log_a_real, &layer.log_a_real);
        same(&fresh.a_imag, &layer.a_imag);
    }
    let x = run.float("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.d_model]);
    let state = config.initial_state.then(|| {
        let [re, im] =
            ["real", "imag"].map(|part| run.float(&format!("input.initial_state_{part}")));
        S4dState {
            hidden: Tensor::cat(vec![re, im], 2),
        }
    });
    let (y, state) = layer.forward(x, state);
    run.output("y", y);
    if !config.bidirectional {
        let pairs = config.d_state / 2;
        let part = |first| state.hidden.clone().narrow(2, first, pairs);
        run.output("final_state_real", part(0));
        run.output("final_state_imag", part(pairs));
    }
    let a = layer.a();
    run.output("A_real", a.re);
    run.output("A_imag", a.im);
    run.output("kernel", layer.kernel(config.time));
    if let Some(kernel) = layer.kernel_backward(config.time) {
        run.output("kernel_backward", kernel);
    }
}

/// Eigenvalues have no order of their own.
fn sorted(data: TensorData) -> TensorData {
    let shape = data.shape().clone();
    let mut values: Vec<f64> = data.iter::<f64>().collect();
    values.sort_by(f64::total_cmp);
    TensorData::new(values, shape)
}

#[test]
fn golden_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    Golden::new(folder)
        .kind("ssm", "hippo", hippo)
        .kind("ssm", "linear_ssm", linear_ssm)
        .kind("ssm", "s4d", s4d)
        .check();
}
