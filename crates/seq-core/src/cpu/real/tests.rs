//! Every lanewise operation against the operators on single values, on every level.

use super::*;

/// The levels that this machine can run, widest first; Miri knows no intrinsics and gets the last.
pub(crate) fn levels() -> Vec<(&'static str, Arch)> {
    let mut levels = vec![("scalar", Arch::Scalar)];
    if !cfg!(miri) {
        #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
        levels.extend(pulp::x86::V3::try_new().map(|v3| ("x86-v3", Arch::V3(v3))));
        levels.push(("widest", Arch::new()));
    }
    levels.reverse();
    levels
}

fn f<R: Real>(values: &[f64]) -> Vec<R> {
    values.iter().map(|&v| R::from_f64(v)).collect()
}

/// NaN equals NaN, and the zeros differ.
fn same<R: Real>(a: R, b: R) -> bool {
    let (a, b) = (a.to_f64(), b.to_f64());
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// All operations on all triples of `values`, one register at a time.
struct Lanewise<R>(Vec<R>);

impl<R: Real> WithSimd for Lanewise<R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let lanes = R::lanes::<S>();
        let values = &self.0;
        let n = values.len();
        let triples: Vec<[R; 3]> = (0..(n * n * n).next_multiple_of(lanes))
            .map(|i| [values[i % n], values[i / n % n], values[i / n / n % n]])
            .collect();
        for triples in triples.chunks_exact(lanes) {
            let [a, b, c] = [0, 1, 2].map(|k| {
                let lane: Vec<R> = triples.iter().map(|t| t[k]).collect();
                // SAFETY: the vector holds one register.
                unsafe { R::load(s, lane.as_ptr()) }
            });
            let check = |name: &str, result: R::V<S>, want: fn(R, R, R) -> R| {
                let mut out = vec![R::ZERO; lanes];
                // SAFETY: the vector holds one register.
                unsafe { R::store(s, out.as_mut_ptr(), result) };
                for (&[a, b, c], &y) in triples.iter().zip(&out) {
                    let want = want(a, b, c);
                    assert!(
                        same(y, want),
                        "{s:?} {name}({a}, {b}, {c}) = {y}, not {want}"
                    );
                }
            };
            check("vadd", R::vadd(s, a, b), |a, b, _| a + b);
            check("vsub", R::vsub(s, a, b), |a, b, _| a - b);
            check("vmul", R::vmul(s, a, b), |a, b, _| a * b);
            check("vdiv", R::vdiv(s, a, b), |a, b, _| a / b);
            // These values are short: one rounding and two give the same.
            check("mul_add", R::mul_add(s, a, b, c), |a, b, c| a * b + c);
            check("neg_mul_add", R::neg_mul_add(s, a, b, c), |a, b, c| {
                c - a * b
            });
            check("vneg", R::vneg(s, a), |a, _, _| -a);
            check("abs", R::abs(s, a), |a, _, _| R::from_f64(a.to_f64().abs()));
            check("copysign", R::copysign(s, a, b), |a, b, _| {
                R::from_f64(a.to_f64().copysign(b.to_f64()))
            });
            check("min", R::min(s, a, b), |a, b, _| if a < b { a } else { b });
            check("max", R::max(s, a, b), |a, b, _| if a > b { a } else { b });
            let one = R::splat(s, R::ONE);
            check("select_lt", R::select_lt(s, a, b, c, one), |a, b, c| {
                if a < b { c } else { R::ONE }
            });
            check("select_le", R::select_le(s, a, b, c, one), |a, b, c| {
                if a <= b { c } else { R::ONE }
            });
        }
    }
}

#[test]
fn operations_are_lanewise() {
    let values = [
        0.0,
        -0.0,
        1.5,
        -3.0,
        40.0,
        -0.375,
        f64::INFINITY,
        f64::NEG_INFINITY,
        f64::NAN,
    ];
    for (_, arch) in levels() {
        arch.dispatch(Lanewise(f::<f32>(&values)));
        arch.dispatch(Lanewise(f::<f64>(&values)));
    }
}

/// Parts of registers, out of and into memory of exactly their size, and the two reductions.
struct Parts<R>(std::marker::PhantomData<R>);

impl<R: Real> WithSimd for Parts<R> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, s: S) {
        let lanes = R::lanes::<S>();
        let whole: Vec<R> = (0..lanes).map(|i| R::from_f64(i as f64 - 20.5)).collect();
        for n in 0..=lanes {
            let source: Box<[R]> = whole[..n].into();
            let mut loaded = vec![R::ONE; lanes];
            let mut stored = vec![R::ONE; lanes];
            // SAFETY: `source` holds n elements and the vectors hold a register.
            let first = unsafe {
                let first = R::load_first(s, source.as_ptr(), n);
                R::store(s, loaded.as_mut_ptr(), first);
                R::store_first(s, stored.as_mut_ptr(), n, R::load(s, whole.as_ptr()));
                first
            };
            assert_eq!(loaded[..n], whole[..n]);
            assert_eq!(loaded[n..], vec![R::ZERO; lanes - n]);
            assert_eq!(stored[..n], whole[..n]);
            assert_eq!(stored[n..], vec![R::ONE; lanes - n]);

            let mut exact: Box<[R]> = vec![R::ZERO; n].into();
            // SAFETY: `exact` holds n elements.
            unsafe { R::store_first(s, exact.as_mut_ptr(), n, first) };
            assert_eq!(exact, source);

            // Sums of halves are exact, in any order.
            let sum = source.iter().fold(R::ZERO, |sum, &x| sum + x);
            assert_eq!(R::reduce_sum(s, first), sum);
            let max = loaded.iter().fold(
                R::from_f64(f64::NEG_INFINITY),
                |m, &x| if x > m { x } else { m },
            );
            assert_eq!(R::reduce_max(s, first), max);
        }
    }
}

#[test]
fn parts_of_registers_touch_nothing_beyond() {
    for (_, arch) in levels() {
        arch.dispatch(Parts::<f32>(std::marker::PhantomData));
        arch.dispatch(Parts::<f64>(std::marker::PhantomData));
    }
}

#[test]
fn the_widest_level_is_as_wide_as_the_machine() {
    struct Lanes;
    impl WithSimd for Lanes {
        type Output = [usize; 2];

        fn with_simd<S: Simd>(self, _s: S) -> [usize; 2] {
            [f32::lanes::<S>(), f64::lanes::<S>()]
        }
    }
    assert_eq!(Arch::Scalar.dispatch(Lanes), [1, 1]);
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
        assert_eq!(Arch::new().dispatch(Lanes), [16, 8]);
    }
}
