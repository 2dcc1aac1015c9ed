//! Trains a state-space model to read handwritten digits pixel by pixel:
//!
//! ```sh
//! cargo run --release -p seq-ssm --example digits
//! cargo run --release -p seq-ssm --example digits -- --layer s5 --epochs 30
//! cargo run --release -p seq-ssm --example digits -- --mnist data/mnist --epochs 4
//! ```
//!
//! The bundled digits have 64 steps; MNIST, which is read from a folder ([`seq_data::mnist`] says in which
//! forms), has 784.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use burn::data::dataloader::{DataLoader, DataLoaderBuilder};
use burn::grad_clipping::GradientClippingConfig;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::module::{Module, ModuleDisplay};
use burn::nn::loss::CrossEntropyLossConfig;
use burn::nn::{LayerNormConfig, LinearConfig};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Distribution, Int, Tensor};
use clap::{Parser, ValueEnum};
use seq_core::models::Classifier;
use seq_data::classification::{SequenceBatch, SequenceBatcher, Split, digits};
use seq_ssm::{Lengths, S4BlockConfig, S4Config, S4dConfig, S5Config, SequenceLayer, Stack};

const WEIGHT_DECAY: f32 = 0.01;
/// How much of each label is spread over all digits.
const SMOOTHING: f32 = 0.1;
/// The deviation of what is added to every pixel while training.
const NOISE: f64 = 0.1;

/// Trains a state-space model to read handwritten digits pixel by pixel.
#[derive(Parser)]
struct Args {
    /// The layer inside the blocks.
    #[arg(long, value_enum, default_value_t = Layer::S4)]
    layer: Layer,
    /// A folder with MNIST, to be read instead of the bundled digits.
    #[arg(long)]
    mnist: Option<PathBuf>,
    /// How often the training set is seen.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Images a step.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..))]
    batch_size: u32,
    /// The features of a step.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    d_model: u32,
    /// The real states, of a feature in S4D and S4, of a layer in S5; an even number.
    #[arg(long, default_value_t = 32, value_parser = clap::value_parser!(u32).range(2..=256))]
    d_state: u32,
    /// Blocks, one after the other.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=16))]
    num_layers: u32,
    /// The probability that a value is dropped while training.
    #[arg(long, default_value = "0.2", value_parser = dropout)]
    dropout: f64,
    /// AdamW's rate at the beginning; it falls to zero along a cosine.
    #[arg(long, default_value = "0.005", value_parser = learning_rate)]
    learning_rate: f64,
    /// Of weights, dropout and order of the images.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum Layer {
    S4d,
    S4,
    S5,
}

fn dropout(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(p) if (0.0..1.0).contains(&p) => Ok(p),
        _ => Err("must be a number from 0 on and below 1".to_string()),
    }
}

fn learning_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1.0 => Ok(rate),
        _ => Err("must be a number above 0 and at most 1".to_string()),
    }
}

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Outcome {
    let split = match &args.mnist {
        Some(folder) => seq_data::mnist::read(folder)?,
        None => digits(),
    };
    let device = seq_ssm::device();
    device.seed(args.seed);
    // Step sizes with which the states remember from the whole image down to a few pixels.
    let time = split.train.sequences()[0].time() as f64;
    let (dt_min, dt_max) = (1.0 / time, 32.0 / time);
    let [d_model, d_state] = [args.d_model, args.d_state].map(|n| n as usize);
    match args.layer {
        Layer::S4d => {
            let config = S4dConfig::new(d_model)
                .with_d_state(d_state)
                .with_dt_min(dt_min)
                .with_dt_max(dt_max);
            config.validate()?;
            train(args, split, &device, || config.init(&device))
        }
        Layer::S4 => {
            let config = S4Config::new(d_model)
                .with_d_state(d_state)
                .with_dt_min(dt_min)
                .with_dt_max(dt_max);
            config.validate()?;
            train(args, split, &device, || config.init(&device))
        }
        Layer::S5 => {
            let config = S5Config::new(d_model)
                .with_d_state(d_state)
                .with_dt_min(dt_min)
                .with_dt_max(dt_max);
            config.validate()?;
            train(args, split, &device, || config.init(&device))
        }
    }
}

