//! The Transformer's quick workloads under criterion.

mod quick;

fn main() {
    quick::bench("transformer");
}
