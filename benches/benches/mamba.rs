//! Mamba's quick workloads under criterion.

mod quick;

fn main() {
    quick::bench("mamba");
}
