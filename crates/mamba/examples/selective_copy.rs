//! Trains a small Mamba and a time-invariant model of its size on two tasks that need selection (Gu and Dao
//! 2023, <https://arxiv.org/abs/2312.00752>, sections 4.1.1 and 4.1.2):
//!
//! ```sh
//! cargo run --release -p seq-mamba --example selective_copy
//! cargo run --release -p seq-mamba --example selective_copy -- --task induction --model mamba --length 128
//! ```
//!
//! - Selective copying: symbols at random places in noise are to be named in order, once markers ask for them.
//! - Induction heads: what followed the marker in a random sequence is to be named when the marker comes again.
//!
//! The states of a time-invariant model change in the same way at every step, whatever the symbol. It may learn
//! induction by the gates between its blocks, but what it learns holds at the length of the training alone.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use burn::grad_clipping::GradientClippingConfig;
use burn::module::{Module, ModuleDisplay};
use burn::nn::{LayerNormConfig, RmsNormConfig};
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use clap::{Parser, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use seq_core::blocks::{Residual, Stack};
use seq_core::models::{LanguageModel, size, surprisal};
use seq_mamba::{Mamba, MambaConfig, SequenceLayer};
use seq_ssm::{S4Block, S4BlockConfig, S4d, S4dConfig};

/// The symbols that may be asked for are those below; 16 in all, as in the paper.
const SYMBOLS: u32 = 14;
const NOISE: u32 = SYMBOLS;
const MARKER: u32 = SYMBOLS + 1;
const VOCAB: usize = SYMBOLS as usize + 2;

/// Steps between two looks at held-out sequences.
const CHECK: usize = 50;
/// A task is solved when every token was right at so many looks in a row.
const SOLVED: usize = 3;
/// Held-out sequences of a look, and of the test at each length.
const HELD_OUT: usize = 512;
/// The lengths of the test, in units of the length in training.
const LONGER: [usize; 3] = [1, 4, 16];

/// Trains a small Mamba and a time-invariant model of its size on two tasks that need selection.
#[derive(Parser)]
struct Args {
    /// One of the tasks; by default both.
    #[arg(long, value_enum)]
    task: Option<Task>,
    /// One of the models; by default both.
    #[arg(long, value_enum)]
    model: Option<Kind>,
    /// Steps of the optimizer at most; a model that has solved its task stops before.
    #[arg(long, default_value = "2000", value_parser = size)]
    steps: usize,
    /// Sequences a step.
    #[arg(long, default_value = "32", value_parser = size)]
    batch_size: usize,
    /// Steps of a sequence, without the markers that ask for a copy.
    #[arg(long, default_value = "64", value_parser = size)]
    length: usize,
    /// Symbols to be copied.
    #[arg(long, default_value = "8", value_parser = size)]
    symbols: usize,
    /// The width of embedding and blocks.
    #[arg(long, default_value = "32", value_parser = size)]
    d_model: usize,
    /// Blocks over one another.
    #[arg(long, default_value = "2", value_parser = size)]
    layers: usize,
    /// Adam's rate.
    #[arg(long, default_value_t = 5e-3)]
    learning_rate: f64,
    /// Of weights and sequences.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Task {
    /// Selective copying.
    Copy,
    /// Induction heads.
    Induction,
}

#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
enum Kind {
    /// Mamba, whose steps depend on the symbols.
    Mamba,
    /// S4D, whose steps are all the same.
    S4d,
}

/// What makes sequences of one task.
#[derive(Clone, Copy)]
struct Generator {
    task: Task,
    /// Without the markers that ask for a copy.
    length: usize,
    /// How many are to be copied.
    symbols: usize,
}

/// Sequences `[batch, time]`, and what is to be named at their last steps `[batch, answers]`.
struct Batch {
    ids: Tensor<2, Int>,
    answers: Tensor<2, Int>,
}

impl Generator {
    /// A sequence, and what is to be named at its last steps.
    fn sequence(&self, random: &mut StdRng) -> (Vec<u32>, Vec<u32>) {
        let symbol = |random: &mut StdRng| random.random_range(0..SYMBOLS);
        match self.task {
            Task::Copy => {
                let mut ids = vec![NOISE; self.length];
                let places = rand::seq::index::sample(random, self.length, self.symbols);
                for place in places {
                    ids[place] = symbol(random);
                }
                let answers: Vec<u32> = ids.iter().copied().filter(|&id| id != NOISE).collect();
                ids.resize(self.length + self.symbols, MARKER);
                (ids, answers)
            }
            Task::Induction => {
                let mut ids: Vec<u32> = (0..self.length).map(|_| symbol(random)).collect();
                let place = random.random_range(0..self.length - 2);
                ids[place] = MARKER;
                ids[self.length - 1] = MARKER;
                let answer = ids[place + 1];
                (ids, vec![answer])
            }
        }
    }

    fn batch(&self, size: usize, random: &mut StdRng, device: &Device) -> Batch {
        let (ids, answers): (Vec<_>, Vec<_>) = (0..size).map(|_| self.sequence(random)).unzip();
        let tensor = |rows: Vec<Vec<u32>>| {
            let shape = [size, rows[0].len()];
            Tensor::from_data(TensorData::new(rows.concat(), shape), device)
        };
        Batch {
            ids: tensor(ids),
            answers: tensor(answers),
        }
    }
}

/// What the model says at the last steps: logits `[batch, answers, VOCAB]`.
fn answer<L: SequenceLayer>(model: &LanguageModel<L>, batch: &Batch) -> Tensor<3> {
    let (logits, _) = model.forward(batch.ids.clone(), None);
    let [time, answers] = [batch.ids.dims()[1], batch.answers.dims()[1]];
    logits.narrow(1, time - answers, answers)
}

/// The parts of held-out answers that are right.
#[derive(Clone, Copy)]
struct Score {
    tokens: f64,
    answers: f64,
}

fn score<L: SequenceLayer>(model: &LanguageModel<L>, generator: Generator, seed: u64) -> Score {
    let device = model.embedding.weight.device();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut tokens, mut answers) = (0.0, 0.0);
    let (size, batches) = (64, HELD_OUT / 64);
    for _ in 0..batches {
        let batch = generator.batch(size, &mut random, &device);
        let named = answer(model, &batch).argmax(2).squeeze_dim(2);
        let right = named.equal(batch.answers).float();
        tokens += right.clone().mean().into_scalar::<f64>();
        answers += right.min_dim(1).mean().into_scalar::<f64>();
    }
    Score {
        tokens: tokens / batches as f64,
        answers: answers / batches as f64,
    }
}

