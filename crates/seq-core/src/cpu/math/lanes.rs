//! The maths on one register, the same body for every type and instruction set.
//!
//! All functions start from one reduction (Cody and Waite, Software Manual for the Elementary
//! Functions, 1980): y = n ln 2 + r with |r| <= ln 2 / 2, then e^r - 1 = r + r² q(r) with a minimax
//! polynomial q, and 2^n put together in the bits of the exponent. None branches or reads a table.

use crate::cpu::real::{Real, Simd};

/// 1 / sqrt(2 pi)
const FRAC_1_SQRT_TAU: f64 = 0.398_942_280_401_432_7;

/// What the maths knows of a float type.
pub trait Constants: Sized + 'static {
    /// Bits of the significand, the implicit one included.
    const MANTISSA_DIGITS: u32;
    /// 1.5 2^(MANTISSA_DIGITS - 1): adding it rounds to an integer, which then lies in the low bits.
    const MAGIC: Self;
    /// What an exponent is stored with.
    const EXPONENT_BIAS: Self;
    /// 1 / ln 2
    const LOG2_E: Self;
    /// The leading bits of ln 2, so few that a product with n is exact.
    const LN_2_HIGH: Self;
    /// ln 2 - LN_2_HIGH
    const LN_2_LOW: Self;
    /// q in e^r - 1 = r + r² q(r), ascending; relative error of the sum below 0.2 ulp.
    const EXP: &'static [Self];
    /// 2^r on |r| <= 1/2, ascending; relative error below 0.1 ulp.
    const EXP2: &'static [Self];
    /// Q in 2 artanh(t/2) = t + t³ Q(t²) on t² <= 4/9, ascending; relative error below 0.25 ulp.
    const ARTANH: &'static [Self];

    /// Below it e^x rounds to 0.
    const EXP_MIN: Self;
    /// Above it e^x overflows.
    const EXP_MAX: Self;
    /// Above it tanh rounds to 1.
    const TANH_MAX: Self;
    /// Above it sigmoid rounds to 1.
    const SIGMOID_MAX: Self;
    /// Below it x e^x rounds to 0.
    const SILU_MIN: Self;
    /// log2 of a factor that lifts e^x out of the subnormal numbers.
    const EXP_LIFT: Self;
    /// 2^-EXP_LIFT
    const EXP_UNLIFT: Self;
    /// log2 of a factor that keeps 1 / (x e^x) from overflow.
    const SILU_LIFT: Self;
    /// 2^-SILU_LIFT
    const SILU_UNLIFT: Self;
    /// P in e^(a²/2) Q(a) = P((a - k) / (a + k)) / (a + k) on 0 <= a <= NORMAL_MAX, ascending, for the upper
    /// tail Q of the normal distribution and k = NORMAL_SHIFT; relative error below 0.5 ulp.
    const NORMAL: &'static [Self];
    /// k, with which the fewest coefficients do.
    const NORMAL_SHIFT: Self;
    /// Above it a Q(a) rounds to 0.
    const NORMAL_MAX: Self;
    /// Adding it rounds to a multiple of 2^-8 in `f32` and of 2^-20 in `f64`, whose square is exact.
    const NORMAL_GRID: Self;
}

impl Constants for f32 {
    const MANTISSA_DIGITS: u32 = f32::MANTISSA_DIGITS;
    const MAGIC: f32 = 12_582_912.0;
    const EXPONENT_BIAS: f32 = 127.0;
    const LOG2_E: f32 = std::f32::consts::LOG2_E;
    const LN_2_HIGH: f32 = f32::from_bits(0x3f31_7200);
    const LN_2_LOW: f32 = 1.428_606_8e-6;
    const EXP: &'static [f32] = &[
        0.499_999_97,
        0.166_665_43,
        0.041_667_2,
        0.008_366_579,
        0.001_388_251_4,
    ];
    const EXP2: &'static [f32] = &[
        1.0,
        std::f32::consts::LN_2,
        0.2402265,
        0.05550357,
        0.009618083,
        0.0013390863,
        0.00015453163,
    ];
    const ARTANH: &'static [f32] = &[0.083_333_02, 0.012_506_727, 0.002_187_641, 0.000_547_109_2];
    const EXP_MIN: f32 = -104.0;
    const EXP_MAX: f32 = 89.0;
    const TANH_MAX: f32 = 10.0;
    const SIGMOID_MAX: f32 = 30.0;
    const SILU_MIN: f32 = -109.0;
    const EXP_LIFT: f32 = 24.0;
    const EXP_UNLIFT: f32 = 1.0 / (1_u64 << 24) as f32;
    const SILU_LIFT: f32 = 30.0;
    const SILU_UNLIFT: f32 = 1.0 / (1_u64 << 30) as f32;
    const NORMAL: &'static [f32] = &[
        0.7290837,
        -0.5093322,
        0.2300177,
        -0.047258195,
        -0.010462441,
        0.0069374708,
        0.0010171207,
        -0.0009467563,
        -0.00020389279,
        5.1859402e-05,
    ];
    const NORMAL_SHIFT: f32 = 3.0;
    const NORMAL_MAX: f32 = 14.5;
    const NORMAL_GRID: f32 = 49_152.0;
}

