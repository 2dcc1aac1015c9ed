//! Runs a stream of a million steps through S4D, Mamba and Mamba-2, a step at a time and in chunks, and says
//! how far the two are apart, what a step takes and how much memory the process has after each tenth:
//!
//! ```sh
//! cargo run --release -p seq-mamba --example stream
//! cargo run --release -p seq-mamba --example stream -- --steps 10000000 --layer mamba2
//! ```

use std::process::ExitCode;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor, TensorData};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::models::size;
use seq_mamba::{Mamba2Config, MambaConfig, SequenceLayer, SequenceState};
use seq_ssm::S4dConfig;

/// How often the memory is looked at.
const LOOKS: usize = 10;

/// Runs a long stream through S4D, Mamba and Mamba-2, a step at a time and in chunks.
#[derive(Parser)]
struct Args {
    /// Steps of the stream.
    #[arg(long, default_value = "1000000", value_parser = size)]
    steps: usize,
    /// Steps of a chunk.
    #[arg(long, default_value = "1000", value_parser = size)]
    chunk: usize,
    /// The width of the layers.
    #[arg(long, default_value = "16", value_parser = size)]
    d_model: usize,
    /// One of the layers; by default all.
    #[arg(long, value_enum)]
    layer: Option<Layer>,
    /// Of the weights and the input.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The most that the two forms may be apart, in units of the largest output.
    #[arg(long, default_value_t = 1e-5)]
    tolerance: f64,
}

#[derive(Clone, Copy, PartialEq, ValueEnum)]
enum Layer {
    S4d,
    Mamba,
    Mamba2,
}

/// What a stream showed.
struct Outcome {
    /// The largest difference of the two forms, in units of the largest output.
    difference: f64,
    /// The bytes of the state at first and at last.
    state: [usize; 2],
    /// The process' resident bytes after each tenth; none where the system does not tell.
    memory: Vec<usize>,
    by_step: Duration,
    by_chunk: Duration,
}

impl Args {
    fn run(&self, layer: Layer, device: &Device) -> Outcome {
        device.seed(self.seed);
        let width = self.d_model;
        match layer {
            Layer::S4d => self.stream(&S4dConfig::new(width).init(device), device),
            Layer::Mamba => self.stream(&MambaConfig::new(width).init(device), device),
            Layer::Mamba2 => {
                let config = Mamba2Config::new(width).with_d_state(16);
                self.stream(&config.with_head_dim(width).init(device), device)
            }
        }
    }

    fn stream<L: SequenceLayer>(&self, layer: &L, device: &Device) -> Outcome {
        let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {eta}");
        let bar = ProgressBar::new(self.steps as u64).with_style(style.expect("a template"));
        let mut rng = StdRng::seed_from_u64(self.seed);
        let mut stream = layer.initial_state(1, device);
        let mut chunked = stream.clone();
        let bytes = stream.to_bytes().len();
        let (mut largest, mut apart) = (0.0_f64, 0.0_f64);
        let (mut by_step, mut by_chunk) = (Duration::ZERO, Duration::ZERO);
        let (mut memory, mut done) = (Vec::new(), 0);
        while done < self.steps {
            let time = self.chunk.min(self.steps - done);
            let values = (0..time * self.d_model).map(|_| rng.random_range(-1.0f32..1.0));
            let values: Vec<f32> = values.collect();

            let begin = Instant::now();
            let x = TensorData::new(values.clone(), [1, time, self.d_model]);
            let (y, next) = layer.forward(Tensor::from_data(x, device), Some(chunked));
            chunked = next;
            let y: Vec<f32> = y.into_data().iter().collect();
            by_chunk += begin.elapsed();

            let begin = Instant::now();
            for (x, expected) in values.chunks(self.d_model).zip(y.chunks(layer.d_output())) {
                let x = TensorData::new(x.to_vec(), [1, self.d_model]);
                let (y, next) = layer.step(Tensor::from_data(x, device), stream);
                stream = next;
                let y = y.into_data();
                for (y, &expected) in y.iter::<f32>().zip(expected) {
                    largest = largest.max(f64::from(expected.abs()));
                    let difference = f64::from((y - expected).abs());
                    // A NaN must not pass for a small one.
                    apart = if difference <= apart {
                        apart
                    } else {
                        difference
                    };
                }
            }
            by_step += begin.elapsed();

            let before = done * LOOKS / self.steps;
            done += time;
            if before < done * LOOKS / self.steps {
                memory.extend(resident());
            }
            bar.set_position(done as u64);
        }
        bar.finish_and_clear();
        Outcome {
            difference: apart / largest,
            state: [bytes, stream.to_bytes().len()],
            memory,
            by_step,
            by_chunk,
        }
    }

    fn report(&self, name: &str, outcome: &Outcome) -> Result<(), String> {
        let each = |time: Duration| time.as_secs_f64() * 1e6 / self.steps as f64;
        let [first, last] = outcome.state;
        let memory = outcome.memory.iter();
        let memory: Vec<_> = memory.map(|&n| (n >> 10).to_string()).collect();
        println!(
            "{name:8} {:>10} {:>12.2e} {:>10.2} {:>10.2} {last:>8}  {}",
            self.steps,
            outcome.difference,
            each(outcome.by_step),
            each(outcome.by_chunk),
            memory.join(" "),
        );
        // Not "above", so that NaN fails too.
        if outcome.difference <= self.tolerance && first == last {
            return Ok(());
        }
        Err(format!(
            "{name}: the forms are {:e} apart, {:e} is allowed; the state grew from {first} to {last} bytes",
            outcome.difference, self.tolerance
        ))
    }
}

/// The bytes of this process that are in memory, from Linux.
fn resident() -> Option<usize> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: usize = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn main() -> ExitCode {
    let args = Args::parse();
    let device = seq_mamba::device();
    println!(
        "{:8} {:>10} {:>12} {:>10} {:>10} {:>8}  resident KiB after each tenth",
        "layer", "steps", "apart", "us a step", "in chunks", "state B"
    );
    let mut code = ExitCode::SUCCESS;
    for (layer, name) in [
        (Layer::S4d, "S4D"),
        (Layer::Mamba, "Mamba"),
        (Layer::Mamba2, "Mamba-2"),
    ] {
        if args.layer.is_some_and(|only| only != layer) {
            continue;
        }
        if let Err(error) = args.report(name, &args.run(layer, &device)) {
            eprintln!("error: {error}");
            code = ExitCode::FAILURE;
        }
    }
    code
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_stream_agree() {
        let device = seq_mamba::device();
        let args = Args::parse_from([
            "stream",
            "--steps",
            "150",
            "--chunk",
            "70",
            "--d-model",
            "4",
        ]);
        for layer in [Layer::S4d, Layer::Mamba, Layer::Mamba2] {
            let outcome = args.run(layer, &device);
            args.report("test", &outcome).unwrap();
            let looks = [0, LOOKS.min(150usize.div_ceil(70))];
            assert!(looks.contains(&outcome.memory.len()));
        }
    }

    #[test]
    fn forms_that_differ_are_an_error() {
        let args = Args::parse_from(["stream"]);
        let outcome = |difference, last| Outcome {
            difference,
            state: [8, last],
            memory: Vec::new(),
            by_step: Duration::ZERO,
            by_chunk: Duration::ZERO,
        };
        assert!(args.report("test", &outcome(1e-6, 8)).is_ok());
        assert!(args.report("test", &outcome(1e-3, 8)).is_err());
        assert!(args.report("test", &outcome(f64::NAN, 8)).is_err());
        assert!(args.report("test", &outcome(1e-6, 9)).is_err());
    }
}
