//! The state-space models' quick workloads under criterion.

mod quick;

fn main() {
    quick::bench("ssm");
}
