//! The functions to about 100 bits, by sums of two `f64` (Dekker, A floating-point technique for
//! extending the available precision, 1971).

/// The unevaluated sum of two `f64`, the second at most half an ulp of the first.
#[derive(Clone, Copy)]
struct Double(f64, f64);

const ONE: Double = Double(1.0, 0.0);

impl Double {
    fn sum(a: f64, b: f64) -> Self {
        let s = a + b;
        let v = s - a;
        Self(s, (a - (s - v)) + (b - v))
    }

    fn add(self, b: Self) -> Self {
        let (s, t) = (Self::sum(self.0, b.0), Self::sum(self.1, b.1));
        let s = Self::sum(s.0, s.1 + t.0);
        Self::sum(s.0, s.1 + t.1)
    }

    fn mul(self, b: Self) -> Self {
        let p = self.0 * b.0;
        Self::sum(p, self.0.mul_add(b.0, -p) + (self.0 * b.1 + self.1 * b.0))
    }

    fn div(self, b: Self) -> Self {
        let q = self.0 / b.0;
        let rest = self.add(b.mul(Self(-q, 0.0)));
        let q2 = rest.0 / b.0;
        let rest = rest.add(b.mul(Self(-q2, 0.0)));
        Self::sum(q, q2).add(Self(rest.0 / b.0, 0.0))
    }

    fn scale(self, n: i32) -> Self {
        Self(scale(self.0, n), scale(self.1, n))
    }
}

/// x 2^n
fn scale(x: f64, n: i32) -> f64 {
    x * 2_f64.powi(n / 2) * 2_f64.powi(n - n / 2)
}

/// A number times a power of two, so that it may exceed the range of `f64`.
pub struct Scaled(Double, i32);

impl Scaled {
    /// The magnitude of `y` minus this exact value.
    pub fn difference(&self, y: f64) -> f64 {
        let &Self(Double(high, low), n) = self;
        ((y - scale(high, n)) - scale(low, n)).abs()
    }

    /// The error of `y` in units in the last place of this exact value.
    pub fn error(&self, y: f64) -> f64 {
        let &Self(Double(high, low), n) = self;
        if high == 0.0 || y.is_infinite() {
            let overflows = scale(high.abs(), n - 1024) >= 1.0 - f64::EPSILON / 4.0;
            let same = if y == 0.0 {
                high == 0.0
            } else {
                overflows && (y > 0.0) == (high > 0.0)
            };
            return if same { 0.0 } else { f64::INFINITY };
        }
        let exponent = (high.to_bits() >> 52 & 0x7ff) as i32 - 1023;
        let ulp = scale(1.0, (exponent - 52).max(-1074 - n));
        ((scale(y, -n) - high) - low).abs() / ulp
    }
}

/// (e^r - 1, n) with x = n ln 2 + r
fn reduced(x: f64) -> (Double, i32) {
    let ln_2 = Double(std::f64::consts::LN_2, 2.319_046_813_846_299_6e-17);
    let n = (x / ln_2.0).round_ties_even();
    let r = Double(x, 0.0).add(ln_2.mul(Double(-n, 0.0)));
    let series = (2..=26).rev().fold(ONE, |sum, k| {
        ONE.add(sum.mul(r).div(Double(f64::from(k), 0.0)))
    });
    (series.mul(r), n as i32)
}

/// Where the results do not change any more, and the series would overflow.
fn clamped(x: f64) -> f64 {
    x.clamp(-1000.0, 1000.0)
}

pub fn exp(x: f64) -> Scaled {
    let (e, n) = reduced(clamped(x));
    Scaled(e.add(ONE), n)
}

pub fn tanh(x: f64) -> Scaled {
    if x.abs() < 1e-8 {
        return Scaled(Double(x, -x * x * x / 3.0), 0);
    }
    let (e, n) = reduced(2.0 * x.abs().min(50.0));
    let e = e.scale(n).add(Double::sum(scale(1.0, n), -1.0));
    let Double(high, low) = e.div(e.add(Double(2.0, 0.0)));
    Scaled(Double(high.copysign(x), low * x.signum()), 0)
}

pub fn sigmoid(x: f64) -> Scaled {
    let Scaled(e, n) = exp(-x.abs());
    let sum = ONE.add(e.scale(n));
    if x < 0.0 {
        Scaled(e.div(sum), n)
    } else {
        Scaled(ONE.div(sum), 0)
    }
}

