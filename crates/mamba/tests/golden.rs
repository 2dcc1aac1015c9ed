//! The selective scan against what the reference code of Mamba answers.

use burn::tensor::Tensor;
use seq_core::testing::{Golden, Run};
use seq_mamba::{Projection, SelectiveScan};
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

#[test]
fn golden_cases() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden");
    Golden::new(folder)
        .kind("mamba", "selective_scan", scan)
        .in_part()
        .check();
}
