//! Scans of real and of complex numbers alike.

use burn::tensor::{DType, Device, Tensor, TensorData};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::Lengths;
use seq_core::scan::{Complex, ComplexDecay, ComplexScan, Decay, LinearScan};

/// Which parts a scan has, and how large it is.
#[derive(Debug, Clone)]
pub struct Case {
    pub batch: usize,
    pub time: usize,
    pub width: usize,
    pub complex: bool,
    pub varying: bool,
    pub state: bool,
    pub lengths: bool,
    pub resets: bool,
    /// Whether the tensors of each step do not lie side by side.
    pub strided: bool,
    /// Which one of decay, input and state alone is tracked, if there is such a one.
    pub tracked: usize,
    pub seed: u64,
}

impl Case {
    pub fn planes(&self) -> usize {
        if self.complex { 2 } else { 1 }
    }

    fn lengths(&self) -> Option<Lengths> {
        let length = |row| (self.seed >> (row % 60)) as usize % (self.time + 1);
        self.lengths
            .then(|| Lengths::new((0..self.batch).map(length)))
    }

    fn resets(&self) -> Option<Vec<Vec<bool>>> {
        let reset = |row: usize, step: usize| (self.seed >> ((row + step) % 60)).is_multiple_of(5);
        let row = |row| (0..self.time).map(|step| reset(row, step)).collect();
        self.resets.then(|| (0..self.batch).map(row).collect())
    }

    /// Names and values of the planes of the decay, the input and the state.
    pub fn values(&self) -> Vec<(&'static str, Vec<f64>)> {
        let mut generator = StdRng::seed_from_u64(self.seed);
        let elements = self.batch * self.time * self.width;
        // Such that no product of decays grows.
        let decay = if self.complex { 0.7 } else { 1.0 };
        let mut values = Vec::new();
        let mut random = |name, count: usize, limit: f64| {
            for _ in 0..self.planes() {
                let plane = (0..count).map(|_| generator.random_range(-limit..limit));
                values.push((name, plane.collect()));
            }
        };
        let decays = if self.varying { elements } else { self.width };
        random("the decay", decays, decay);
        random("x", elements, 1.0);
        random("the state", self.batch * self.width, 1.0);
        values
    }

    /// The scan of these values on a device, and what of it is tracked, where the device tracks.
    pub fn scan(
        &self,
        values: &[(&'static str, Vec<f64>)],
        (device, dtype): (&Device, DType),
    ) -> (Scan, Vec<(&'static str, Tensor<1>)>) {
        let names = ["the decay", "x", "the state"];
        let only = names.get(self.tracked).filter(|name| {
            let there = self.state || **name != "the state";
            there && device.is_autodiff()
        });
        let mut leaves = Vec::new();
        let mut planes = values.iter().map(|(name, values)| {
            let data = TensorData::new(values.clone(), [values.len()]);
            let x = Tensor::<1>::from_data(data, (device, dtype));
            if !device.is_autodiff() || only.is_some_and(|only| only != name) {
                return x;
            }
            let x = x.require_grad();
            leaves.push((*name, x.clone()));
            x
        });
        let (batch, time, width) = (self.batch, self.time, self.width);
        let rows = |x: Tensor<1>| match self.strided {
            true => x.reshape([time, batch, width]).swap_dims(0, 1),
            false => x.reshape([batch, time, width]),
        };
        let row = |x: Tensor<1>| x.reshape([batch, width]);
        let mut next = || planes.next().expect("three tensors of as many planes");
        let scan = match self.complex {
            false => {
                let decay = match self.varying {
                    true => Decay::Varying(rows(next())),
                    false => Decay::Constant(next()),
                };
                let scan = LinearScan::new(decay, rows(next()));
                let state = row(next());
                Scan::Real(LinearScan {
                    state: self.state.then_some(state),
                    lengths: self.lengths(),
                    resets: self.resets(),
                    ..scan
                })
            }
            true => {
                let decay = Complex::new(next(), next());
                let decay = match self.varying {
                    true => ComplexDecay::Varying(decay.map(rows)),
                    false => ComplexDecay::Constant(decay),
                };
                let scan = ComplexScan::new(decay, Complex::new(next(), next()).map(rows));
                let state = Complex::new(next(), next()).map(row);
                Scan::Complex(ComplexScan {
                    state: self.state.then_some(state),
                    lengths: self.lengths(),
                    resets: self.resets(),
                    ..scan
                })
            }
        };
        if !self.state {
            leaves.retain(|(name, _)| *name != "the state");
        }
        (scan, leaves)
    }
}

/// Of real or of complex numbers.
#[derive(Clone)]
#[allow(clippy::large_enum_variant, reason = "a test has one at a time")]
pub enum Scan {
    Real(LinearScan),
    Complex(ComplexScan),
}

#[derive(Debug, Clone, Copy)]
pub enum Form {
    Run,
    Sequential,
    Chunked(usize),
    Associative,
}

impl Scan {
    /// The planes of the states after all steps, and of the last one.
    pub fn run(self, form: Form) -> (Vec<Tensor<3>>, Vec<Tensor<2>>) {
        match self {
            Self::Real(scan) => {
                let (states, last) = match form {
                    Form::Run => scan.run(),
                    Form::Sequential => scan.sequential(),
                    Form::Chunked(chunk) => scan.chunked(chunk),
                    Form::Associative => scan.associative(),
                };
                (vec![states], vec![last])
            }
            Self::Complex(scan) => {
                let (states, last) = match form {
                    Form::Run => scan.run(),
                    Form::Sequential => scan.sequential(),
                    Form::Chunked(chunk) => scan.chunked(chunk),
                    Form::Associative => scan.associative(),
                };
                (vec![states.re, states.im], vec![last.re, last.im])
            }
        }
    }
}
