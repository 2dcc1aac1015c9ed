use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use burn::data::dataloader::DataLoaderBuilder;
use burn::grad_clipping::GradientClippingConfig;
use burn::lr_scheduler::LrSchedulerRecord;
use burn::module::{Module, ModuleDisplay};
use burn::optim::{AdamConfig, OptimizerRecord};
use burn::store::ModuleRecord;
use burn::train::checkpoint::KeepLastNCheckpoints;
use burn::train::logger::InMemoryMetricLogger;
use burn::train::metric::LossMetric;
use burn::train::{
    InferenceStep, Learner, SequenceOutput, SupervisedTraining, TrainOutput, TrainStep,
    TrainingError,
};
use seq_data::text::{TextBatch, TextBatcher, TextWindows};
use thiserror::Error;

use super::{LanguageModel, surprisal};
use crate::SequenceLayer;

mod program;
mod progress;

pub use program::{TextProgram, size};

/// Trains a [`LanguageModel`] on text with Burn's learner: Adam at a constant rate, gradients
/// clipped to norm 1, a line with the bits per character after every epoch, a checkpoint in `out`.
///
/// A checkpoint is written whole or not at all. Training can be ended at any time and goes on from
/// the last finished epoch with `resume`.
///
/// ```no_run
/// use burn::tensor::Device;
/// use seq_core::SequenceLayer;
/// use seq_core::models::{LanguageModel, TextTraining};
/// use seq_data::text::{CharVocab, TextWindows, moby_dick};
///
/// fn train<L: SequenceLayer + burn::module::ModuleDisplay + 'static>(
///     layer: L,
///     device: &Device,
/// ) -> Result<LanguageModel<L>, Box<dyn std::error::Error>> {
///     let vocab = CharVocab::new(moby_dick());
///     let ids = vocab.encode(moby_dick())?;
///     let (train, valid) = TextWindows::split(&ids, 0.9, 128, 128)?;
///     let model = LanguageModel::new(vocab.len(), layer, device);
///     Ok(TextTraining::new("target/text").fit(model, train, valid)?)
/// }
/// ```
#[derive(Debug, Clone)]
pub struct TextTraining {
    /// The folder of the checkpoints; made if it is not there.
    pub out: PathBuf,
    /// Whether to go on from the last checkpoint in `out`. Otherwise training begins anew and
    /// replaces what is there. Default: false.
    pub resume: bool,
    /// How often the text is read, what came before a resumption included. Default: 4.
    pub epochs: usize,
    /// Windows that a step of the optimizer sees. Default: 32.
    pub batch_size: usize,
    /// Adam's rate. Default: 0.003.
    pub learning_rate: f64,
    /// Of the order of the windows. Default: 1.
    pub seed: u64,
}

/// Why a training did not come to its end.
///
/// ```
/// use seq_core::models::TrainingFailure;
///
/// let failure = TrainingFailure::NoCheckpoint { folder: "target/text/checkpoint".into() };
/// assert_eq!(failure.to_string(), "target/text/checkpoint: no checkpoint to resume from");
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum TrainingFailure {
    /// The folder cannot be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// There is nothing to resume.
    #[error("{}: no checkpoint to resume from", folder.display())]
    NoCheckpoint {
        /// Where checkpoints were looked for.
        folder: PathBuf,
    },
    /// A checkpoint is damaged, or belongs to a model of other sizes.
    #[error("{}: cannot resume: {reason}", file.display())]
    Checkpoint {
        /// The file.
        file: PathBuf,
        /// What does not fit.
        reason: String,
    },
    /// The learner stopped.
    #[error("training stopped: {0}")]
    Stopped(Arc<TrainingError>),
}

impl TextTraining {
    /// The defaults, with checkpoints in `out`.
    pub fn new(out: impl Into<PathBuf>) -> Self {
        Self {
            out: out.into(),
            resume: false,
            epochs: 4,
            batch_size: 32,
            learning_rate: 3e-3,
            seed: 1,
        }
    }

