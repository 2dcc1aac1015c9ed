//! The LSTM's quick workloads under criterion.

mod quick;

fn main() {
    quick::bench("lstm");
}