impl Constants for f64 {
    const MANTISSA_DIGITS: u32 = f64::MANTISSA_DIGITS;
    const MAGIC: f64 = 6_755_399_441_055_744.0;
    const EXPONENT_BIAS: f64 = 1023.0;
    const LOG2_E: f64 = std::f64::consts::LOG2_E;
    const LN_2_HIGH: f64 = f64::from_bits(0x3fe6_2e42_fee0_0000);
    const LN_2_LOW: f64 = 1.908_214_929_270_587_7e-10;
    const EXP: &'static [f64] = &[
        0.5000000000000006,
        0.16666666666666588,
        0.04166666666657612,
        0.008333333333389953,
        0.0013888888931791077,
        0.0001984126971833482,
        2.480150498449742e-05,
        2.7557407889106535e-06,
        2.7626158908049095e-07,
        2.5053763485557783e-08,
    ];
    const EXP2: &'static [f64] = &[
        1.0,
        std::f64::consts::LN_2,
        0.24022650695910097,
        0.0555041086648216,
        0.009618129107606888,
        0.0013333558146416936,
        0.0001540353044173605,
        1.525273382983612e-05,
        1.321544258792169e-06,
        1.0178062445845774e-07,
        7.072585949269223e-09,
        4.4549605981865186e-10,
    ];
    const ARTANH: &'static [f64] = &[
        0.08333333333334712,
        0.012499999998765532,
        0.0022321428951561557,
        0.0004340272051669071,
        8.878327185548458e-05,
        1.875524348522265e-05,
        4.146214250441975e-06,
        7.555250453712185e-07,
        3.383591713686102e-07,
    ];
    const EXP_MIN: f64 = -746.0;
    const EXP_MAX: f64 = 710.0;
    const TANH_MAX: f64 = 20.0;
    const SIGMOID_MAX: f64 = 60.0;
    const SILU_MIN: f64 = -755.0;
    const EXP_LIFT: f64 = 53.0;
    const EXP_UNLIFT: f64 = 1.0 / (1_u128 << 53) as f64;
    const SILU_LIFT: f64 = 66.0;
    const SILU_UNLIFT: f64 = 1.0 / (1_u128 << 66) as f64;
    const NORMAL: &'static [f64] = &[
        0.769193049750063,
        -0.6653825028900566,
        0.495305615969977,
        -0.31353315667131576,
        0.1650203661703615,
        -0.06911863870595157,
        0.020795066800242838,
        -0.0029933767757008194,
        -0.0007978694014845912,
        0.0005448991058998424,
        -5.937571124992753e-05,
        -4.976301035615674e-05,
        1.6681144694235958e-05,
        3.981491498752591e-06,
        -2.7690548250438266e-06,
        -3.377434422460277e-07,
        4.3268582270729594e-07,
        4.361247764817175e-08,
        -6.531930620452063e-08,
        -1.0210818079360023e-08,
        7.181781304571702e-09,
        2.0138417282060216e-09,
    ];
    const NORMAL_SHIFT: f64 = 5.0;
    const NORMAL_MAX: f64 = 39.0;
    const NORMAL_GRID: f64 = 6_442_450_944.0;
}

/// y = n ln 2 + r, and the bits of 2^(n + log2_factor) once they are shifted into place.
struct Reduced<R: Real, S: Simd> {
    shifted: R::V<S>,
    n: R::V<S>,
    r: R::V<S>,
}

