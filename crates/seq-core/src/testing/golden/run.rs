use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use burn::tensor::{Bool, DType, Device, Gradients, Int, Tensor, TensorData};

use super::Measured;
use super::case::Case;
use crate::device::read;
use crate::testing::compare::distance;

/// One run of a golden case, on one device and in one float type: hands out its weights and inputs
/// and collects the outputs.
///
/// Names are those of the case's safetensors file, such as `weight.weight_ih_l0` or `input.x`.
/// Whatever the file holds has to be used: a weight or input that nobody asked for, and an output
/// that nobody gave, is a failure.
///
/// ```
/// use seq_core::testing::Run;
///
/// fn linear(run: &mut Run) {
///     let x = run.float::<3>("input.x");
///     let weight = run.float::<2>("weight.weight");
///     run.output("y", x.matmul(weight.transpose().unsqueeze()));
/// }
/// ```
pub struct Run<'a> {
    case: &'a Case,
    device: Device,
    dtype: DType,
    taken: BTreeSet<String>,
    outputs: BTreeMap<String, TensorData>,
    loss: Option<Tensor<1>>,
    gradients: Vec<(String, Gradient)>,
}

type Gradient = Box<dyn Fn(&Gradients) -> Option<TensorData>>;

impl<'a> Run<'a> {
    pub(super) fn new(case: &'a Case, device: &Device, dtype: DType) -> Self {
        Self {
            case,
            device: device.clone(),
            dtype,
            taken: BTreeSet::new(),
            outputs: BTreeMap::new(),
            loss: None,
            gradients: Vec::new(),
        }
    }

    /// The device to compute on; with autodiff where gradients are asked for.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The float type to compute in.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The case's safetensors file, for loaders of checkpoints; the weights' names in it begin
    /// with `weight.`, and [`track`](Self::track) tells the run that they are in use.
    pub fn file(&self) -> &Path {
        self.case.file()
    }

    /// Whether the case has this tensor.
    pub fn has(&self, name: &str) -> bool {
        self.case.tensor(name).is_some()
    }

    /// How many axes a tensor of the case has.
    ///
    /// # Panics
    ///
    /// When the case has no such tensor.
    pub fn rank(&self, name: &str) -> usize {
        self.data(name).shape().num_dims()
    }

    /// A weight or input of floats. Where gradients are asked for it is a leaf that requires one;
    /// a parameter made of it should therefore be a `Param::from_tensor` of the very tensor, or a
    /// `Param::initialized` of what was computed from it.
    ///
    /// # Panics
    ///
    /// When the case has no such tensor, or it is not of rank `D` or not of floats.
    pub fn float<const D: usize>(&mut self, name: &str) -> Tensor<D> {
        let data = self.data(name);
        assert!(data.dtype().is_float(), "`{name}` is not of floats");
        let tensor = Tensor::from_data(data.clone(), (&self.device, self.dtype));
        let tensor = if self.device.is_autodiff() {
            tensor.require_grad()
        } else {
            tensor
        };
        self.track(name, &tensor);
        tensor
    }

    /// An input of integers.
    ///
    /// # Panics
    ///
    /// As [`float`](Self::float).
    pub fn int<const D: usize>(&mut self, name: &str) -> Tensor<D, Int> {
        let data = self.data(name);
        assert!(data.dtype().is_int(), "`{name}` is not of integers");
        let data = data.clone();
        self.taken.insert(name.to_owned());
        Tensor::from_data(data, &self.device)
    }

    /// An input of zeros and ones as a mask.
    ///
    /// # Panics
    ///
    /// As [`float`](Self::float).
    pub fn mask<const D: usize>(&mut self, name: &str) -> Tensor<D, Bool> {
        self.int(name).not_equal_elem(0)
    }

    /// An input of integers, as numbers.
    ///
    /// # Panics
    ///
    /// When the case has no such tensor, or it holds anything but non-negative integers.
    pub fn numbers(&mut self, name: &str) -> Vec<usize> {
        let data = self.data(name);
        let numbers = data
            .as_slice::<i64>()
            .unwrap_or_else(|error| panic!("`{name}`: {error}"));
        let number = |&n: &i64| usize::try_from(n).unwrap_or_else(|_| panic!("`{name}` holds {n}"));
        let numbers = numbers.iter().map(number).collect();
        self.taken.insert(name.to_owned());
        numbers
    }

