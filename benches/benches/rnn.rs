//! The vanilla RNN's quick workloads under criterion.

mod quick;

fn main() {
    quick::bench("rnn");
}
