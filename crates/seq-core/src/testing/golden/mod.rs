mod case;
mod run;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::testing::{backends, float_types, guarded};
use case::{Case, Header};
pub use run::Run;

/// Comparison with golden cases: what other implementations answered, in files.
///
/// A case is `<name>.json`, which describes it, and `<name>.safetensors`, which holds weights,
/// inputs, expected outputs and, where there are probes, the gradients of
/// `sum(output * probe)`. An architecture says for each kind of case how to compute it. Every case
/// runs on the [backends](crate::testing) in f32 and, where the case has tolerances for it and the
/// device computes in it, in f64; first without autodiff, then, if the case has gradients, with it.
///
/// Cases come from the folder given and, where the environment variable `SEQ_GOLDEN_DIR` is set,
/// from that folder and all below it.
///
/// ```no_run
/// use seq_core::testing::{Golden, Run};
///
/// #[derive(serde::Deserialize)]
/// #[serde(deny_unknown_fields)]
/// struct Config {
///     slope: f64,
/// }
///
/// fn leaky(config: Config, run: &mut Run) {
///     let x = run.float::<3>("input.x");
///     let y = burn::tensor::activation::leaky_relu(x, config.slope);
///     run.output("y", y);
/// }
///
/// Golden::new("tests/golden").kind("activation", "leaky", leaky).check();
/// ```
pub struct Golden {
    folder: PathBuf,
    kinds: BTreeMap<(&'static str, &'static str), Body>,
}

type Body = Box<dyn Fn(Value, &mut Run) -> Result<(), serde_json::Error>>;

/// The largest errors of a case, as fractions of its tolerances.
#[derive(Default)]
struct Measured {
    output: f64,
    gradient: Option<f64>,
}

impl Golden {
    /// Takes the cases that lie in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self {
            folder: folder.into(),
            kinds: BTreeMap::new(),
        }
    }

    /// Says how to compute the cases of a kind: `body` takes weights and inputs from the [`Run`]
    /// and gives it the outputs.
    ///
    /// `C` is the case's `config` and should refuse unknown fields, so that no option of a case
    /// goes unnoticed. `expected_zero_gradients` and `greedy_margin` are not part of it: they
    /// speak to this runner.
    pub fn kind<C: DeserializeOwned>(
        mut self,
        architecture: &'static str,
        kind: &'static str,
        body: impl Fn(C, &mut Run) + 'static,
    ) -> Self {
        let body = move |config, run: &mut Run| {
            body(serde_json::from_value(config)?, run);
            Ok(())
        };
        self.kinds.insert((architecture, kind), Box::new(body));
        self
    }

    /// Runs all cases and prints their errors as fractions of what is allowed.
    ///
    /// A case of another architecture is passed over; one that cannot be run is a failure.
    ///
    /// # Panics
    ///
    /// When a case fails, naming all that do, when the folder given holds no case that is known or the
    /// other one none at all, or when there is no backend.
    pub fn check(self) {
        let mut failures = Vec::new();
        let (mut cases, mut runs) = (0, 0);
        let extra = std::env::var_os("SEQ_GOLDEN_DIR").map(PathBuf::from);
        for folder in std::iter::once(self.folder.clone()).chain(extra) {
            let mut files = Vec::new();
            if let Err(error) = find(&folder, &mut files) {
                failures.push(format!("{}: {error}", folder.display()));
            }
            files.sort();
            let empty = files.is_empty();
            for file in files {
                let found = self.find_body(&file).transpose();
                let Some(found) = found else { continue };
                cases += 1;
                let case = found.and_then(|(header, body)| Ok((Case::read(&file, header)?, body)));
                match case {
                    Ok((case, body)) => runs += run_everywhere(&case, body, &mut failures),
                    Err(error) => failures.push(format!("{}: {error}", file.display())),
                }
            }
            if empty || cases == 0 {
                failures.push(format!("{}: no golden cases there", folder.display()));
            }
        }
        println!(
            "{cases} golden cases, {runs} runs, {} failures",
            failures.len()
        );
        assert!(
            failures.is_empty(),
            "golden cases failed:\n{}",
            failures.join("\n")
        );
    }

    /// The case's description and how to compute it; nothing if it belongs to somebody else.
    fn find_body(&self, file: &Path) -> Result<Option<(Header, &Body)>, String> {
        let header = Header::read(file)?;
        let Header {
            architecture, kind, ..
        } = &header;
        if !self.kinds.keys().any(|(known, _)| known == architecture) {
            return Ok(None);
        }
        let mut kinds = self.kinds.iter();
        match kinds.find(|((known, its), _)| known == architecture && its == kind) {
            Some((_, body)) => Ok(Some((header, body))),
            None => Err(format!("{architecture} has no golden kind `{kind}`")),
        }
    }
}

/// All json files in and below `folder`.
fn find(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            find(&path, files)?;
        } else if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            files.push(path);
        }
    }
    Ok(())
}

/// Returns how many runs there were.
fn run_everywhere(case: &Case, body: &Body, failures: &mut Vec<String>) -> usize {
    let mut runs = 0;
    for backend in backends() {
        let device = backend.device();
        for dtype in float_types(backend) {
            if case.tolerance(dtype).is_none() {
                continue;
            }
            runs += 1;
            let mut measured = Measured::default();
            let mut result = attempt(case, body, Run::new(case, &device, dtype), &mut measured);
            if result.is_ok() && case.has_gradients() {
                let run = Run::new(case, &device.clone().autodiff(), dtype);
                result = attempt(case, body, run, &mut measured);
            }
            let title = format!("{} {backend} {}", case.name(), dtype.name());
            match result {
                Ok(()) => {
                    let gradient = measured
                        .gradient
                        .map(|error| format!(", gradient {error:.3}"));
                    let gradient = gradient.unwrap_or_default();
                    println!(
                        "{title}: output {:.3}{gradient} of the tolerance",
                        measured.output
                    );
                }
                Err(error) => {
                    println!("{title}: FAILED");
                    failures.push(format!("{title}: {error}"));
                }
            }
        }
    }
    if runs == 0 {
        failures.push(format!("{}: no backend or type to run it in", case.name()));
    }
    runs
}

fn attempt(case: &Case, body: &Body, mut run: Run, measured: &mut Measured) -> Result<(), String> {
    guarded(|| {
        body(case.config(), &mut run).map_err(|error| format!("config: {error}"))?;
        run.finish(measured)
    })
}