#[inline(always)]
fn reduce<R: Real, S: Simd>(s: S, y: R::V<S>, bias: R) -> Reduced<R, S> {
    let magic = R::splat(s, R::MAGIC + bias);
    let shifted = R::mul_add(s, y, R::splat(s, R::LOG2_E), magic);
    let n = R::vsub(s, shifted, magic);
    let r = R::neg_mul_add(s, n, R::splat(s, R::LN_2_HIGH), y);
    let r = R::neg_mul_add(s, n, R::splat(s, R::LN_2_LOW), r);
    Reduced { shifted, n, r }
}

/// The polynomial with the given coefficients, ascending, by Horner's rule.
#[inline(always)]
fn polynomial<R: Real, S: Simd>(s: S, x: R::V<S>, coefficients: &'static [R]) -> R::V<S> {
    let [y] = polynomials::<R, S, 1>(s, [x], coefficients);
    y
}

/// The same of several registers, step by step: one after the other they would wait for themselves.
#[inline(always)]
fn polynomials<R: Real, S: Simd, const N: usize>(
    s: S,
    x: [R::V<S>; N],
    coefficients: &'static [R],
) -> [R::V<S>; N] {
    let (&last, rest) = coefficients
        .split_last()
        .expect("a polynomial has coefficients");
    let mut sums = [R::splat(s, last); N];
    for &c in rest.iter().rev() {
        let c = R::splat(s, c);
        for (sum, &x) in sums.iter_mut().zip(&x) {
            *sum = R::mul_add(s, *sum, x, c);
        }
    }
    sums
}

/// (e^r - 1) / r for a reduced r.
#[inline(always)]
fn expm1_over_r<R: Real, S: Simd>(s: S, r: R::V<S>) -> R::V<S> {
    let q = polynomial::<R, S>(s, r, R::EXP);
    R::mul_add(s, q, r, R::splat(s, R::ONE))
}

/// c + c e^y with c = 2^log2_c, rounded once.
#[inline(always)]
fn scaled_exp_plus_1<R: Real, S: Simd>(s: S, y: R::V<S>, c: R, log2_c: R) -> R::V<S> {
    let Reduced { shifted, r, .. } = reduce::<R, S>(s, y, R::EXPONENT_BIAS + log2_c);
    let power = R::exponent_from_low_bits(s, shifted);
    let exp_r = R::mul_add(s, expm1_over_r::<R, S>(s, r), r, R::splat(s, R::ONE));
    R::mul_add(s, exp_r, power, R::splat(s, c))
}

/// x between two limits, or NaN.
#[inline(always)]
fn clamp<R: Real, S: Simd>(s: S, x: R::V<S>, low: R, high: R) -> R::V<S> {
    R::min(s, R::splat(s, high), R::max(s, R::splat(s, low), x))
}

#[inline(always)]
pub fn exp<R: Real, S: Simd>(s: S, x: R::V<S>) -> R::V<S> {
    let x = clamp::<R, S>(s, x, R::EXP_MIN, R::EXP_MAX);
    let Reduced { shifted, n, r } = reduce::<R, S>(s, x, R::EXPONENT_BIAS + R::EXPONENT_BIAS);
    // 2^n is out of range at both ends: two factors, of n / 2 each, are not.
    let half = R::from_f64(0.5);
    let magic = R::splat(s, R::MAGIC + R::EXPONENT_BIAS);
    let first = R::mul_add(s, n, R::splat(s, half), magic);
    let second = R::exponent_from_low_bits(s, R::sub_bits(s, shifted, first));
    let first = R::exponent_from_low_bits(s, first);
    let exp_r = R::mul_add(s, expm1_over_r::<R, S>(s, r), r, R::splat(s, R::ONE));
    R::vmul(s, R::vmul(s, exp_r, first), second)
}

