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
