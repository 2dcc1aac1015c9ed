//! The Fourier transform as products with small matrices: what a GPU does well, and with gradients.

use std::f64::consts::TAU;

use burn::tensor::{Tensor, TensorData};

/// The longest transform that is one product.
const LONGEST_FACTOR: usize = 64;

/// `x` `[batch, time, width]` with `kernel` `[width, length]`, which is no longer than `x`, and with
/// `ahead`, which is shorter.
pub(super) fn run(x: Tensor<3>, kernel: Tensor<2>, ahead: Option<Tensor<2>>) -> Tensor<3> {
    let Some(ahead) = ahead else {
        return causal(x, kernel);
    };
    let [width, _] = ahead.dims();
    let now = Tensor::zeros([width, 1], (&ahead.device(), ahead.dtype()));
    let later = causal(x.clone().flip([1]), Tensor::cat(vec![now, ahead], 1));
    causal(x, kernel) + later.flip([1])
}

fn causal(x: Tensor<3>, kernel: Tensor<2>) -> Tensor<3> {
    let ([_, time, _], [_, length]) = (x.dims(), kernel.dims());
    let factors = factors(time + length - 1);
    let size = factors.iter().product();
    let kernel: Tensor<3> = kernel.swap_dims(0, 1).unsqueeze();
    let spectrum = |x: Tensor<3>| {
        let x = pad(x, size);
        let zeros = x.zeros_like();
        forward(Complex { re: x, im: zeros }, &factors)
    };
    let product = spectrum(x).times(spectrum(kernel));
    let y = inverse(product, &factors).re;
    // Burn's gradient of a division by a number goes by way of f32.
    y.narrow(1, 0, time) * (1.0 / size as f64)
}

/// Zeros after the last step, to `size` steps.
fn pad(x: Tensor<3>, size: usize) -> Tensor<3> {
    let [batch, time, width] = x.dims();
    if size == time {
        return x;
    }
    let zeros = Tensor::zeros([batch, size - time, width], (&x.device(), x.dtype()));
    Tensor::cat(vec![x, zeros], 1)
}

/// About equal factors, none above [`LONGEST_FACTOR`], whose product is at least `size`.
fn factors(size: usize) -> Vec<usize> {
    let mut factors = Vec::new();
    let mut rest = size;
    while rest > LONGEST_FACTOR {
        let more = (rest as f64).log(LONGEST_FACTOR as f64).ceil();
        let factor = (rest as f64).powf(more.recip()).ceil() as usize;
        factors.push(factor);
        rest = rest.div_ceil(factor);
    }
    factors.push(rest);
    factors
}

/// `[batch, steps, width]`
struct Complex {
    re: Tensor<3>,
    im: Tensor<3>,
}

impl Complex {
    fn times(self, other: Self) -> Self {
        Self {
            re: self.re.clone() * other.re.clone() - self.im.clone() * other.im.clone(),
            im: self.re * other.im + self.im * other.re,
        }
    }

    /// Multiplies every column of `[rows, n, columns]` with a matrix `[1, n, n]`.
    fn left_product(self, matrix: Self) -> Self {
        Self {
            re: matrix.re.clone().matmul(self.re.clone())
                - matrix.im.clone().matmul(self.im.clone()),
            im: matrix.re.matmul(self.im) + matrix.im.matmul(self.re),
        }
    }

    fn reshape(self, shape: [usize; 3]) -> Self {
        Self {
            re: self.re.reshape(shape),
            im: self.im.reshape(shape),
        }
    }
}

/// `e^(sign tau i row column / size)` of shape `[1, rows, columns]`, like `like`.
fn roots(rows: usize, columns: usize, size: usize, sign: f64, like: &Tensor<3>) -> Complex {
    let part = |function: fn(f64) -> f64| {
        let angle = |k: usize| sign * TAU * (k % size) as f64 / size as f64;
        let values = (0..rows).flat_map(|row| (0..columns).map(move |column| row * column));
        let values: Vec<f64> = values.map(|k| function(angle(k))).collect();
        let data = TensorData::new(values, [1, rows, columns]);
        Tensor::from_data(data, (&like.device(), like.dtype()))
    };
    Complex {
        re: part(f64::cos),
        im: part(f64::sin),
    }
}

/// The transform along the steps, by a factor at a time. The frequencies come out in an order that
/// [`inverse`] takes, so that nothing is ever transposed.
fn forward(x: Complex, factors: &[usize]) -> Complex {
    let shape @ [batch, mut size, width] = x.re.dims();
    let (mut x, mut rows) = (x, batch);
    for &factor in factors {
        let rest = size / factor;
        let matrix = roots(factor, factor, factor, -1.0, &x.re);
        let twiddles = roots(factor, rest, size, -1.0, &x.re).reshape([1, size, 1]);
        x = x.reshape([rows, factor, rest * width]).left_product(matrix);
        x = x.reshape([rows, size, width]).times(twiddles);
        (rows, size) = (rows * factor, rest);
    }
    x.reshape(shape)
}

/// The reverse of [`forward`], but for the factor of the size.
fn inverse(x: Complex, factors: &[usize]) -> Complex {
    let shape @ [batch, steps, width] = x.re.dims();
    let (mut x, mut rows, mut rest) = (x, batch * steps, 1);
    for &factor in factors.iter().rev() {
        let size = rest * factor;
        rows /= factor;
        let matrix = roots(factor, factor, factor, 1.0, &x.re);
        let twiddles = roots(factor, rest, size, 1.0, &x.re).reshape([1, size, 1]);
        x = x.reshape([rows, size, width]).times(twiddles);
        x = x.reshape([rows, factor, rest * width]).left_product(matrix);
        rest = size;
    }
    x.reshape(shape)
}
