//! The LSTM's quick workloads under criterion, ours beside Burn's, on the device of `BURN_DEVICE`.

use benches::{ARCHITECTURES, Profile};
use criterion::{Criterion, criterion_group, criterion_main};

fn lstm(criterion: &mut Criterion) {
    let cases = ARCHITECTURES.iter().filter(|(name, _)| *name == "lstm");
    for case in cases.flat_map(|(_, cases)| cases(Profile::Quick)) {
        let workload = (case.build)(&seq_core::device());
        if let Err(error) = workload.check() {
            panic!("{}: {error}", case.name);
        }
        let mut group = criterion.benchmark_group(&case.name);
        group.sample_size(10);
        group.bench_function("seq", |bencher| bencher.iter(|| workload.ours()));
        group.bench_function("burn_nn", |bencher| bencher.iter(|| workload.burn_nn()));
        group.finish();
    }
}

criterion_group!(benches, lstm);
criterion_main!(benches);
