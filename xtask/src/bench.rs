use std::path::PathBuf;
use std::process::{Command, Stdio};

use clap::{Args, ValueEnum};

use crate::command::{Result, cargo, run};
use crate::peers;

/// Times the layers beside Burn's own modules, and beside PyTorch and others with `--peers`.
///
/// Forward, training step and streaming step across sizes, with the same weights as Burn's module, or the
/// reference body where Burn has no such module, and in turns with it. Prints the number of weights, the
/// time, its spread, how many times faster, the GFLOP/s achieved, and their share of what matrix products
/// reach on this machine; beneath, whether time grows linearly with the sequence, the GRU's weights
/// and training time beside the LSTM's, the time of decoding beside that of reading weights and cache once, and
/// the peak of memory beside the inputs of long attention. Where outputs or gradients disagree no ratio is given and the
/// command fails. Quick takes under two minutes an architecture once it is built.
#[derive(Args)]
pub struct Bench {
    /// Only these architectures, of `lstm`, `gru`, `rnn`, `ssm`, `mamba`, `transformer`; by default all.
    #[arg(long, value_delimiter = ',')]
    arch: Vec<String>,
    /// Backends: `ndarray`, `flex`, `wgpu`, `vulkan`, `metal`, `webgpu`, `cuda`, `rocm`.
    #[arg(long, value_delimiter = ',', default_value = "ndarray")]
    backend: Vec<String>,
    /// `quick`, or `full` with more sizes and sequences of up to 65,536 steps.
    #[arg(long, value_enum, default_value_t = Profile::Quick)]
    profile: Profile,
    /// Append one JSON line a measurement to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only workloads whose name contains one of these, for instance `train/B32,gru_step`.
    #[arg(long, value_name = "SUBSTR", value_delimiter = ',')]
    filter: Vec<String>,
    /// CPU threads, for the kernels and for Burn alike; by default one for each core.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Rounds in which the operations take turns; by default 3, in `full` 7.
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Also time PyTorch, onnxruntime, OpenVINO, JAX, transformers, mamba.py and scipy, in turns with
    /// ours; `torch_attention` is a layer by hand on PyTorch's fused attention: a causal one beside a Mamba
    /// layer, an encoder's beside ours. Installs them under `target/peers` (2.5 GB), unless
    /// `SEQ_PEERS_PYTHON` names a Python that has them. A program that `SEQ_GGML_BENCH` names is timed too; it takes the thread count and the
    /// workloads, parted by commas, and prints a line of JSON for each.
    #[arg(long)]
    peers: bool,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Profile {
    Quick,
    Full,
}

impl Bench {
    /// Builds the program that measures, and runs it.
    pub fn run(&self) -> Result {
        eprintln!(
            "building the benchmarks; the first time this compiles Burn, some ten minutes on two cores"
        );
        let json = self.json.as_ref().map(std::path::absolute).transpose()?;
        if !self.peers {
            return run(&mut self.bench(json.as_ref(), &self.rounds()));
        }
        let once = ["--ours-only", "--rounds", "1"].map(str::to_owned);
        peers::compare(&peers::Comparison {
            first: &|json| run(&mut self.bench(Some(json), &self.rounds())),
            again: &|json| run(self.bench(Some(json), &once).stdout(Stdio::null())),
            rounds: self.rounds.unwrap_or(3).max(1),
            threads: self
                .threads
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
            json: json.as_deref(),
        })
    }

    /// The release build with the backends asked for; those of the CPU are in every build.
    fn bench(&self, json: Option<&PathBuf>, rounds: &[String]) -> Command {
        let on_gpu = |name: &&String| !["ndarray", "flex"].contains(&name.as_str());
        let features: Vec<&str> = self
            .backend
            .iter()
            .filter(on_gpu)
            .map(String::as_str)
            .collect();
        let mut command = cargo();
        command.args(["run", "--release", "--package", "benches", "--bin", "bench"]);
        if !features.is_empty() {
            command.args(["--features", &features.join(",")]);
        }
        command.args(["--", "--backend", &self.backend.join(",")]);
        command.args([
            "--profile",
            if self.profile == Profile::Full {
                "full"
            } else {
                "quick"
            },
        ]);
        if !self.arch.is_empty() {
            command.args(["--arch", &self.arch.join(",")]);
        }
        if !self.filter.is_empty() {
            command.args(["--filter", &self.filter.join(",")]);
        }
        if let Some(threads) = self.threads {
            command.args(["--threads", &threads.to_string()]);
        }
        if let Some(json) = json {
            command.arg("--json").arg(json);
        }
        command.args(rounds);
        command
    }

    fn rounds(&self) -> Vec<String> {
        self.rounds
            .map(|rounds| vec!["--rounds".to_owned(), rounds.to_string()])
            .unwrap_or_default()
    }
}
