use std::fmt;
use std::str::FromStr;

use burn::tensor::kind::Basic;
use burn::tensor::{Device, Tensor, TensorData};
use thiserror::Error;

/// The device of the backend named in `BURN_DEVICE`, or else of the best one whose feature is on: Burn takes GPUs
/// first, then `flex`, then `ndarray`.
///
/// Burn may have others compiled in, as `burn-train` brings `flex`; without the feature of that name here, the kernels
/// would not run on it.
///
/// For `f64` take a CPU backend: wgpu stores it, but computes `exp` and `tanh` of it in `f32`.
///
/// ```
/// # #[cfg(feature = "ndarray")] {
/// let device = seq_core::device();
/// let zeros = burn::tensor::Tensor::<2>::zeros([2, 3], &device);
/// assert_eq!(zeros.dims(), [2, 3]);
/// # }
/// ```
pub fn device() -> Device {
    #[cfg(all(feature = "ndarray", not(any(feature = "flex", feature = "cube"))))]
    if std::env::var_os("BURN_DEVICE").is_none() {
        return ndarray();
    }
    Device::default()
}

/// What the tensor holds now.
pub(crate) fn read<const D: usize, K: Basic>(tensor: &Tensor<D, K>) -> TensorData {
    let data = tensor.to_data();
    // GPUs fetch the bytes when they are first looked at, and may have computed in their place by then.
    let _ = data.as_bytes();
    data
}

/// Whether the fused CPU kernels run on the device, with or without autodiff.
#[cfg(feature = "cpu-kernels")]
pub fn is_cpu(device: &Device) -> bool {
    use burn::backend::DispatchDevice;
    let inner = device.clone().inner();
    match inner.as_dispatch() {
        #[cfg(feature = "ndarray")]
        DispatchDevice::NdArray(_) => true,
        #[cfg(feature = "flex")]
        DispatchDevice::Flex(_) => true,
        #[allow(unreachable_patterns, reason = "a build may have CPU backends alone")]
        _ => false,
    }
}

/// A backend that this build has, to be chosen by name at run time.
///
/// ```
/// use seq_core::BackendName;
///
/// for backend in BackendName::compiled() {
///     println!("{backend}: {:?}", backend.device());
/// }
/// assert!("abacus".parse::<BackendName>().is_err());
/// ```
#[derive(Debug, Clone, Copy)]
pub struct BackendName {
    name: &'static str,
    device: fn() -> Device,
}

impl BackendName {
    /// Every backend that this build has, CPUs first.
    pub fn compiled() -> Vec<Self> {
        #[allow(unused_mut, reason = "a build may have no backend")]
        let mut backends = Vec::new();
        macro_rules! backend {
            ($feature:literal, $device:expr) => {
                #[cfg(feature = $feature)]
                backends.push(Self {
                    name: $feature,
                    device: || $device,
                });
            };
        }
        backend!("ndarray", ndarray());
        backend!("flex", Device::flex());
        backend!("vulkan", Device::vulkan(Default::default()));
        backend!("metal", Device::metal(Default::default()));
        backend!("webgpu", Device::webgpu(Default::default()));
        backend!("wgpu", Device::wgpu(Default::default()));
        backend!("cuda", Device::cuda(0));
        backend!("rocm", Device::rocm(0));
        backends
    }

    /// The name, which is that of the crate feature.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// The backend's default device. Opens it where it is a GPU.
    pub fn device(self) -> Device {
        (self.device)()
    }
}

#[cfg(feature = "ndarray")]
#[allow(
    deprecated,
    reason = "Burn prefers its successor `flex`; both are kept"
)]
fn ndarray() -> Device {
    Device::ndarray()
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// A backend was asked for that this build does not have.
#[derive(Debug, Error)]
#[error("backend `{asked}` is not compiled in; this build has: {}; turn on the feature of that name", .compiled.join(", "))]
pub struct UnknownBackend {
    asked: String,
    compiled: Vec<&'static str>,
}

impl FromStr for BackendName {
    type Err = UnknownBackend;

    fn from_str(asked: &str) -> Result<Self, Self::Err> {
        let compiled = Self::compiled();
        compiled
            .iter()
            .copied()
            .find(|backend| backend.name == asked)
            .ok_or_else(|| UnknownBackend {
                asked: asked.to_owned(),
                compiled: compiled.iter().map(|backend| backend.name).collect(),
            })
    }
}