    /// Trains `model` and returns it for inference.
    ///
    /// # Errors
    ///
    /// When `out` cannot be written, or does not hold a checkpoint of this model to resume.
    pub fn fit<L: SequenceLayer + ModuleDisplay + 'static>(
        &self,
        model: LanguageModel<L>,
        train: TextWindows,
        valid: TextWindows,
    ) -> Result<LanguageModel<L>, TrainingFailure> {
        let folder = self.out.join("checkpoint");
        let io = |source| TrainingFailure::Io {
            path: folder.clone(),
            source,
        };
        fs::create_dir_all(&folder).map_err(io)?;
        let saved = saved_files(&folder).map_err(io)?;

        let train = DataLoaderBuilder::new(TextBatcher)
            .batch_size(self.batch_size)
            .shuffle(self.seed)
            .build(train);
        let valid = DataLoaderBuilder::new(TextBatcher)
            .batch_size(self.batch_size)
            .build(valid);
        let mut training = SupervisedTraining::new(&self.out, train, valid)
            .metric_train_numeric(LossMetric::new())
            .metric_valid_numeric(LossMetric::new())
            .with_metric_logger(InMemoryMetricLogger::new())
            .with_application_logger(None)
            .with_default_checkpointers()
            .with_checkpointing_strategy(KeepLastNCheckpoints::new(2))
            .renderer(Box::new(progress::Progress::default()))
            .num_epochs(self.epochs);
        if self.resume {
            let epoch = last_epoch(&saved);
            let epoch = epoch.ok_or_else(|| TrainingFailure::NoCheckpoint {
                folder: folder.clone(),
            })?;
            check(&folder, epoch, &model)?;
            training = training.checkpoint(epoch);
        } else {
            for (name, epoch) in saved {
                let path = file(&folder, &name, epoch);
                fs::remove_file(&path).map_err(|source| TrainingFailure::Io { path, source })?;
            }
        }

        let optimizer = AdamConfig::new()
            .with_epsilon(1e-8)
            .with_grad_clipping(Some(GradientClippingConfig::Norm(1.0)))
            .init();
        let result = training.launch(Learner::new(model.train(), optimizer, self.learning_rate));
        match result.error {
            Some(error) => Err(TrainingFailure::Stopped(error)),
            None => Ok(result.model),
        }
    }
}

/// The three files of a checkpoint, as Burn's checkpointers name them.
const PARTS: [&str; 3] = ["model", "optim", "scheduler"];

fn file(folder: &Path, part: &str, epoch: usize) -> PathBuf {
    folder.join(format!("{part}-{epoch}.bpk"))
}

/// Part and epoch of every checkpoint file in the folder.
fn saved_files(folder: &Path) -> io::Result<Vec<(String, usize)>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        let parsed = name.to_str().and_then(|name| {
            let (part, epoch) = name.strip_suffix(".bpk")?.split_once('-')?;
            Some((part.to_string(), epoch.parse().ok()?))
        });
        files.extend(parsed.filter(|(part, _)| PARTS.contains(&part.as_str())));
    }
    Ok(files)
}

/// The last epoch of which every part has been written.
fn last_epoch(saved: &[(String, usize)]) -> Option<usize> {
    let whole = |epoch| {
        PARTS
            .iter()
            .all(|part| saved.contains(&(part.to_string(), epoch)))
    };
    saved
        .iter()
        .map(|&(_, epoch)| epoch)
        .filter(|&epoch| whole(epoch))
        .max()
}

/// Makes sure that the learner, which panics at a bad checkpoint, will be able to load it.
fn check<M: Module>(folder: &Path, epoch: usize, model: &M) -> Result<(), TrainingFailure> {
    let [model_file, optimizer, scheduler] = PARTS.map(|part| file(folder, part, epoch));
    let failed = |file: PathBuf, reason: &dyn ToString| TrainingFailure::Checkpoint {
        file,
        reason: reason.to_string(),
    };
    ModuleRecord::load(&model_file)
        .and_then(|record| model.clone().try_load_record(record))
        .map_err(|error| failed(model_file, &error))?;
    OptimizerRecord::load(&optimizer).map_err(|error| failed(optimizer, &error))?;
    LrSchedulerRecord::load(&scheduler).map_err(|error| failed(scheduler, &error))?;
    Ok(())
}

/// The mean surprisal of each sequence `[batch]`, with what Burn's metrics ask for.
fn evaluate<L: SequenceLayer>(model: &LanguageModel<L>, batch: TextBatch) -> SequenceOutput {
    let (logits, _) = model.forward(batch.inputs, None);
    let loss = surprisal(logits.clone(), batch.targets.clone())
        .mean_dim(1)
        .squeeze_dim(1);
    SequenceOutput::new(loss, logits, None, batch.targets)
}

impl<L: SequenceLayer + ModuleDisplay> TrainStep for LanguageModel<L> {
    type Input = TextBatch;
    type Output = SequenceOutput;

    fn step(&self, batch: TextBatch) -> TrainOutput<SequenceOutput> {
        let output = evaluate(self, batch);
        TrainOutput::new(self, output.loss.clone().mean().backward(), output)
    }
}

impl<L: SequenceLayer + ModuleDisplay> InferenceStep for LanguageModel<L> {
    type Input = TextBatch;
    type Output = SequenceOutput;

    fn step(&self, batch: TextBatch) -> SequenceOutput {
        evaluate(self, batch)
    }
}