/// A line of the table.
struct Row {
    task: Task,
    kind: Kind,
    parameters: usize,
    steps: usize,
    seconds: f64,
    /// At each of the lengths.
    scores: Vec<Score>,
    /// The parts that guessing gets right.
    chance: Score,
}

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// One step of the optimizer's model on a batch: the gradients and the loss, over the answers alone.
fn gradients<L: SequenceLayer + ModuleDisplay>(
    model: &LanguageModel<L>,
    batch: Batch,
) -> (GradientsParams, Tensor<1>) {
    let loss = surprisal(answer(model, &batch), batch.answers).mean();
    (GradientsParams::from_grads(loss.backward(), model), loss)
}

/// Trains blocks on a task until they have solved it or the steps are over, and tests them.
fn train<L: SequenceLayer + ModuleDisplay>(
    args: &Args,
    task: Task,
    kind: Kind,
    layer: L,
    device: &Device,
) -> Outcome<Row> {
    let (name, begin) = (format!("{task:?}, {kind:?}"), Instant::now());
    let generator = Generator {
        task,
        length: args.length,
        symbols: args.symbols,
    };
    let mut model = LanguageModel::new(VOCAB, layer, device).train();
    let device = model.embedding.weight.device();
    let mut optimizer = AdamConfig::new()
        .with_epsilon(1e-8)
        .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
        .init();
    let mut random = StdRng::seed_from_u64(args.seed);
    // Sequences of one seed train, of another decide when to stop, of a third test.
    let [look, test] = [1, 2].map(|offset| args.seed.wrapping_add(offset));

    let style = ProgressStyle::with_template("{prefix} {bar:30} step {pos}/{len}, {msg}")?;
    let bar = ProgressBar::new(args.steps as u64).with_style(style);
    bar.set_prefix(name.clone());
    let (mut steps, mut perfect) = (0, 0);
    while steps < args.steps && perfect < SOLVED {
        let batch = generator.batch(args.batch_size, &mut random, &device);
        let (gradients, loss) = gradients(&model, batch);
        model = optimizer.step(args.learning_rate, model, gradients);
        steps += 1;
        bar.inc(1);
        if steps % CHECK == 0 || steps == args.steps {
            let loss = loss.into_scalar::<f64>();
            let right = score(&model.valid(), generator, look).tokens;
            perfect = if right == 1.0 { perfect + 1 } else { 0 };
            let line = format!("loss {loss:.4}, {:.2} % of tokens right", 100.0 * right);
            bar.set_message(line.clone());
            if steps % (10 * CHECK) == 0 || perfect == SOLVED || steps == args.steps {
                bar.suspend(|| writeln!(io::stdout(), "{name}: step {steps}, {line}"))?;
            }
        }
    }
    bar.finish_and_clear();
    let seconds = begin.elapsed().as_secs_f64();

    let model = model.valid();
    let at = |times| {
        let length = times * args.length;
        score(
            &model,
            Generator {
                length,
                ..generator
            },
            test,
        )
    };
    let guess = 1.0 / f64::from(SYMBOLS);
    let answers = match task {
        Task::Copy => args.symbols,
        Task::Induction => 1,
    };
    Ok(Row {
        task,
        kind,
        parameters: model.num_params(),
        steps,
        seconds,
        scores: LONGER.map(at).to_vec(),
        chance: Score {
            tokens: guess,
            answers: guess.powi(answers as i32),
        },
    })
}