/// 2^x where one factor 2^n does; its bits are 0 where n is as low as it gets.
#[inline(always)]
pub fn exp2_flushed<R: Real, S: Simd, const N: usize>(s: S, mut x: [R::V<S>; N]) -> [R::V<S>; N] {
    let low = R::splat(s, -R::EXPONENT_BIAS);
    let magic = R::splat(s, R::MAGIC + R::EXPONENT_BIAS);
    let mut shifted = x;
    for (x, shifted) in x.iter_mut().zip(&mut shifted) {
        *x = R::max(s, low, *x);
        *shifted = R::vadd(s, *x, magic);
    }
    for (x, &shifted) in x.iter_mut().zip(&shifted) {
        *x = R::vsub(s, *x, R::vsub(s, shifted, magic));
    }
    let mut y = polynomials::<R, S, N>(s, x, R::EXP2);
    for (y, &shifted) in y.iter_mut().zip(&shifted) {
        *y = R::vmul(s, *y, R::exponent_from_low_bits(s, shifted));
    }
    y
}

/// (e^2|x| - 1) / (e^2|x| + 1), from e^2|x| - 1 so that nothing cancels near 0.
#[inline(always)]
pub fn tanh<R: Real, S: Simd>(s: S, x: R::V<S>) -> R::V<S> {
    let a = R::min(s, R::splat(s, R::TANH_MAX), R::abs(s, x));
    let Reduced { shifted, r, .. } = reduce::<R, S>(s, R::vadd(s, a, a), R::EXPONENT_BIAS);
    let power = R::exponent_from_low_bits(s, shifted);
    let q = polynomial::<R, S>(s, r, R::EXP);
    let expm1_r = R::mul_add(s, R::vmul(s, r, r), q, r);
    let power_minus_1 = R::vsub(s, power, R::splat(s, R::ONE));
    let expm1 = R::mul_add(s, power, expm1_r, power_minus_1);
    let quotient = R::vdiv(s, expm1, R::vadd(s, expm1, R::splat(s, R::ONE + R::ONE)));
    R::copysign(s, quotient, x)
}

/// c / (c + c e^-x) with a small c: e^-x alone overflows where the result is not yet 0.
#[inline(always)]
pub fn sigmoid<R: Real, S: Simd>(s: S, x: R::V<S>) -> R::V<S> {
    let x = clamp::<R, S>(s, x, R::EXP_MIN, R::SIGMOID_MAX);
    let c = R::EXP_UNLIFT;
    let sum = scaled_exp_plus_1::<R, S>(s, R::vneg(s, x), c, -R::EXP_LIFT);
    R::vdiv(s, R::splat(s, c), sum)
}

/// max(x, 0) + ln(1 + e), e = e^-|x|, where ln(1 + e) = 2 artanh(t / 2) with t = e / (1 + e / 2).
#[inline(always)]
pub fn softplus<R: Real, S: Simd>(s: S, x: R::V<S>) -> R::V<S> {
    let one = R::splat(s, R::ONE);
    let y = R::max(s, R::splat(s, R::EXP_MIN), R::vneg(s, R::abs(s, x)));
    let Reduced { shifted, r, .. } = reduce::<R, S>(s, y, R::EXPONENT_BIAS + R::EXP_LIFT);
    let power = R::exponent_from_low_bits(s, shifted);
    let exp_r = R::mul_add(s, expm1_over_r::<R, S>(s, r), r, one);
    // The product with the lifted power of two is exact, so that a subnormal e is rounded once.
    let e = R::vmul(s, R::vmul(s, exp_r, power), R::splat(s, R::EXP_UNLIFT));
    let half = R::splat(s, R::from_f64(0.5));
    let t = R::vdiv(s, e, R::mul_add(s, e, half, one));
    let t2 = R::vmul(s, t, t);
    let tail = polynomial::<R, S>(s, t2, R::ARTANH);
    let log = R::mul_add(s, R::vmul(s, t2, t), tail, t);
    R::vadd(s, log, R::max(s, x, R::splat(s, R::ZERO)))
}

/// c x / (c + c e^-x) as in [`sigmoid`], with c smaller by the factor x.
#[inline(always)]
pub fn silu<R: Real, S: Simd>(s: S, x: R::V<S>) -> R::V<S> {
    let x = R::max(s, R::splat(s, R::SILU_MIN), x);
    let high = R::splat(s, R::SIGMOID_MAX);
    let c = R::SILU_UNLIFT;
    let y = R::vneg(s, R::min(s, high, x));
    let sum = scaled_exp_plus_1::<R, S>(s, y, c, -R::SILU_LIFT);
    // c is multiplied last, so that a tiny x keeps its bits; a large x would overflow before that.
    let product = R::vmul(s, R::vdiv(s, x, sum), R::splat(s, c));
    R::select_lt(s, high, x, x, product)
}

