//! What the workloads of layers share: whether they have gradients, and how those are read and compared.

use burn::tensor::{Device, Distribution, Gradients, Tensor};

use crate::{Agreement, Build, Disagreement, Workload};

/// How values are drawn.
pub const NORMAL: Distribution = Distribution::Normal(0.0, 1.0);

/// What a workload does.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// The whole sequence without gradients.
    Infer,
    /// Forward and all gradients but those of a layer's input.
    Train,
    /// A stream, one step after the other.
    Step,
}

/// Makes workloads by `make`.
pub fn build<W: Workload + 'static>(make: impl Fn(&Device) -> W + 'static) -> Build {
    Box::new(move |device| Box::new(make(device)))
}

/// The device, with gradients where the kind has them, its random numbers at their beginning.
pub fn placed(kind: Kind, device: &Device) -> Device {
    let device = match kind {
        Kind::Train => device.clone().autodiff(),
        Kind::Infer | Kind::Step => device.clone(),
    };
    device.seed(0);
    device
}

/// Gradients in one row each, by name.
pub type Named = Vec<(String, Tensor<1>)>;

/// Compares the gradients that two outputs give what `read` reads.
pub fn compare<const D: usize>(
    agreement: Agreement,
    [ours, reference]: [Tensor<D>; 2],
    read: impl Fn(&Gradients) -> Named,
) -> Result<Agreement, Disagreement> {
    let probe = Tensor::random(ours.dims(), NORMAL, &ours.device());
    let gradients = |y: Tensor<D>| read(&(y * probe.clone()).sum().backward());
    let (ours, reference) = (gradients(ours), gradients(reference));
    assert!(!ours.is_empty() && ours.len() == reference.len());
    let mut pairs = ours.into_iter().zip(reference);
    pairs.try_fold(agreement, |agreement, ((name, ours), (_, reference))| {
        agreement.compare(&format!("the gradient of {name}"), ours, reference)
    })
}

/// The gradient of `x` in one row, if it has one.
pub fn flat<const D: usize>(x: &Tensor<D>, gradients: &Gradients) -> Option<Tensor<1>> {
    Some(x.grad(gradients)?.reshape([-1]))
}

/// Random values that have a gradient where there is one.
pub fn leaf<const D: usize>(
    shape: [usize; D],
    distribution: Distribution,
    kind: Kind,
    device: &Device,
) -> Tensor<D> {
    let x = Tensor::random(shape, distribution, device);
    match kind {
        Kind::Train => x.require_grad(),
        Kind::Infer | Kind::Step => x,
    }
}
