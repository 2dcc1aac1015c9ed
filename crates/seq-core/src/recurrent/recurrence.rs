#[cfg(feature = "cpu-kernels")]
use burn::tensor::DType;
use burn::tensor::Tensor;

#[cfg(feature = "cpu-kernels")]
use super::cell::Cell;
#[cfg(feature = "cpu-kernels")]
use crate::Lengths;
use crate::PackedWeights;

/// The tensors of one recurrent layer in one direction. The rows of the weights are blocks of
/// `d_hidden`, one a gate.
#[derive(Debug, Clone)]
pub struct Recurrence {
    /// `[batch, time, d_input]`
    pub x: Tensor<3>,
    /// `[gates * d_hidden, d_input]`
    pub weight_ih: Tensor<2>,
    /// `[gates * d_hidden, d_hidden]`
    pub weight_hh: Tensor<2>,
    /// `[gates * d_hidden]`
    pub bias_ih: Option<Tensor<1>>,
    /// `[gates * d_hidden]`
    pub bias_hh: Option<Tensor<1>>,
    /// The elementwise weights of the cell, `[U * d_hidden]`.
    pub weights: Option<Tensor<1>>,
    /// The hidden state before, `[batch, d_hidden]`.
    pub hidden: Tensor<2>,
    /// The cell state before, `[batch, d_hidden]`; for a cell without one, none.
    pub cell: Option<Tensor<2>>,
    /// What earlier runs of the same cell left.
    pub packed: PackedWeights,
}

/// Outputs `[batch, time, d_hidden]`, and the hidden and the cell state after the last step
/// `[batch, d_hidden]`; or the layer itself again, where there is no fused kernel for it.
pub type Fused = Result<(Tensor<3>, Tensor<2>, Option<Tensor<2>>), Box<Recurrence>>;

impl Recurrence {
    /// Runs the layer by its fused kernel. There is one on CPU devices, where all tensors are of one type,
    /// `f32` or `f64`.
    ///
    /// # Panics
    ///
    /// When the shapes do not fit one another, or there is no step.
    #[cfg(feature = "cpu-kernels")]
    pub fn run<C, const G: usize, const I: usize, const H: usize, const U: usize, const D: usize>(
        self,
        cell: C,
        lengths: Option<&Lengths>,
        reverse: bool,
    ) -> Fused
    where
        C: Cell<G, I, H, U, D>,
    {
        if !self.has_kernel() {
            self.packed.clear();
            return Err(self.into());
        }
        self.check([I, H + D, U], C::MEMORY, lengths);
        Ok(super::ops::run(self, cell, lengths, reverse))
    }
}

#[cfg(feature = "cpu-kernels")]
impl Recurrence {
    fn has_kernel(&self) -> bool {
        let dtype = self.x.dtype();
        let vectors = [&self.bias_ih, &self.bias_hh, &self.weights];
        crate::device::is_cpu(&self.x.device())
            && matches!(dtype, DType::F32 | DType::F64)
            && [
                self.weight_ih.dtype(),
                self.weight_hh.dtype(),
                self.hidden.dtype(),
            ] == [dtype; 3]
            && vectors
                .into_iter()
                .flatten()
                .all(|vector| vector.dtype() == dtype)
            && self.cell.iter().all(|cell| cell.dtype() == dtype)
    }

    /// Checks the shapes, given the gates of the input, of the hidden state, and the elementwise weights.
    fn check(&self, [input, recurrent, unit]: [usize; 3], memory: bool, lengths: Option<&Lengths>) {
        let [batch, _, d_input] = self.x.dims();
        let [_, d_hidden] = self.hidden.dims();
        Lengths::check_input(lengths, self.x.dims());
        let fits = |name: &str, found: &[usize], expected: &[usize]| {
            assert_eq!(
                found, expected,
                "{name} has shape {found:?}, the layer needs {expected:?}"
            );
        };
        fits(
            "weight_ih",
            &self.weight_ih.dims(),
            &[input * d_hidden, d_input],
        );
        fits(
            "weight_hh",
            &self.weight_hh.dims(),
            &[recurrent * d_hidden, d_hidden],
        );
        fits("the hidden state", &self.hidden.dims(), &[batch, d_hidden]);
        let vectors = [
            ("bias_ih", &self.bias_ih, input),
            ("bias_hh", &self.bias_hh, recurrent),
            ("the elementwise weight", &self.weights, unit),
        ];
        for (name, vector, count) in vectors {
            if let Some(vector) = vector {
                fits(name, &vector.dims(), &[count * d_hidden]);
            }
        }
        assert_eq!(
            self.cell.is_some(),
            memory,
            "a cell state belongs to a cell that has one"
        );
        if let Some(cell) = &self.cell {
            fits("the cell state", &cell.dims(), &[batch, d_hidden]);
        }
    }
}