fn mamba(args: &Args, device: &Device) -> Stack<Residual<Mamba>> {
    let norm = || RmsNormConfig::new(args.d_model).init(device);
    let block = |_| Residual::new(norm(), MambaConfig::new(args.d_model).init(device));
    Stack::new((0..args.layers).map(block).collect()).with_norm(norm())
}

fn s4d(args: &Args, device: &Device) -> Stack<S4Block<S4d>> {
    // With so many states a block is as large as Mamba's.
    let config = S4dConfig::new(args.d_model).with_d_state(2 * args.d_model + 56);
    let block = |_| S4BlockConfig::new().init(config.init(device), device);
    let norm = LayerNormConfig::new(args.d_model).init(device);
    Stack::new((0..args.layers).map(block).collect()).with_norm(norm)
}

/// Accuracies at the length of the training, then those of tokens at longer ones.
fn print(args: &Args, rows: &[Row]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    let [length, long, longest] = LONGER.map(|times| times * args.length);
    writeln!(
        out,
        "\n| task | model | parameters | steps | seconds | tokens right | whole answers right | chance | tokens at length {long} | at {longest} |"
    )?;
    writeln!(out, "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|")?;
    for row in rows {
        let percent = |part: f64| format!("{:.1} %", 100.0 * part);
        writeln!(
            out,
            "| {:?} | {:?} | {} | {} | {:.0} | {} | {} | {} / {:.0e} | {} | {} |",
            row.task,
            row.kind,
            row.parameters,
            row.steps,
            row.seconds,
            percent(row.scores[0].tokens),
            percent(row.scores[0].answers),
            percent(row.chance.tokens),
            row.chance.answers,
            percent(row.scores[1].tokens),
            percent(row.scores[2].tokens),
        )?;
    }
    writeln!(out, "\ntrained at length {length}")
}