pub fn silu(x: f64) -> Scaled {
    // Far below where the result is 0.
    let x = x.max(-1000.0);
    let Scaled(s, n) = sigmoid(x);
    // A factor that keeps the product from being subnormal or infinite.
    let lift = if x.abs() < 1.0 { 500 } else { -500 };
    Scaled(s.mul(Double(scale(x, lift), 0.0)), n - lift)
}

pub fn softplus(x: f64) -> Scaled {
    let Scaled(scaled, n) = exp(-x.abs());
    let e = scaled.scale(n);
    if n < -60 {
        // ln(1 + e) = e - e² / 2 to 120 bits
        let half = scaled.mul(ONE.add(e.scale(-1).mul(Double(-1.0, 0.0))));
        return if x < 0.0 {
            Scaled(half, n)
        } else {
            Scaled(Double::sum(x, e.0), 0)
        };
    }
    // One step of Newton's method on e^y - 1 = e.
    let y = e.0.ln_1p();
    let (expm1, m) = reduced(y);
    let expm1 = expm1.scale(m).add(Double(scale(1.0, m) - 1.0, 0.0));
    let rest = e.add(expm1.mul(Double(-1.0, 0.0)));
    let log = Double(y, 0.0).add(rest.div(ONE.add(e)));
    Scaled(log.add(Double(x.max(0.0), 0.0)), 0)
}

/// 1 / sqrt(2 pi)
const FRAC_1_SQRT_TAU: Double = Double(0.398_942_280_401_432_7, -2.492_327_202_277_73e-17);

/// Q(a) sqrt(2 pi) e^(a²/2) for the upper tail Q of the normal distribution, and e^(-a²/2) / sqrt(2 pi) as a
/// number times a power of two.
fn tail(a: f64) -> (Double, Scaled) {
    let square = a * a;
    let rest = a.mul_add(a, -square) / 2.0;
    let (expm1, n) = reduced(-square / 2.0);
    let e = expm1.add(ONE).mul(Double::sum(1.0, -rest));
    let density = e.mul(FRAC_1_SQRT_TAU);
    let square = Double::sum(square, 2.0 * rest);
    let ratio = if a < 5.0 {
        // 1/2 - Q is the density times the sum of a^(2 k + 1) / (1 3 5 .. (2 k + 1)).
        let (mut term, mut sum) = (Double(a, 0.0), Double(a, 0.0));
        for k in 1..140 {
            term = term.mul(square).div(Double(f64::from(2 * k + 1), 0.0));
            sum = sum.add(term);
            if term.0 < sum.0 * 1e-34 {
                break;
            }
        }
        let half = Double(0.5, 0.0).div(density.scale(n));
        half.add(sum.mul(Double(-1.0, 0.0)))
    } else {
        // The continued fraction of Laplace: 1 / (a + 1 / (a + 2 / (a + 3 / ..))).
        let below = (1..=80).rev().fold(Double(a, 0.0), |below, k| {
            Double(a, 0.0).add(Double(f64::from(k), 0.0).div(below))
        });
        ONE.div(below)
    };
    (ratio, Scaled(density, n))
}

/// `line` plus what `part` makes of the ratio of [`tail`], times the density.
fn with_tail(x: f64, line: f64, part: impl FnOnce(Double) -> Double) -> Scaled {
    let (ratio, Scaled(density, n)) = tail(x.abs());
    let part = part(ratio).mul(density);
    match line == 0.0 {
        true => Scaled(part, n),
        false => Scaled(Double(line, 0.0).add(part.scale(n)), 0),
    }
}

pub fn gelu(x: f64) -> Scaled {
    if x.abs() > 40.0 {
        return Scaled(Double(x.max(0.0), 0.0), 0);
    }
    if x.abs() < 1e-20 {
        // x / 2 + x² / sqrt(2 pi), lifted out of the subnormal numbers.
        let half = scale(x, 499);
        return Scaled(Double(half, half * x * 2.0 * FRAC_1_SQRT_TAU.0), -500);
    }
    with_tail(x, x.max(0.0), |ratio| ratio.mul(Double(-x.abs(), 0.0)))
}

/// The derivative of [`gelu`].
pub fn gelu_slope(x: f64) -> Scaled {
    if x.abs() > 40.0 {
        return Scaled(Double(if x < 0.0 { 0.0 } else { 1.0 }, 0.0), 0);
    }
    match x < 0.0 {
        true => with_tail(x, 0.0, |ratio| ratio.add(Double(x, 0.0))),
        false => with_tail(x, 1.0, |ratio| {
            Double(x, 0.0).add(ratio.mul(Double(-1.0, 0.0)))
        }),
    }
}
