//! What the reference code of Mamba and Hugging Face answer.

use burn::module::Param;
use burn::nn::{LayerNormConfig, Linear};
use burn::tensor::Tensor;
use seq_core::convolution::CausalConv;
use seq_core::testing::{Golden, Run};
use seq_mamba::{
    Mamba, MambaConfig, Projection, SelectiveScan, SequenceLayer, SimplifiedSsm, SimplifiedState,
};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScanConfig {
    batch: usize,
    time: usize,
    d_inner: usize,
    d_state: usize,
    n_groups: Option<usize>,
    time_varying_b: bool,
    time_varying_c: bool,
    with_d: bool,
    with_z: bool,
    with_delta_bias: bool,
    delta_softplus: bool,
    #[serde(rename = "probe_last_state")]
    _probe_last_state: bool,
}

fn scan(config: ScanConfig, run: &mut Run) {
    let projection = |name: &str, varying: bool, run: &mut Run| match (varying, config.n_groups) {
        (false, _) => Projection::Constant(run.float(&format!("weight.{name}"))),
        (true, None) => {
            let x: Tensor<3> = run.float(&format!("input.{name}"));
            Projection::Varying(x.unsqueeze_dim(2))
        }
        (true, Some(_)) => Projection::Varying(run.float(&format!("input.{name}"))),
    };
    let b = projection("B", config.time_varying_b, run);
    let c = projection("C", config.time_varying_c, run);
    let (u, delta) = (run.float("input.u"), run.float("input.delta"));
    assert_eq!(u.dims(), [config.batch, config.time, config.d_inner]);
    let a = run.float("weight.A");
    assert_eq!(a.dims(), [config.d_inner, config.d_state]);
    let scan = SelectiveScan {
        d: config.with_d.then(|| run.float("weight.D")),
        z: config.with_z.then(|| run.float("input.z")),
        delta_bias: config
            .with_delta_bias
            .then(|| run.float("weight.delta_bias")),
        delta_softplus: config.delta_softplus,
        ..SelectiveScan::new(u, delta, a, b, c)
    };
    let (y, state) = scan.run();
    run.output("y", y);
    run.output("last_state", state);
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ConvConfig {
    batch: usize,
    time: usize,
    d_inner: usize,
    d_conv: usize,
    bias: bool,
    activation: Option<String>,
    initial_state: bool,
}

fn causal_conv(config: ConvConfig, run: &mut Run) {
    let x = run.float("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.d_inner]);
    let weight: Tensor<3> = run.float("weight.weight");
    assert_eq!(weight.dims(), [config.d_inner, 1, config.d_conv]);
    let conv = CausalConv {
        bias: config.bias.then(|| run.float("weight.bias")),
        silu: match config.activation.as_deref() {
            Some("silu" | "swish") => true,
            Some(other) => panic!("unknown activation {other}"),
            None => false,
        },
        state: config
            .initial_state
            .then(|| run.float("input.initial_state")),
        ..CausalConv::new(x, weight.squeeze_dim(1))
    };
    let (y, state) = conv.run();
    run.output("y", y);
    run.output("final_state", state);
}

/// A weight `[d_output, d_input]` as Burn keeps it; `bias` names the other.
fn linear_layer(run: &mut Run, weight: &str, bias: Option<&str>) -> Linear {
    let weight = run.float::<2>(weight);
    Linear {
        weight: Param::initialized(Default::default(), weight.transpose()),
        bias: bias.map(|name| Param::from_tensor(run.float(name))),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SimplifiedConfig {
    batch: usize,
    time: usize,
    d_model: usize,
    norm_eps: f64,
    initial_state: bool,
}

fn simplified(config: SimplifiedConfig, run: &mut Run) {
    let mut norm = LayerNormConfig::new(config.d_model)
        .with_epsilon(config.norm_eps)
        .init(run.device());
    norm.gamma = Param::from_tensor(run.float("weight.norm.weight"));
    norm.beta = Some(Param::from_tensor(run.float("weight.norm.bias")));
    let layer = SimplifiedSsm {
        norm,
        a_proj: linear_layer(run, "weight.W_A", Some("weight.b_A")),
        b_proj: linear_layer(run, "weight.W_B", Some("weight.b_B")),
        c_proj: linear_layer(run, "weight.W_C", Some("weight.b_C")),
        d: Param::from_tensor(run.float("weight.D")),
    };
    let x = run.float("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.d_model]);
    let state = config.initial_state.then(|| SimplifiedState {
        hidden: run.float("input.initial_state"),
    });
    let (y, state) = layer.forward(x, state);
    run.output("y", y);
    run.output("final_state", state.hidden);
}

/// What the cases' configurations say once more in `hf` is not read.
#[derive(Deserialize)]
struct BlockConfig {
    mixer: String,
    d_model: usize,
    d_state: usize,
    d_conv: usize,
    expand: usize,
    activation: String,
    batch: usize,
    time: usize,
    d_ff: Option<usize>,
    dt_rank: Option<usize>,
}

fn block(config: BlockConfig, run: &mut Run) {
    assert_eq!(config.activation, "silu");
    let x: Tensor<3> = run.float("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.d_model]);
    let y = match config.mixer.as_str() {
        "MambaMixer" => mamba_block(&config, run).forward(x, None).0,
        other => panic!("unknown mixer {other}"),
    };
    run.output("y", y);
}

fn mamba_block(config: &BlockConfig, run: &mut Run) -> Mamba {
    let bias = |name: &'static str, run: &Run| run.has(name).then_some(name);
    let plain = MambaConfig::new(config.d_model)
        .with_d_state(config.d_state)
        .with_d_conv(config.d_conv)
        .with_expand(config.expand)
        .with_d_channels(config.d_ff)
        .with_dt_low_rank(config.dt_rank)
        .init(run.device());
    let conv_weight: Tensor<3> = run.float("weight.conv1d.weight");
    let (in_bias, out_bias) = (
        bias("weight.in_proj.bias", run),
        bias("weight.out_proj.bias", run),
    );
    let conv_bias = bias("weight.conv1d.bias", run);
    let conv_bias = conv_bias.map(|name| Param::from_tensor(run.float(name)));
    let mamba = Mamba {
        in_proj: linear_layer(run, "weight.in_proj.weight", in_bias),
        conv_weight: Param::initialized(Default::default(), conv_weight.squeeze_dim(1)),
        conv_bias,
        x_proj: linear_layer(run, "weight.x_proj.weight", None),
        dt_proj: linear_layer(run, "weight.dt_proj.weight", Some("weight.dt_proj.bias")),
        a_log: Param::from_tensor(run.float("weight.A_log")),
        d: Param::from_tensor(run.float("weight.D")),
        out_proj: linear_layer(run, "weight.out_proj.weight", out_bias),
        ..plain.clone()
    };
    assert_eq!(mamba.a_log.dims(), plain.a_log.dims());
    assert_eq!(mamba.conv_weight.dims(), plain.conv_weight.dims());
    mamba
}

#[test]
fn golden_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    Golden::new(folder)
        .kind("mamba", "selective_scan", scan)
        .kind("mamba", "causal_conv1d", causal_conv)
        .kind("mamba", "simplified", simplified)
        .kind("mamba", "block", block)
        .in_part()
        .check();
}
