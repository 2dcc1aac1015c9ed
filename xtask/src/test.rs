use clap::{Args, ValueEnum};

use crate::command::{Result, cargo, run};

/// Runs the unit, golden, conformance, doc and example tests.
///
/// One run for each backend, out of one build. Each is on its backend alone, but for the law that the
/// results are those of `ndarray`. Doc tests run on the CPU.
#[derive(Args)]
pub struct Test {
    /// Where to run: `wgpu` needs a Vulkan, Metal or DirectX driver; Mesa's lavapipe will do.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Backend::Ndarray, Backend::Flex])]
    backend: Vec<Backend>,
    /// Only this crate, by its folder in `crates`: `lstm`, `gru`, `seq-core`, ...
    #[arg(long = "crate", value_name = "NAME")]
    only: Option<String>,
}

/// Where tests run.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Backend {
    /// Burn's older CPU backend, the default of the crates.
    Ndarray,
    /// Burn's newer CPU backend.
    Flex,
    /// The GPU, by way of wgpu.
    Wgpu,
    /// All of them.
    All,
}

impl Test {
    /// Runs the tests.
    pub fn run(&self) -> Result {
        let backends = match self.backend.contains(&Backend::All) {
            true => vec![Backend::Ndarray, Backend::Flex, Backend::Wgpu],
            false => self.backend.clone(),
        };
        let gpu = backends.contains(&Backend::Wgpu);
        let package = self.only.as_deref().map(package).transpose()?;
        backends
            .into_iter()
            .try_for_each(|backend| test(backend, gpu, package.as_deref()))
    }
}

/// Tests `package`, or the workspace, with `backend` as the default device. The build has `wgpu` where
/// `gpu` is true, and both CPU backends always, so that one build does for all backends.
pub fn test(backend: Backend, gpu: bool, package: Option<&str>) -> Result {
    let name = match backend {
        Backend::Ndarray => "ndarray",
        Backend::Flex => "flex",
        Backend::Wgpu => "wgpu",
        Backend::All => unreachable!("split up before"),
    };
    let mut command = cargo();
    command.arg("test");
    match package {
        // Not every crate has backends to choose among.
        Some("seq-data") => command.args(["--package", "seq-data"]),
        // What other crates' tests turn on.
        Some("seq-core") => {
            let features = format!("{},testing,train", features(gpu));
            command.args(["--package", "seq-core", "--features", &features])
        }
        Some(package) => command.args(["--package", package, "--features", features(gpu)]),
        None => command.args(["--workspace", "--features", features(gpu)]),
    };
    if backend == Backend::Wgpu {
        // A doc example may end before the GPU has done what it asked for, and lavapipe does not survive
        // the end of a process while it compiles shaders.
        command.args(["--lib", "--bins", "--tests", "--examples"]);
        // Tensors of the tests are small: lavapipe is faster without threads of its own.
        command.env("LP_NUM_THREADS", "0");
    }
    // The libraries take a backtrace with every message to the GPU where they may; panics still have one.
    command.env("RUST_LIB_BACKTRACE", "0");
    run(command.env("BURN_DEVICE", name))
}

/// What is added to the default features.
pub fn features(gpu: bool) -> &'static str {
    if gpu { "flex,wgpu" } else { "flex" }
}

/// The package in the folder `crates/name`.
fn package(name: &str) -> Result<String> {
    let package = format!("seq-{}", name.trim_start_matches("seq-"));
    match crate::command::root()
        .join("crates")
        .join(name.trim_start_matches("seq-"))
        .is_dir()
        || package == "seq-core"
    {
        true => Ok(package),
        false => Err(format!("there is no crate `{name}` in `crates`").into()),
    }
}