fn run(args: &Args) -> Outcome<()> {
    if args.length < 3 || args.length < args.symbols {
        return Err(
            "a sequence needs 3 steps at least, and one for each symbol to be copied".into(),
        );
    }
    let device = seq_mamba::device();
    let mut rows = Vec::new();
    for task in [Task::Copy, Task::Induction] {
        for kind in [Kind::Mamba, Kind::S4d] {
            if args.task.is_some_and(|only| only != task)
                || args.model.is_some_and(|only| only != kind)
            {
                continue;
            }
            device.seed(args.seed);
            rows.push(match kind {
                Kind::Mamba => train(args, task, kind, mamba(args, &device), &device)?,
                Kind::S4d => train(args, task, kind, s4d(args, &device), &device)?,
            });
        }
    }
    Ok(print(args, &rows)?)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn generator(task: Task) -> Generator {
        Generator {
            task,
            length: 20,
            symbols: 5,
        }
    }

    fn sequences(task: Task, seed: u64) -> Vec<(Vec<u32>, Vec<u32>)> {
        let mut random = StdRng::seed_from_u64(seed);
        (0..200)
            .map(|_| generator(task).sequence(&mut random))
            .collect()
    }

    #[test]
    fn copies_are_the_symbols_in_order() {
        for (ids, answers) in sequences(Task::Copy, 1) {
            let (context, markers) = ids.split_at(20);
            assert_eq!(markers, [MARKER; 5]);
            let symbols: Vec<u32> = context.iter().copied().filter(|&id| id < SYMBOLS).collect();
            assert_eq!(symbols, answers);
            assert_eq!(answers.len(), 5);
            assert_eq!(context.iter().filter(|&&id| id == NOISE).count(), 15);
        }
    }

    #[test]
    fn what_is_named_followed_the_first_marker() {
        let sequences = sequences(Task::Induction, 1);
        for (ids, answers) in &sequences {
            let markers: Vec<usize> = (0..20).filter(|&at| ids[at] == MARKER).collect();
            let [first, last] = markers[..] else {
                panic!("{} markers in {ids:?}", markers.len());
            };
            assert_eq!((ids.len(), last), (20, 19));
            assert_eq!(*answers, [ids[first + 1]]);
            assert!(ids.iter().all(|&id| id < SYMBOLS || id == MARKER));
        }
        // Everything is asked for, at every distance.
        for symbol in 0..SYMBOLS {
            assert!(sequences.iter().any(|(_, answers)| answers[0] == symbol));
        }
        for place in 0..18 {
            assert!(sequences.iter().any(|(ids, _)| ids[place] == MARKER));
        }
    }

    #[test]
    fn a_seed_reproduces_the_sequences() {
        for task in [Task::Copy, Task::Induction] {
            assert_eq!(sequences(task, 3), sequences(task, 3));
            assert_ne!(sequences(task, 3), sequences(task, 4));
        }
    }

    /// Cross-entropy of few sequences before and after so many steps on them.
    fn losses<L: SequenceLayer + ModuleDisplay>(task: Task, layer: L, device: &Device) -> [f64; 2] {
        let mut model = LanguageModel::new(VOCAB, layer, device).train();
        let device = model.embedding.weight.device();
        let mut optimizer = AdamConfig::new().init();
        let mut losses = Vec::new();
        for _ in 0..20 {
            let batch = generator(task).batch(8, &mut StdRng::seed_from_u64(5), &device);
            let (gradients, loss) = gradients(&model, batch);
            losses.push(loss.into_scalar());
            model = optimizer.step(1e-2, model, gradients);
        }
        [losses[0], losses[19]]
    }

    #[test]
    fn steps_lower_the_loss() {
        let args = Args::parse_from(["selective_copy", "--d-model", "16", "--layers", "1"]);
        let device = seq_mamba::device();
        device.seed(1);
        for task in [Task::Copy, Task::Induction] {
            for [first, last] in [
                losses(task, mamba(&args, &device), &device),
                losses(task, s4d(&args, &device), &device),
            ] {
                assert!(last < 0.8 * first, "{task:?}: from {first} to {last}");
            }
        }
    }
}
