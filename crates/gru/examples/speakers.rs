//! Trains a GRU to tell nine speakers apart by how they say "ae" (Japanese Vowels):
//!
//! ```sh
//! cargo run --release -p seq-gru --example speakers
//! ```

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use burn::data::dataloader::DataLoaderBuilder;
use burn::grad_clipping::GradientClippingConfig;
use burn::lr_scheduler::cosine::CosineAnnealingLrSchedulerConfig;
use burn::module::Module;
use burn::nn::loss::CrossEntropyLossConfig;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Int, Tensor};
use clap::Parser;
use indicatif::{ProgressBar, ProgressStyle};
use seq_core::models::Classifier;
use seq_data::DataError;
use seq_data::classification::{
    SequenceBatch, SequenceBatcher, SequenceSet, Split, japanese_vowels,
};
use seq_data::series::Standardize;
use seq_gru::{Gru, GruConfig, Lengths};

// Settled by cross-validation in the training set.
const DROPOUT: f64 = 0.5;
const WEIGHT_DECAY: f32 = 0.01;
/// How much of each label is spread over all speakers.
const SMOOTHING: f32 = 0.1;

/// Trains a GRU to tell nine speakers apart by how they say "ae".
#[derive(Parser)]
struct Args {
    /// How often the training set is seen.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    epochs: u32,
    /// Utterances a step.
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=270))]
    batch_size: u32,
    /// The width of the hidden state of each direction.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    d_hidden: u32,
    /// AdamW's rate at the beginning; it falls to zero along a cosine.
    #[arg(long, default_value = "0.003", value_parser = learning_rate)]
    learning_rate: f64,
    /// Of weights, dropout and order of the utterances.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn learning_rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= 1.0 => Ok(rate),
        _ => Err("must be a number above 0 and at most 1".to_string()),
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<(), Box<dyn std::error::Error>> {
    let begin = Instant::now();
    let Split { train, test } = standardize(&japanese_vowels())?;
    let device = seq_gru::device();
    device.seed(args.seed);
    let classes = train.classes().len();
    let gru = GruConfig::new(train.channels(), args.d_hidden as usize)
        .with_bidirectional(true)
        .init(&device);
    let model = Classifier::new(classes, gru, &device).with_dropout(DROPOUT);
    let model = fit(model.train(), train, args)?.valid();

    let mut confusion = vec![vec![0; classes]; classes];
    let test = DataLoaderBuilder::new(SequenceBatcher)
        .batch_size(64)
        .set_device(device)
        .build(test);
    for batch in test.iter() {
        let (logits, labels) = classify(&model, batch?);
        let heard = ids(logits.argmax(1).squeeze_dim(1));
        for (speaker, heard) in ids(labels).into_iter().zip(heard) {
            confusion[speaker][heard] += 1;
        }
    }
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "test utterances of each speaker (rows), by who was heard (columns):"
    )?;
    for row in &confusion {
        let row: String = row.iter().map(|count| format!("{count:4}")).collect();
        writeln!(out, "{row}")?;
    }
    let right: usize = (0..classes).map(|class| confusion[class][class]).sum();
    let all: usize = confusion.iter().flatten().sum();
    let accuracy = 100.0 * right as f64 / all as f64;
    let seconds = begin.elapsed().as_secs_f64();
    writeln!(
        out,
        "test accuracy {accuracy:.2} % ({right} of {all}) after {seconds:.1} s"
    )?;
    Ok(())
}

/// Every channel with mean 0 and deviation 1 in the training set.
fn standardize(split: &Split) -> Result<Split, DataError> {
    let channels = split.train.channels();
    let fit = |channel| {
        let sequences = split.train.sequences().iter();
        let steps = sequences.flat_map(|s| s.values.chunks(channels));
        let values: Vec<f32> = steps.map(|step| step[channel]).collect();
        Standardize::fit(&values)
    };
    let scales = (0..channels).map(fit).collect::<Result<Vec<_>, _>>()?;
    let apply = |set: &SequenceSet| {
        let mut sequences = set.sequences().to_vec();
        for sequence in &mut sequences {
            for (value, scale) in sequence.values.iter_mut().zip(scales.iter().cycle()) {
                *value = (*value - scale.mean) / scale.std;
            }
        }
        SequenceSet::new(sequences, set.classes().to_vec())
    };
    Ok(Split {
        train: apply(&split.train)?,
        test: apply(&split.test)?,
    })
}

fn fit(
    mut model: Classifier<Gru>,
    train: SequenceSet,
    args: &Args,
) -> Result<Classifier<Gru>, Box<dyn std::error::Error>> {
    let [epochs, batch_size] = [args.epochs, args.batch_size].map(|n| n as usize);
    let utterances = train.sequences().len();
    let train = DataLoaderBuilder::new(SequenceBatcher)
        .batch_size(batch_size)
        .shuffle(args.seed)
        .set_device(model.head.weight.device())
        .build(train);
    let steps = epochs * utterances.div_ceil(batch_size);
    let mut learning_rate =
        CosineAnnealingLrSchedulerConfig::new(args.learning_rate, steps).init()?;
    let mut optimizer = AdamWConfig::new()
        .with_epsilon(1e-8)
        .with_weight_decay(WEIGHT_DECAY)
        .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
        .init();
    let cross_entropy = CrossEntropyLossConfig::new()
        .with_smoothing(Some(SMOOTHING))
        .init(&model.head.weight.device());

    let style = ProgressStyle::with_template("{bar:30} epoch {pos}/{len}, {eta} to go")?;
    let bar = ProgressBar::new(epochs as u64).with_style(style);
    for epoch in 1..=epochs {
        let mut sum = 0.0;
        for batch in train.iter() {
            let (logits, labels) = classify(&model, batch?);
            let rows = logits.dims()[0];
            let loss = cross_entropy.forward(logits, labels);
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            sum += loss.into_scalar::<f64>() * rows as f64;
            model = optimizer.step(learning_rate.step(), model, gradients);
        }
        bar.inc(1);
        if epoch % epochs.div_ceil(10) == 0 || epoch == epochs {
            let loss = sum / utterances as f64;
            let line = format!("epoch {epoch}/{epochs}: training loss {loss:.4}");
            bar.suspend(|| writeln!(io::stdout(), "{line}"))?;
        }
    }
    bar.finish_and_clear();
    Ok(model)
}

/// The logits `[batch, classes]` and the labels `[batch]` of a batch.
fn classify(model: &Classifier<Gru>, batch: SequenceBatch) -> (Tensor<2>, Tensor<1, Int>) {
    let logits = model.forward(batch.inputs, &Lengths::new(batch.lengths));
    (logits, batch.labels)
}

fn ids(tensor: Tensor<1, Int>) -> Vec<usize> {
    let ids = tensor.into_data();
    ids.iter::<u32>().map(|id| id as usize).collect()
}
