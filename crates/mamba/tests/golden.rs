//! What the reference code of Mamba and Hugging Face answer.

use burn::module::Param;
use burn::nn::{LayerNormConfig, Linear};
use burn::tensor::{DType, Int, Tensor, TensorData};
use seq_core::checkpoint::{Checkpoint, write_safetensors};
use seq_core::convolution::CausalConv;
use seq_core::models::Sampler;
use seq_core::scan::{Decay, LinearScan};
use seq_core::testing::{Golden, Run};
use seq_mamba::{
    Mamba, Mamba2, Mamba2Config, MambaConfig, Projection, SelectiveScan, SequenceLayer,
    SimplifiedSsm, SimplifiedState, Ssd, SsdDecay, load_pretrained,
};
use serde::Deserialize;

#[path = "golden/mamba3.rs"]
mod mamba3;

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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UpdateConfig {
    batch: usize,
    d_inner: usize,
    num_heads: Option<usize>,
    head_dim: Option<usize>,
    d_state: usize,
    n_groups: Option<usize>,
    with_d: bool,
    with_z: bool,
    with_dt_bias: bool,
    dt_softplus: bool,
}

/// One step, of a selective scan; heads are neighbouring channels, each of which has its own rates.
fn state_update(config: UpdateConfig, run: &mut Run) {
    let UpdateConfig {
        batch,
        d_inner,
        d_state,
        ..
    } = config;
    let channels = match config.num_heads.zip(config.head_dim) {
        Some((heads, head_dim)) => vec![heads, head_dim],
        None => vec![d_inner],
    };
    let named = channels.len() > 1;
    let step = |name: &str, run: &mut Run| match named {
        true => run.float::<3>(name).reshape([batch, 1, d_inner]),
        false => run.float::<2>(name).unsqueeze_dim(1),
    };
    let vector = |name: &str, run: &mut Run| match named {
        true => run.float::<2>(name).reshape([d_inner]),
        false => run.float::<1>(name),
    };
    let projection = |name: &str, run: &mut Run| {
        Projection::Varying(match config.n_groups {
            Some(_) => run.float::<3>(name).unsqueeze_dim(1),
            None => run.float::<2>(name).reshape([batch as i32, 1, 1, -1]),
        })
    };
    let (a, state) = match named {
        true => (
            run.float::<3>("weight.A").reshape([d_inner, d_state]),
            run.float::<4>("input.state")
                .reshape([batch, d_inner, d_state]),
        ),
        false => (run.float("weight.A"), run.float("input.state")),
    };
    let (u, delta) = (step("input.x", run), step("input.dt", run));
    let (b, c) = (projection("input.B", run), projection("input.C", run));
    let scan = SelectiveScan {
        d: config.with_d.then(|| vector("weight.D", run)),
        z: config.with_z.then(|| step("input.z", run)),
        delta_bias: config.with_dt_bias.then(|| vector("weight.dt_bias", run)),
        delta_softplus: config.dt_softplus,
        state: Some(state),
        ..SelectiveScan::new(u, delta, a, b, c)
    };
    let (y, state) = scan.run();
    match named {
        true => {
            let (heads, head_dim) = (channels[0], channels[1]);
            run.output("y", y.reshape([batch, heads, head_dim]));
            run.output("state", state.reshape([batch, heads, head_dim, d_state]));
        }
        false => {
            run.output("y", y.squeeze_dim::<2>(1));
            run.output("state", state);
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SsdConfig {
    batch: usize,
    time: usize,
    num_heads: usize,
    head_dim: usize,
    d_state: usize,
    n_groups: usize,
    chunk_size: usize,
    initial_state: bool,
}

fn ssd(config: SsdConfig, run: &mut Run) {
    let (x, b) = (run.float("input.x"), run.float("input.B"));
    let (batch, time) = (config.batch, config.time);
    assert_eq!(x.dims(), [batch, time, config.num_heads, config.head_dim]);
    assert_eq!(b.dims(), [batch, time, config.n_groups, config.d_state]);
    let decay = SsdDecay::Logarithm(run.float("input.log_decay"));
    let scan = Ssd {
        state: config
            .initial_state
            .then(|| run.float("input.initial_state")),
        chunk_size: config.chunk_size,
        ..Ssd::new(x, decay, b, run.float("input.C"))
    };
    let (y, state) = scan.run();
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

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LinearScanConfig {
    batch: usize,
    time: usize,
    features: usize,
    initial_state: bool,
}

fn linear_scan(config: LinearScanConfig, run: &mut Run) {
    let x = run.float("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.features]);
    let scan = LinearScan {
        state: config
            .initial_state
            .then(|| run.float("input.initial_state")),
        ..LinearScan::new(Decay::Varying(run.float("input.a")), x)
    };
    let (states, last) = scan.run();
    run.output("h", states);
    run.output("final_state", last);
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
    // Of Mamba-2 alone.
    num_heads: Option<usize>,
    head_dim: Option<usize>,
    n_groups: Option<usize>,
    chunk_size: Option<usize>,
    norm_eps: Option<f64>,
    hf: serde_json::Value,
}

fn block(config: BlockConfig, run: &mut Run) {
    assert_eq!(config.activation, "silu");
    let x: Tensor<3> = run.float("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.d_model]);
    let y = match config.mixer.as_str() {
        "MambaMixer" => mamba_block(&config, run).forward(x, None).0,
        "Mamba2Mixer" => mamba2_block(&config, run).forward(x, None).0,
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

fn mamba2_block(config: &BlockConfig, run: &mut Run) -> Mamba2 {
    let bias = |name: &'static str, run: &Run| run.has(name).then_some(name);
    let (in_bias, out_bias) = (
        bias("weight.in_proj.bias", run),
        bias("weight.out_proj.bias", run),
    );
    // Infinity is no number in json.
    let limit = |i: usize| config.hf["time_step_limit"][i].as_f64();
    let plain = Mamba2Config::new(config.d_model)
        .with_d_state(config.d_state)
        .with_d_conv(config.d_conv)
        .with_expand(config.expand)
        .with_head_dim(config.head_dim.expect("head_dim"))
        .with_n_groups(config.n_groups.expect("n_groups"))
        .with_chunk_size(config.chunk_size.expect("chunk_size"))
        .with_norm_eps(config.norm_eps.expect("norm_eps"))
        .with_dt_limit(limit(0).map(|low| [low, limit(1).unwrap_or(f64::INFINITY)]))
        .init(run.device());
    assert_eq!(Some(plain.heads()), config.num_heads);
    let conv_weight: Tensor<3> = run.float("weight.conv1d.weight");
    let conv_bias = bias("weight.conv1d.bias", run);
    let conv_bias = conv_bias.map(|name| Param::from_tensor(run.float(name)));
    let d: Tensor<1> = run.float("weight.D");
    let mamba = Mamba2 {
        in_proj: linear_layer(run, "weight.in_proj.weight", in_bias),
        conv_weight: Param::initialized(Default::default(), conv_weight.squeeze_dim(1)),
        conv_bias,
        dt_bias: Param::from_tensor(run.float("weight.dt_bias")),
        a_log: Param::from_tensor(run.float("weight.A_log")),
        d: Param::initialized(Default::default(), d.unsqueeze_dim(1)),
        norm_weight: Some(Param::from_tensor(run.float("weight.norm.weight"))),
        out_proj: linear_layer(run, "weight.out_proj.weight", out_bias),
        ..plain.clone()
    };
    assert_eq!(mamba.in_proj.weight.dims(), plain.in_proj.weight.dims());
    assert_eq!(mamba.conv_weight.dims(), plain.conv_weight.dims());
    mamba
}

/// What `hf` says too is read from there by the loader.
#[derive(Deserialize)]
struct LmConfig {
    vocab_size: usize,
    d_model: usize,
    num_layers: usize,
    batch: usize,
    time: usize,
    new_tokens: usize,
    hf: serde_json::Value,
}

/// The model comes out of a folder, as a user's does.
fn causal_lm(config: LmConfig, run: &mut Run) {
    let folder = tempfile::tempdir().expect("a folder for the model");
    let mut checkpoint = Checkpoint::read(run.file()).expect("the case's own file");
    let mut weights = checkpoint.split_off("weight").expect("weights");
    let shapes: Vec<(String, Vec<usize>)> = weights
        .names()
        .map(|name| (name.to_owned(), weights.shape(name).unwrap_or(&[]).to_vec()))
        .collect();
    let options = (run.device().clone(), DType::F64);
    let mut tensors = Vec::new();
    for (name, shape) in shapes {
        let options = (&options.0, options.1);
        let data = match *shape {
            [a] => weights.take(&name, [a], options).map(Tensor::into_data),
            [a, b] => weights.take(&name, [a, b], options).map(Tensor::into_data),
            [a, b, c] => weights
                .take(&name, [a, b, c], options)
                .map(Tensor::into_data),
            _ => panic!("`{name}` has shape {shape:?}"),
        };
        run.track(
            &format!("weight.{name}"),
            &Tensor::<1>::ones([1], run.device()),
        );
        tensors.push((name, data.expect("a tensor of the case")));
    }
    write_safetensors(folder.path().join("model.safetensors"), tensors).expect("weights are saved");
    std::fs::write(folder.path().join("config.json"), config.hf.to_string())
        .expect("the configuration is saved");

    let loaded = load_pretrained(folder.path(), (run.device(), run.dtype()));
    let (model, read) = loaded.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(model.vocab_size(), config.vocab_size);
    assert_eq!(
        (read.num_layers, read.mixer.d_model()),
        (config.num_layers, config.d_model)
    );
    let ids = run.int::<2>("input.input_ids");
    assert_eq!(ids.dims(), [config.batch, config.time]);
    run.output("logits", model.forward(ids, None).0);

    let prompt: Vec<u32> = run
        .numbers("input.prompt")
        .iter()
        .map(|&id| id as u32)
        .collect();
    let written: Vec<u32> = model
        .generate(&prompt, Sampler::greedy())
        .take(config.new_tokens)
        .collect();
    // Without the state, all is read again for each symbol.
    let mut again = prompt;
    for &expected in &written {
        let ids = TensorData::new(again.clone(), [1, again.len()]);
        let (logits, _) = model.forward(Tensor::from_data(ids, run.device()), None);
        let last: Vec<f32> = logits
            .narrow(1, again.len() - 1, 1)
            .into_data()
            .iter::<f32>()
            .collect();
        assert_eq!(Sampler::greedy().sample(&last), expected);
        again.push(expected);
    }
    let tokens: Vec<i64> = written.into_iter().map(i64::from).collect();
    let tokens = TensorData::new(tokens, [1, config.new_tokens]);
    run.output_int(
        "greedy_tokens",
        Tensor::<2, Int>::from_data(tokens, run.device()),
    );
}

#[test]
fn golden_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    Golden::new(folder)
        .kind("mamba", "selective_scan", scan)
        .kind("mamba", "causal_conv1d", causal_conv)
        .kind("mamba", "selective_state_update", state_update)
        .kind("mamba", "ssd", ssd)
        .kind("mamba", "simplified", simplified)
        .kind("mamba", "block", block)
        .kind("mamba", "causal_lm", causal_lm)
        .kind("mamba", "mamba3", mamba3::case)
        .kind("mamba", "linear_scan", linear_scan)
        .check();
}