/// Trains blocks around layers that `layer` makes, and tests them.
fn train<L: SequenceLayer + ModuleDisplay>(
    args: &Args,
    split: Split,
    device: &Device,
    layer: impl Fn() -> L,
) -> Outcome {
    let begin = Instant::now();
    let mut out = io::stdout();
    let (classes, d_model) = (split.train.classes().len(), args.d_model as usize);
    let block = S4BlockConfig::new().with_dropout(args.dropout);
    let blocks = (0..args.num_layers).map(|_| block.init(layer(), device));
    let stack = Stack::new(blocks.collect())
        .with_input(LinearConfig::new(split.train.channels(), d_model).init(device))
        .with_norm(LayerNormConfig::new(d_model).init(device));
    let mut model = Classifier::new(classes, stack, device).train();
    writeln!(
        out,
        "{} images of {} steps to train, {} to test, {} parameters",
        split.train.sequences().len(),
        split.train.sequences()[0].time(),
        split.test.sequences().len(),
        model.num_params()
    )?;

    let [epochs, batch_size] = [args.epochs, args.batch_size].map(|n| n as usize);
    let batches = split.train.sequences().len().div_ceil(batch_size);
    let images = DataLoaderBuilder::new(SequenceBatcher)
        .batch_size(batch_size)
        .shuffle(args.seed)
        .set_device(model.head.weight.device())
        .build(split.train);
    let test = DataLoaderBuilder::new(SequenceBatcher)
        .batch_size(100)
        .set_device(device.clone())
        .build(split.test);
    let mut learning_rate =
        CosineAnnealingLrSchedulerConfig::new(args.learning_rate, epochs * batches).init()?;
    let mut optimizer = AdamWConfig::new()
        .with_epsilon(1e-8)
        .with_weight_decay(WEIGHT_DECAY)
        .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
        .init();
    let cross_entropy = CrossEntropyLossConfig::new()
        .with_smoothing(Some(SMOOTHING))
        .init(&model.head.weight.device());

    for epoch in 1..=epochs {
        let mut sum = 0.0;
        for batch in images.iter() {
            let mut batch = batch?;
            let noise = Distribution::Normal(0.0, NOISE);
            batch.inputs = batch.inputs.clone() + batch.inputs.random_like(noise);
            let (logits, labels) = classify(&model, batch);
            let loss = cross_entropy.forward(logits, labels);
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            sum += loss.into_scalar::<f64>();
            model = optimizer.step(learning_rate.step(), model, gradients);
        }
        let loss = sum / batches as f64;
        let accuracy = accuracy(&model.valid(), test.as_ref())?;
        let seconds = begin.elapsed().as_secs_f64();
        writeln!(
            out,
            "epoch {epoch}/{epochs}: training loss {loss:.4}, test accuracy {accuracy:.2} %, {seconds:.1} s"
        )?;
    }
    Ok(())
}

/// How many of a hundred images are read right.
fn accuracy<L: SequenceLayer>(
    model: &Classifier<L>,
    images: &dyn DataLoader<SequenceBatch>,
) -> Result<f64, Box<dyn std::error::Error>> {
    let (mut right, mut all) = (0, 0);
    for batch in images.iter() {
        let (logits, labels) = classify(model, batch?);
        let read = logits.argmax(1).squeeze_dim::<1>(1);
        all += labels.dims()[0];
        right += read.equal(labels).int().sum().into_scalar::<i64>();
    }
    Ok(100.0 * right as f64 / all as f64)
}

/// The logits `[batch, classes]` and the labels `[batch]` of a batch.
fn classify<L: SequenceLayer>(
    model: &Classifier<L>,
    batch: SequenceBatch,
) -> (Tensor<2>, Tensor<1, Int>) {
    let logits = model.forward(batch.inputs, &Lengths::new(batch.lengths));
    (logits, batch.labels)
}
