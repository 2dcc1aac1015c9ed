//! The CPU kit under criterion: its functions on slices beside the standard library's, and the matrix
//! products of the recurrent workloads.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use seq_core::cpu::{Matrix, math, product};

/// A slice that stays in the first-level cache.
const LENGTH: usize = 4096;

/// A function of the kit, and what the standard library makes of one value.
type Function = (&'static str, fn(&[f32], &mut [f32]), fn(f32) -> f32);

const FUNCTIONS: [Function; 5] = [
    ("exp", math::exp, f32::exp),
    ("tanh", math::tanh, f32::tanh),
    ("sigmoid", math::sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
    ("softplus", math::softplus, |x| x.exp().ln_1p()),
    ("silu", math::silu, |x| x / (1.0 + (-x).exp())),
];

fn functions(criterion: &mut Criterion) {
    let x: Vec<f32> = (0..LENGTH)
        .map(|i| i as f32 / LENGTH as f32 * 20.0 - 10.0)
        .collect();
    let (mut kit, mut std) = (vec![0.0; LENGTH], vec![0.0; LENGTH]);
    for (name, ours, scalar) in FUNCTIONS {
        let scalars =
            |x: &[f32], out: &mut [f32]| x.iter().zip(out).for_each(|(&x, out)| *out = scalar(x));
        ours(&x, &mut kit);
        scalars(&x, &mut std);
        for ((x, a), b) in x.iter().zip(&kit).zip(&std) {
            assert!(
                (a - b).abs() <= 1e-6 * b.abs().max(1.0),
                "{name}({x}) is {a}, the library's {b}"
            );
        }
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(LENGTH as u64));
        group.bench_function("seq", |bencher| bencher.iter(|| ours(&x, &mut kit)));
        group.bench_function("std", |bencher| bencher.iter(|| scalars(&x, &mut std)));
        group.finish();
    }
}

fn products(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("product");
    for [m, k, n] in [
        [1, 512, 2048],
        [32, 256, 1024],
        [4096, 256, 1024],
        [1024, 1024, 1024],
    ] {
        let (a, b) = (vec![0.5_f32; m * k], vec![0.25_f32; k * n]);
        let mut out = vec![0.0; m * n];
        group.throughput(Throughput::Elements((2 * m * k * n) as u64));
        group.bench_function(format!("{m}x{k}x{n}"), |bencher| {
            bencher.iter(|| {
                product(
                    [m, k, n],
                    Matrix::rows(&a, k),
                    Matrix::rows(&b, n),
                    &mut out,
                    n,
                    false,
                )
            });
        });
    }
    group.finish();
}

criterion_group!(benches, functions, products);
criterion_main!(benches);
