use std::path::{Path, PathBuf};

use clap::Args;

use crate::command::{Result, cargo, root, run};
use crate::test::{Backend, features, test};

/// All checks, the cheapest first: formatting, lints, documentation, combinations of features, tests.
///
/// Lints and documentation are of all backends at once. The tests run on `ndarray` and `flex`, and on
/// `wgpu` where there is a Vulkan driver, all out of one build; with `SEQ_REQUIRE_WGPU=1` in the
/// environment a missing driver is a failure.
#[derive(Args)]
pub struct Ci {
    /// Stop before the tests.
    #[arg(long)]
    no_tests: bool,
}

impl Ci {
    /// Runs all checks.
    pub fn run(&self) -> Result {
        let gpu = gpu()?;
        run(cargo().args(["fmt", "--all", "--check"]))?;
        let all = ["--workspace", "--features", features(true)];
        let clippy = ["--all-targets", "--", "-D", "warnings"];
        run(cargo().arg("clippy").args(all).args(clippy))?;
        run(cargo().arg("doc").args(all).arg("--no-deps").env(
            "RUSTDOCFLAGS",
            "-D warnings -D rustdoc::broken_intra_doc_links",
        ))?;
        combinations()?;
        if self.no_tests {
            return Ok(());
        }
        let cpu = [Backend::Ndarray, Backend::Flex];
        cpu.into_iter()
            .chain(gpu.then_some(Backend::Wgpu))
            .try_for_each(|backend| test(backend, gpu, None))
    }
}

/// Whether there is a GPU, or lavapipe, to test on.
fn gpu() -> Result<bool> {
    let found = vulkan_driver();
    match &found {
        Some(driver) => eprintln!("Vulkan driver: {}", driver.display()),
        None if std::env::var("SEQ_REQUIRE_WGPU").is_ok_and(|required| required == "1") => {
            return Err("SEQ_REQUIRE_WGPU=1, but there is no Vulkan driver to test wgpu on".into());
        }
        None => eprintln!("no Vulkan driver: wgpu is checked, but not tested"),
    }
    Ok(found.is_some())
}

/// Checks that every architecture compiles with each backend alone; the lints compiled all together.
fn combinations() -> Result {
    let packages = architectures()?;
    let check = |features: &[&str]| {
        let mut command = cargo();
        command.arg("check");
        packages.iter().for_each(|package| {
            command.args(["--package", package]);
        });
        run(command.args(features))
    };
    // By default with `ndarray`.
    check(&[])?;
    check(&["--no-default-features", "--features", "flex"])?;
    check(&["--no-default-features", "--features", "wgpu"])
}

/// The packages in `crates`, but for the two that are no architecture.
fn architectures() -> Result<Vec<String>> {
    let mut packages = Vec::new();
    for entry in std::fs::read_dir(root().join("crates"))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !["seq-core", "data"].contains(&name.as_str()) {
            packages.push(format!("seq-{name}"));
        }
    }
    packages.sort();
    Ok(packages)
}

/// The description of an installed Vulkan driver, as the Vulkan loader looks for it.
fn vulkan_driver() -> Option<PathBuf> {
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        if let Some(files) = std::env::var_os(variable) {
            return std::env::split_paths(&files).find(|file| file.is_file());
        }
    }
    [
        "/usr/share/vulkan/icd.d",
        "/usr/local/share/vulkan/icd.d",
        "/etc/vulkan/icd.d",
    ]
    .into_iter()
    .filter_map(|folder| Path::new(folder).read_dir().ok())
    .flat_map(|files| files.filter_map(|file| Some(file.ok()?.path())))
    .find(|file| {
        file.extension()
            .is_some_and(|extension| extension == "json")
    })
}
