//! Cases of the layer of Mamba-3.

use burn::module::Param;
use burn::tensor::Tensor;
use seq_core::testing::Run;
use seq_mamba::{Mamba3, Mamba3Config, Mamba3State, SequenceLayer};
use serde::Deserialize;

use super::linear_layer;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    batch: usize,
    time: usize,
    d_model: usize,
    d_state: usize,
    expand: usize,
    head_dim: usize,
    n_groups: usize,
    rope_fraction: f64,
    a_floor: f64,
    out_proj_norm: bool,
    chunk_size: usize,
    initial_state: bool,
}

/// The reference has the two of a pair that turns side by side, the layer the first of all pairs before the
/// second.
fn in_halves<const D: usize>(x: Tensor<D>, angles: usize) -> Tensor<D> {
    halves(x, [angles, 2], angles)
}

/// The other way round.
fn in_pairs<const D: usize>(x: Tensor<D>, angles: usize) -> Tensor<D> {
    halves(x, [2, angles], angles)
}

fn halves<const D: usize>(x: Tensor<D>, from: [usize; 2], angles: usize) -> Tensor<D> {
    let shape = x.dims();
    let width = shape[D - 1];
    let rows = shape.iter().product::<usize>() / width;
    let x = x.reshape([rows, width]);
    let turned = x.clone().narrow(1, 0, 2 * angles);
    let turned = turned.reshape([rows, from[0], from[1]]).swap_dims(1, 2);
    let turned = turned.reshape([rows, 2 * angles]);
    match width - 2 * angles {
        0 => turned.reshape(shape),
        rest => Tensor::cat(vec![turned, x.narrow(1, 2 * angles, rest)], 1).reshape(shape),
    }
}

pub fn case(config: Case, run: &mut Run) {
    let plain = Mamba3Config::new(config.d_model)
        .with_d_state(config.d_state)
        .with_expand(config.expand)
        .with_head_dim(config.head_dim)
        .with_n_groups(config.n_groups)
        .with_rope_fraction(config.rope_fraction)
        .with_a_floor(config.a_floor)
        .with_out_proj_norm(config.out_proj_norm)
        .with_chunk_size(config.chunk_size)
        .init(run.device());
    let bias = |name: &str, run: &mut Run| {
        let bias: Tensor<3> = run.float(name);
        Param::initialized(Default::default(), bias.squeeze_dim(1))
    };
    let norm = config.out_proj_norm.then_some("weight.norm.weight");
    let mamba = Mamba3 {
        in_proj: linear_layer(run, "weight.in_proj.weight", None),
        dt_bias: Param::from_tensor(run.float("weight.dt_bias")),
        b_bias: bias("weight.B_bias", run),
        c_bias: bias("weight.C_bias", run),
        b_norm_weight: Param::from_tensor(run.float("weight.B_norm.weight")),
        c_norm_weight: Param::from_tensor(run.float("weight.C_norm.weight")),
        d: Param::from_tensor(run.float("weight.D")),
        norm_weight: norm.map(|name| Param::from_tensor(run.float(name))),
        out_proj: linear_layer(run, "weight.out_proj.weight", None),
        ..plain.clone()
    };
    assert_eq!(mamba.in_proj.weight.dims(), plain.in_proj.weight.dims());
    let x: Tensor<3> = run.float("input.x");
    assert_eq!(x.dims(), [config.batch, config.time, config.d_model]);
    let angles = mamba.angles();
    let state = config.initial_state.then(|| Mamba3State {
        angle: run.float("input.angle"),
        ssm: in_halves(run.float("input.ssm"), angles),
        k: in_halves(run.float("input.k"), angles),
        v: run.float("input.v"),
    });
    let (y, state) = mamba.forward(x, state);
    run.output("y", y);
    run.output("angle", state.angle);
    run.output("ssm", in_pairs(state.ssm, angles));
    run.output("k", in_pairs(state.k, angles));
    run.output("v", state.v);
}