/// The upper tail Q of the normal distribution at a = |x|, in parts: e^(a²/2) Q(a), and e^(-a²/2) as a
/// product of three factors, of which the last two are powers of two.
struct NormalTail<R: Real, S: Simd> {
    a: R::V<S>,
    ratio: R::V<S>,
    exp: [R::V<S>; 3],
}

impl<R: Real, S: Simd> NormalTail<R, S> {
    #[inline(always)]
    fn new(s: S, x: R::V<S>) -> Self {
        let half = R::splat(s, R::from_f64(0.5));
        let a = R::min(s, R::splat(s, R::NORMAL_MAX), R::abs(s, x));
        let shift = R::splat(s, R::NORMAL_SHIFT);
        let scale = R::vdiv(s, R::splat(s, R::ONE), R::vadd(s, a, shift));
        let t = R::vmul(s, R::vsub(s, a, shift), scale);
        let ratio = R::vmul(s, polynomial::<R, S>(s, t, R::NORMAL), scale);
        // The error of a rounded a² would be one of e^(-a²/2) many times as large: the square of the
        // leading bits is exact, and the rest enters where the argument is already reduced.
        let grid = R::splat(s, R::NORMAL_GRID);
        let leading = R::vsub(s, R::vadd(s, a, grid), grid);
        let rest = R::vmul(s, R::vsub(s, a, leading), R::vadd(s, a, leading));
        let minus_half = R::vneg(s, half);
        let y = R::vmul(s, R::vmul(s, a, a), minus_half);
        let Reduced { shifted, n, .. } = reduce::<R, S>(s, y, R::EXPONENT_BIAS + R::EXPONENT_BIAS);
        let r = R::vmul(s, R::vmul(s, leading, leading), minus_half);
        let r = R::neg_mul_add(s, n, R::splat(s, R::LN_2_HIGH), r);
        let r = R::neg_mul_add(s, n, R::splat(s, R::LN_2_LOW), r);
        let r = R::neg_mul_add(s, rest, half, r);
        let exp_r = R::mul_add(s, expm1_over_r::<R, S>(s, r), r, R::splat(s, R::ONE));
        let magic = R::splat(s, R::MAGIC + R::EXPONENT_BIAS);
        let first = R::mul_add(s, n, half, magic);
        let second = R::exponent_from_low_bits(s, R::sub_bits(s, shifted, first));
        let first = R::exponent_from_low_bits(s, first);
        let exp = [exp_r, first, second];
        Self { a, ratio, exp }
    }

    /// factor e^(-a²/2); the powers of two come last, so that it is rounded to a subnormal number once.
    #[inline(always)]
    fn times_exp(&self, s: S, factor: R::V<S>) -> R::V<S> {
        let [exp_r, first, second] = self.exp;
        R::vmul(s, R::vmul(s, R::vmul(s, factor, exp_r), first), second)
    }

    /// max(x, 0) - a Q(a), where nothing cancels.
    #[inline(always)]
    fn gelu(&self, s: S, x: R::V<S>) -> R::V<S> {
        let tail = self.times_exp(s, R::vmul(s, self.a, self.ratio));
        R::vsub(s, R::max(s, R::splat(s, R::ZERO), x), tail)
    }
}

#[inline(always)]
pub fn gelu<R: Real, S: Simd>(s: S, x: R::V<S>) -> R::V<S> {
    NormalTail::<R, S>::new(s, x).gelu(s, x)
}

/// The derivative is d = Q(a) - a e^(-a²/2) / sqrt(2 pi) below 0 and 1 - d above.
#[inline(always)]
pub fn gelu_with_slope<R: Real, S: Simd>(s: S, x: R::V<S>) -> (R::V<S>, R::V<S>) {
    let tail = NormalTail::<R, S>::new(s, x);
    let density = R::splat(s, R::from_f64(FRAC_1_SQRT_TAU));
    let d = tail.times_exp(s, R::neg_mul_add(s, tail.a, density, tail.ratio));
    let (zero, one) = (R::splat(s, R::ZERO), R::splat(s, R::ONE));
    let slope = R::select_lt(s, x, zero, d, R::vsub(s, one, d));
    (tail.gelu(s, x), slope)
}
