//! The error of every function, type and instruction set, against an oracle of higher precision.

use super::*;
use crate::cpu::real::tests::levels;

mod oracle;

/// A function under test at a given level.
type OnSlices<R> = fn(Arch, &[R], &mut [R]);

/// A function under test, its oracle, and the error bounds in ulp that the documentation states.
struct Case {
    name: &'static str,
    f32: OnSlices<f32>,
    f64: OnSlices<f64>,
    oracle: fn(f64) -> oracle::Scaled,
    bound: f64,
}

const CASES: [Case; 6] = [
    Case {
        name: "exp",
        f32: |arch, xs, out| map(arch, Exp, xs, out),
        f64: |arch, xs, out| map(arch, Exp, xs, out),
        oracle: oracle::exp,
        bound: 1.25,
    },
    Case {
        name: "tanh",
        f32: |arch, xs, out| map(arch, Tanh, xs, out),
        f64: |arch, xs, out| map(arch, Tanh, xs, out),
        oracle: oracle::tanh,
        bound: 2.6,
    },
    Case {
        name: "sigmoid",
        f32: |arch, xs, out| map(arch, Sigmoid, xs, out),
        f64: |arch, xs, out| map(arch, Sigmoid, xs, out),
        oracle: oracle::sigmoid,
        bound: 2.6,
    },
    Case {
        name: "softplus",
        f32: |arch, xs, out| map(arch, Softplus, xs, out),
        f64: |arch, xs, out| map(arch, Softplus, xs, out),
        oracle: oracle::softplus,
        bound: 3.0,
    },
    Case {
        name: "silu",
        f32: |arch, xs, out| map(arch, Silu, xs, out),
        f64: |arch, xs, out| map(arch, Silu, xs, out),
        oracle: oracle::silu,
        bound: 2.6,
    },
    Case {
        name: "gelu",
        f32: |arch, xs, out| map(arch, Gelu, xs, out),
        f64: |arch, xs, out| map(arch, Gelu, xs, out),
        oracle: oracle::gelu,
        bound: 6.5,
    },
];

/// All functions in f64, in the order of `CASES`: std's are good to 1 ulp of f64, nothing to f32. std has no
/// error function: GELU is that of f64, whose error is tested by itself.
fn f64_values(x: f64) -> [f64; 6] {
    let e = (-x.abs()).exp();
    let sigmoid = if x < 0.0 { e } else { 1.0 } / (1.0 + e);
    let mut of_gelu = [0.0];
    gelu(&[x], &mut of_gelu);
    [
        x.exp(),
        x.tanh(),
        sigmoid,
        x.max(0.0) + e.ln_1p(),
        x * sigmoid,
        of_gelu[0],
    ]
}

/// The error of `y` in units in the last place of the exact `want`.
fn error_f32(y: f32, want: f64) -> f64 {
    if y.is_infinite() || (want as f32).is_infinite() {
        return if y == want as f32 { 0.0 } else { f64::INFINITY };
    }
    let power_of_two = f64::from_bits(want.to_bits() & f64::INFINITY.to_bits());
    let ulp = (power_of_two * f64::from(f32::EPSILON)).max(f64::from(f32::from_bits(1)));
    (f64::from(y) - want).abs() / ulp
}

/// Every `stride`th finite bit pattern of either sign where the functions are neither 0, 1 nor x to the
/// last bit, some of the others, and 64 about each power of two.
fn f32_samples(stride: usize) -> Vec<f32> {
    let (tiny, large) = (2_f32.powi(-32).to_bits(), 2_f32.powi(9).to_bits());
    let middle = (tiny..large).step_by(stride);
    let outside = (0..tiny)
        .chain(large..f32::INFINITY.to_bits())
        .step_by(16 * stride);
    let edges = (1..=255_u32).flat_map(|e| ((e << 23) - 32)..((e << 23) + 32));
    let magnitudes = middle.chain(outside).chain(edges).map(f32::from_bits);
    magnitudes
        .filter(|x| x.is_finite())
        .flat_map(|x| [x, -x])
        .collect()
}

#[test]
fn f32_error_is_within_the_bounds() {
    for (i, (level, arch)) in levels().into_iter().enumerate() {
        let xs = f32_samples(if cfg!(miri) {
            1 << 22
        } else {
            [509, 8_191, 16_381][i.min(2)]
        });
        let mut worst = [(0.0, 0.0); CASES.len()];
        let mut out = [[0.0; 1024]; CASES.len()];
        for xs in xs.chunks(1024) {
            for (case, out) in CASES.iter().zip(&mut out) {
                (case.f32)(arch, xs, &mut out[..xs.len()]);
            }
            for (i, &x) in xs.iter().enumerate() {
                let want = f64_values(f64::from(x));
                for f in 0..CASES.len() {
                    let error = error_f32(out[f][i], want[f]);
                    if error.is_nan() || error > worst[f].0 {
                        worst[f] = (error, x);
                    }
                }
            }
        }
        for (case, (error, x)) in CASES.iter().zip(worst) {
            println!("{level} {} f32: {error:.3} ulp at {x:e}", case.name);
            assert!(
                error <= case.bound,
                "{level} {}({x:e}): {error} ulp",
                case.name
            );
        }
    }
}