    /// Says that `tensor` is the weight or input `name`, with its shape, wherever it came from: its
    /// gradient is the one to compare.
    pub fn track<const D: usize>(&mut self, name: &str, tensor: &Tensor<D>) {
        self.taken.insert(name.to_owned());
        let tensor = tensor.clone();
        let gradient = move |gradients: &Gradients| Some(read(&tensor.grad(gradients)?));
        self.gradients
            .push((format!("gradient.{name}"), Box::new(gradient)));
    }

    /// Gives the output `output.<name>`.
    ///
    /// # Panics
    ///
    /// When its shape is not that of its probe.
    pub fn output<const D: usize>(&mut self, name: &str, output: Tensor<D>) {
        if let Some(probe) = self.case.tensor(&format!("probe.{name}")) {
            let probe = Tensor::<D>::from_data(probe.clone(), (&self.device, self.dtype));
            let loss = (output.clone() * probe).sum();
            self.loss = Some(match self.loss.take() {
                Some(others) => others + loss,
                None => loss,
            });
        }
        self.outputs.insert(format!("output.{name}"), read(&output));
    }

    /// Gives the output `output.<name>` of integers, which have to be equal.
    pub fn output_int<const D: usize>(&mut self, name: &str, output: Tensor<D, Int>) {
        self.outputs.insert(format!("output.{name}"), read(&output));
    }

    fn data(&self, name: &str) -> &'a TensorData {
        self.case
            .tensor(name)
            .unwrap_or_else(|| panic!("the case has no tensor `{name}`"))
    }

    /// Compares all there is and notes the largest errors.
    pub(super) fn finish(self, measured: &mut Measured) -> Result<(), String> {
        let given = self.case.names("weight.").chain(self.case.names("input."));
        let unused: Vec<_> = given.filter(|name| !self.taken.contains(*name)).collect();
        if !unused.is_empty() {
            return Err(format!("the run made no use of {unused:?}"));
        }
        let expected: Vec<_> = self.case.names("output.").collect();
        if !self.outputs.keys().eq(&expected) {
            let given: Vec<_> = self.outputs.keys().collect();
            return Err(format!("the run gave {given:?}, expected {expected:?}"));
        }
        let tolerance = self
            .case
            .tolerance(self.dtype)
            .expect("a run of a type has its tolerance");
        for (name, found) in &self.outputs {
            let expected = self.data(name);
            let exact = if expected.dtype().is_float() {
                tolerance.output
            } else {
                [0.0, 0.0]
            };
            measured.output = measured.output.max(check(name, found, expected, exact)?);
        }
        if self.device.is_autodiff() {
            self.gradients(
                tolerance
                    .gradient
                    .ok_or("there is no tolerance for gradients")?,
                measured,
            )?;
        }
        Ok(())
    }

    fn gradients(self, tolerance: [f64; 2], measured: &mut Measured) -> Result<(), String> {
        let loss = self.loss.as_ref().ok_or("no output has a probe")?;
        let gradients = loss.backward();
        let mut found: BTreeMap<_, _> = self
            .gradients
            .iter()
            .map(|(n, g)| (n.as_str(), g))
            .collect();
        for name in self.case.names("gradient.") {
            let expected = self.data(name);
            let gradient = found
                .remove(name)
                .ok_or(format!("nobody tracks `{name}`"))?;
            // A tensor without any part in the loss has no gradient, which is one of zeros.
            let gradient = gradient(&gradients).unwrap_or_else(|| {
                TensorData::full_dtype(expected.shape().clone(), 0.0, self.dtype)
            });
            let error = check(name, &gradient, expected, tolerance)?;
            measured.gradient = Some(measured.gradient.unwrap_or(0.0).max(error));
        }
        match measured.gradient {
            Some(_) => Ok(()),
            None => Err("the case has probes and no gradients".to_owned()),
        }
    }
}

/// The error as a fraction of the tolerance, if it is not above it.
fn check(
    name: &str,
    found: &TensorData,
    expected: &TensorData,
    tolerance: [f64; 2],
) -> Result<f64, String> {
    let error = distance(found, expected, tolerance).map_err(|what| format!("`{name}`: {what}"))?;
    match error <= 1.0 {
        true => Ok(error),
        false => Err(format!(
            "`{name}`: error {error:.3} of the tolerance {tolerance:?}"
        )),
    }
}
