//! The workloads that the benchmarks of this workspace time, each beside Burn's own module with the
//! same weights, or beside its reference body in tensor operations where Burn has no such module.
//!
//! The recurrent architectures share their workloads; each has one file for what differs. Every
//! architecture has one line in [`ARCHITECTURES`]. The program `bench` and the criterion benches run what they find there.

#![forbid(unsafe_code)]

mod agreement;
mod gru;
mod kind;
mod lstm;
mod mamba;
mod measure;
mod recurrent;
mod report;
mod rnn;
mod ssm;
mod transformer;

pub use agreement::{Agreement, Disagreement, TOLERANCE};
pub use measure::{Memory, Sample, Timer, gemm_peak, peak_memory};
pub use report::{Line, Machine, Row, linearity, print_table};

use burn::tensor::Device;
use recurrent::Compared;
use seq_gru::GruCell;
use seq_lstm::LstmCell;
use seq_rnn::RnnCell;

/// What is known to the benchmarks: a name and the workloads, quick ones or all.
pub const ARCHITECTURES: [(&str, Cases); 6] = [
    (LstmCell::NAME, recurrent::cases::<LstmCell>),
    (GruCell::NAME, recurrent::cases::<GruCell>),
    (RnnCell::NAME, recurrent::cases::<RnnCell>),
    (ssm::NAME, ssm::cases),
    (mamba::NAME, mamba::cases),
    (transformer::NAME, transformer::cases),
];

/// Lists the workloads of an architecture.
pub type Cases = fn(Profile) -> Vec<Case>;

/// Makes a workload on a device.
pub type Build = Box<dyn Fn(&Device) -> Box<dyn Workload>>;

/// Which workloads are run, and how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// The sizes that the libraries of other languages are measured at too; three short rounds.
    Quick,
    /// More sizes, long sequences, seven longer rounds.
    Full,
}

/// A workload that can be made on any device.
pub struct Case {
    /// The name without spaces, for instance `lstm_infer/B1_T256_I128_H256_L1`: batch, time, d_input,
    /// d_hidden, num_layers.
    pub name: String,
    /// Operations in one run: of a recurrent layer, those of its matrix products.
    pub flops: f64,
    /// Into how many steps the time of one run is divided; 1 where it stands for the whole run.
    pub steps: usize,
    /// Whether the case is one of a series over the sequence length alone, which shows that time grows
    /// linearly.
    pub scaling: bool,
    /// Whether what it computes is compared with something else.
    pub checked: bool,
    /// Bytes that a step reads at least, where memory bounds it: weights and cache; otherwise 0.
    pub reads: f64,
    /// Bytes of the inputs, where the peak of memory in a run is measured beside them.
    pub inputs: Option<usize>,
    /// What it is timed beside, if anything: `burn_nn` for Burn's own module, `reference` for the
    /// reference body in tensor operations.
    pub baseline: Option<&'static str>,
    /// Makes the workload.
    pub build: Build,
}

/// One operation, done by this workspace and by what it is timed beside, with the same weights and input.
pub trait Workload {
    /// One run of this workspace's layer. Returns when the device has finished.
    fn ours(&self);

    /// One run of what it is timed beside, where the case has that. Returns when the device has finished.
    fn baseline(&self);

    /// How many parameters this workspace's layer has; none if it is no layer.
    fn num_params(&self) -> usize;

    /// Runs the operation and another computation of the same, and compares all that they compute,
    /// gradients included.
    ///
    /// # Errors
    ///
    /// When a value differs by more than [`TOLERANCE`] allows, naming it.
    fn check(&self) -> Result<Agreement, Disagreement>;
}