/// Any bit pattern, and uniform in four ranges: around the origin, where GELU changes, where nothing
/// saturates, all.
fn f64_samples() -> Vec<f64> {
    let mut seed = 0_u64;
    let mut random = || {
        // Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014.
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let n = if cfg!(miri) { 100 } else { 8_000 };
    let mut xs: Vec<f64> = (0..n)
        .map(|_| f64::from_bits(random()))
        .filter(|x| x.is_finite())
        .collect();
    for range in [2.0, 8.0, 40.0, 800.0] {
        xs.extend((0..n).map(|_| ((random() >> 11) as f64 / (1_u64 << 52) as f64 - 1.0) * range));
    }
    xs.extend([
        0.0,
        -0.0,
        f64::MAX,
        f64::MIN,
        f64::MIN_POSITIVE,
        -5e-324,
        709.782_712_893_383_9,
        -745.13,
    ]);
    xs
}

#[test]
fn f64_error_is_within_the_bounds() {
    let xs = f64_samples();
    let mut out = vec![0.0; xs.len()];
    for case in &CASES {
        let want: Vec<_> = xs.iter().map(|&x| (case.oracle)(x)).collect();
        for (level, arch) in levels() {
            (case.f64)(arch, &xs, &mut out);
            let errors = out.iter().zip(&want).map(|(&y, want)| want.error(y));
            let (error, x) = errors
                .zip(&xs)
                .max_by(|a, b| a.0.total_cmp(&b.0))
                .expect("values");
            println!("{level} {} f64: {error:.3} ulp at {x:e}", case.name);
            assert!(
                error <= case.bound,
                "{level} {}({x:e}): {error} ulp",
                case.name
            );
        }
    }
}

/// The power of a softmax.
struct Exp2Flushed;

impl Function for Exp2Flushed {
    #[inline(always)]
    fn apply<R: Real, S: Simd>(s: S, x: R::V<S>) -> R::V<S> {
        // In one of several registers, which must not mix.
        let other = R::splat(s, R::ONE);
        let [_, y, _] = R::exp2_flushed(s, [other, x, other]);
        y
    }
}

/// In ulp, of values that are not far above 0; `least` is the smallest normal number, `error` that of a value which
/// should be the power of an argument.
fn flushed<R: Real>(name: &str, samples: &[R], least: f64, error: fn(R, f64) -> f64) {
    let special = [f64::NEG_INFINITY, f64::NAN].map(R::from_f64);
    let low = samples.iter().copied().filter(|x| x.to_f64() <= 8.0);
    let xs: Vec<R> = low.chain(special).collect();
    let mut found = vec![R::ZERO; xs.len()];
    for (level, arch) in levels() {
        map(arch, Exp2Flushed, &xs, &mut found);
        let mut worst = 0.0;
        for (x, &y) in xs.iter().zip(&found) {
            let expected = x.to_f64().exp2();
            // 2^-0.5
            if y.to_f64() == 0.0 && expected <= least * 0.7072 || x.to_f64().is_nan() {
                assert_eq!(y.to_f64().is_nan(), x.to_f64().is_nan(), "{level} {x}");
                continue;
            }
            let error = error(y, expected);
            assert!(error <= 1.25, "{level} {x}: {y}, not {expected}");
            worst = f64::max(worst, error);
        }
        println!("{level} 2^x {name}: {worst:.3} ulp");
        assert_eq!(found[xs.len() - 2].to_f64(), 0.0, "{level}");
    }
}

#[test]
fn powers_of_a_softmax_are_those_of_two_or_zero() {
    let samples = f64_samples();
    // std's power is within an ulp itself.
    flushed("f64", &samples, f64::MIN_POSITIVE, |y, want| {
        let power_of_two = f64::from_bits(want.to_bits() & f64::INFINITY.to_bits());
        (y - want).abs() / (power_of_two * f64::EPSILON).max(f64::from_bits(1))
    });
    let near = [-125.9, -126.0, -126.4, -126.5, -126.6, -127.0, -149.0];
    let singles: Vec<f32> = samples.iter().map(|&x| x as f32).chain(near).collect();
    let least = f64::from(f32::MIN_POSITIVE);
    flushed("f32", &singles, least, error_f32);
}

/// The derivative that comes with GELU.
struct GeluSlope;

impl Function for GeluSlope {
    #[inline(always)]
    fn apply<R: Real, S: Simd>(s: S, x: R::V<S>) -> R::V<S> {
        R::gelu_with_slope(s, x).1
    }
}

/// In ulp, but where the derivative has its zero, at -0.75: there it is the difference of two numbers near
/// 0.23, and the unit is theirs.
#[test]
fn the_slope_of_gelu_is_within_its_bound() {
    let xs = f64_samples();
    let want: Vec<_> = xs.iter().map(|&x| oracle::gelu_slope(x)).collect();
    let mut worst = [0.0_f64; 2];
    for (level, arch) in levels() {
        let mut out = vec![0.0; xs.len()];
        map(arch, GeluSlope, &xs, &mut out);
        let singles: Vec<f32> = xs.iter().map(|&x| x as f32).collect();
        let mut single = vec![0.0; xs.len()];
        map(arch, GeluSlope, &singles, &mut single);
        for (i, (&x, want)) in xs.iter().zip(&want).enumerate() {
            let near_zero = (-1.2..-0.5).contains(&x);
            let error = match near_zero {
                true => want.difference(out[i]) / (f64::EPSILON / 8.0),
                false => want.error(out[i]),
            };
            worst[0] = worst[0].max(error);
            assert!(error <= 8.5, "{level} f64 slope at {x:e}: {error} ulp");
            // What f32 is compared with is the f64 that was just checked, at the same argument.
            let mut exact = [0.0];
            map(arch, GeluSlope, &[f64::from(singles[i])], &mut exact);
            let error = match near_zero {
                true => (f64::from(single[i]) - exact[0]).abs() / f64::from(f32::EPSILON / 8.0),
                false => error_f32(single[i], exact[0]),
            };
            worst[1] = worst[1].max(error);
            assert!(
                error <= 8.5,
                "{level} f32 slope at {:e}: {error} ulp",
                singles[i]
            );
        }
    }
    println!("gelu slope f64 {:.3}, f32 {:.3} ulp", worst[0], worst[1]);
}

/// Limits, signs of zero and NaN, in every lane and beside other values.
fn limits<R: Real>(functions: [OnSlices<R>; 6]) {
    let infinity = f64::INFINITY;
    let special = [infinity, -infinity, 0.0, -0.0, f64::NAN, 1e30, -1e30];
    let want = [
        [infinity, 0.0, 1.0, 1.0, f64::NAN, infinity, 0.0],
        [1.0, -1.0, 0.0, -0.0, f64::NAN, 1.0, -1.0],
        [1.0, 0.0, 0.5, 0.5, f64::NAN, 1.0, 0.0],
        [infinity, 0.0, 2_f64.ln(), 2_f64.ln(), f64::NAN, 1e30, 0.0],
        [infinity, -0.0, 0.0, -0.0, f64::NAN, 1e30, -0.0],
        [infinity, 0.0, 0.0, -0.0, f64::NAN, 1e30, 0.0],
    ];
    // 7 values in 33 places: each is in every lane of a register of up to 16, and in a remainder.
    for shift in 0..special.len() {
        let at = |i: usize| (i + shift) % special.len();
        let xs: Vec<R> = (0..33).map(|i| R::from_f64(special[at(i)])).collect();
        let mut out = vec![R::ZERO; xs.len()];
        for (level, arch) in levels() {
            for (f, function) in functions.iter().enumerate() {
                function(arch, &xs, &mut out);
                for (i, y) in out.iter().enumerate() {
                    let (name, want) = (CASES[f].name, R::from_f64(want[f][at(i)]).to_f64());
                    let y = y.to_f64();
                    // ln 2 alone is inexact.
                    let same = if want == R::from_f64(2_f64.ln()).to_f64() {
                        (y - want).abs() < 1e-6
                    } else {
                        y.to_bits() == want.to_bits() || y.is_nan() && want.is_nan()
                    };
                    assert!(same, "{level} {name}({}) = {y}, not {want}", xs[i]);
                }
            }
        }
    }
}

#[test]
fn limits_are_exact() {
    limits::<f32>(CASES.map(|case| case.f32));
    limits::<f64>(CASES.map(|case| case.f64));
}

#[test]
fn results_do_not_depend_on_position_or_length() {
    let xs: Vec<f32> = (0..70).map(|i| (i as f32 - 35.0) * 0.31).collect();
    for (level, arch) in levels() {
        for case in &CASES {
            let mut whole = vec![0.0; xs.len()];
            (case.f32)(arch, &xs, &mut whole);
            for length in 0..=33 {
                for start in [0, 1, 36] {
                    // Two elements more than are given away, to be left as they are.
                    let mut out = vec![7.0; length + 2];
                    (case.f32)(arch, &xs[start..start + length], &mut out[1..=length]);
                    assert_eq!(
                        out[1..=length],
                        whole[start..start + length],
                        "{level} {}",
                        case.name
                    );
                    assert_eq!([out[0], out[length + 1]], [7.0; 2], "{level} {}", case.name);
                }
            }
        }
    }
}

#[test]
#[should_panic(expected = "xs has 3 elements and out 2")]
fn lengths_must_agree() {
    exp(&[1.0_f32; 3], &mut [0.0; 2]);
}
