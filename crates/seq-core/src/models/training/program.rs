use std::error::Error;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use burn::module::{Module, ModuleDisplay};
use burn::tensor::Device;
use seq_data::text::{CharVocab, TextWindows, moby_dick};

use super::TextTraining;
use crate::SequenceLayer;
use crate::models::{LanguageModel, Sampler};

/// What programs have in common that train a character model on Moby-Dick and let it write: their options
/// and what they do. An architecture adds its own options, and makes the layer of them.
///
/// ```no_run
/// use clap::Parser;
/// use seq_core::models::TextProgram;
/// # use burn::tensor::Device;
/// # use seq_core::SequenceLayer;
///
/// #[derive(Parser)]
/// struct Args {
///     #[command(flatten)]
///     text: TextProgram,
/// }
///
/// fn run<L: SequenceLayer + burn::module::ModuleDisplay + 'static>(
///     layer: impl FnOnce(&Device) -> L,
///     device: &Device,
/// ) -> Result<(), Box<dyn std::error::Error>> {
///     Args::parse().text.run("target/train_text/mine".as_ref(), device, layer)
/// }
/// ```
#[derive(clap::Args, Debug, Clone)]
pub struct TextProgram {
    /// The folder of the checkpoints; by default one for the architecture in target/train_text.
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Go on from the last checkpoint in the folder, with the same sizes.
    #[arg(long)]
    pub resume: bool,
    /// How often the novel is read, what came before a resumption included.
    #[arg(long, default_value_t = 4)]
    pub epochs: usize,
    /// Windows a step.
    #[arg(long, default_value = "32", value_parser = size)]
    pub batch_size: usize,
    /// Characters a window.
    #[arg(long, default_value = "128", value_parser = size)]
    pub window: usize,
    /// Adam's rate.
    #[arg(long, default_value_t = 3e-3)]
    pub learning_rate: f64,
    /// Of weights, order of the windows, and sampling.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// What the sample begins with.
    #[arg(long, default_value = "Call me ")]
    pub prompt: String,
    /// How many characters to write.
    #[arg(long, default_value_t = 500)]
    pub length: usize,
}

impl TextProgram {
    /// Trains a model around the layer that `layer` makes, with checkpoints in `out` unless the options
    /// name another folder, and prints what it writes.
    ///
    /// # Errors
    ///
    /// When the prompt is empty or has a character that the novel has not, and as
    /// [`TextTraining::fit`].
    pub fn run<L: SequenceLayer + ModuleDisplay + 'static>(
        &self,
        out: &Path,
        device: &Device,
        layer: impl FnOnce(&Device) -> L,
    ) -> Result<(), Box<dyn Error>> {
        let vocab = CharVocab::new(moby_dick());
        let prompt = vocab.encode(&self.prompt)?;
        if prompt.is_empty() {
            return Err("the prompt is empty".into());
        }
        let ids = vocab.encode(moby_dick())?;
        let (train, valid) = TextWindows::split(&ids, 0.9, self.window, self.window)?;

        device.seed(self.seed);
        let model = LanguageModel::new(vocab.len(), layer(device), device);
        println!("{} parameters", model.num_params());
        let out = self.out.as_deref().unwrap_or(out);
        let training = TextTraining {
            resume: self.resume,
            epochs: self.epochs,
            batch_size: self.batch_size,
            learning_rate: self.learning_rate,
            seed: self.seed,
            ..TextTraining::new(out)
        };
        let begin = Instant::now();
        let model = training.fit(model, train, valid)?;
        println!(
            "{:.0} s; checkpoints: {}\n",
            begin.elapsed().as_secs_f64(),
            out.join("checkpoint").display()
        );

        let mut out = std::io::stdout().lock();
        write!(out, "{}", self.prompt)?;
        let sampler = Sampler::new(self.seed).with_temperature(0.7);
        for id in model.generate(&prompt, sampler).take(self.length) {
            write!(out, "{}", vocab.decode(&[id])?)?;
            out.flush()?;
        }
        writeln!(out)?;
        Ok(())
    }
}

/// A size on the command line: a whole number of at least 1.
///
/// # Errors
///
/// When the text is something else.
///
/// ```
/// use seq_core::models::size;
///
/// assert_eq!(size("128"), Ok(128));
/// assert!(size("0").is_err());
/// ```
pub fn size(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(size) if size > 0 => Ok(size),
        _ => Err("must be a whole number of at least 1".to_string()),
    }
}
