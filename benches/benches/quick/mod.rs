//! What the benches of the architectures share.

use benches::{ARCHITECTURES, Profile};
use criterion::Criterion;

/// Runs an architecture's quick workloads under criterion, ours beside Burn's or the
/// reference body, on the device of `BURN_DEVICE`.
pub fn bench(architecture: &str) {
    let mut criterion = Criterion::default().configure_from_args();
    let cases = ARCHITECTURES
        .iter()
        .filter(|(name, _)| *name == architecture);
    for case in cases.flat_map(|(_, cases)| cases(Profile::Quick)) {
        let workload = (case.build)(&seq_core::device());
        if let Err(error) = workload.check() {
            panic!("{}: {error}", case.name);
        }
        let mut group = criterion.benchmark_group(&case.name);
        group.sample_size(10);
        group.bench_function("seq", |bencher| bencher.iter(|| workload.ours()));
        if let Some(name) = case.baseline {
            group.bench_function(name, |bencher| bencher.iter(|| workload.baseline()));
        }
        group.finish();
    }
    criterion.final_summary();
}
