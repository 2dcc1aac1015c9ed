use burn::train::logger::{EvaluationProgressLogger, TrainingProgressLogger};
use burn::train::metric::{MetricDefinition, NumericEntry};
use burn::train::renderer::{
    EvaluationName, MetricState, MetricsRenderer, MetricsRendererEvaluation,
    MetricsRendererTraining,
};
use indicatif::{ProgressBar, ProgressStyle};

use crate::models::bits_per_char;

/// A bar while an epoch runs, and a line when it is over; the loss in bits per character.
pub(super) struct Progress {
    bar: ProgressBar,
    epoch: usize,
    epochs: usize,
    train: f64,
    valid: f64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            bar: ProgressBar::hidden(),
            epoch: 1,
            epochs: 0,
            train: f64::NAN,
            valid: f64::NAN,
        }
    }
}

impl Progress {
    fn update(&self, state: MetricState) -> Option<f64> {
        let MetricState::Numeric(_, Some(entry)) = state else {
            return None;
        };
        let bits = bits_per_char(entry.current());
        self.bar
            .set_message(format!("{bits:.3} bits per character"));
        matches!(entry, NumericEntry::Final(_)).then_some(bits)
    }
}

impl MetricsRendererTraining for Progress {
    fn update_train(&mut self, state: MetricState) {
        self.train = self.update(state).unwrap_or(self.train);
    }

    fn update_valid(&mut self, state: MetricState) {
        self.valid = self.update(state).unwrap_or(self.valid);
    }
}

impl TrainingProgressLogger for Progress {
    fn start(&mut self, epochs: usize, first: usize, _: Option<usize>, _: Option<&str>) {
        (self.epochs, self.epoch) = (epochs, first);
    }

    fn start_split(&mut self, split: &str, total_items: usize) {
        let style = "{prefix} {bar:30} {pos}/{len} windows, {elapsed} of {duration}, {msg}";
        let style = ProgressStyle::with_template(style).expect("a valid template");
        self.bar = ProgressBar::new(total_items as u64).with_style(style);
        self.bar
            .set_prefix(format!("epoch {}/{} {split}", self.epoch, self.epochs));
    }

    fn update_split(&mut self, items_processed: usize) {
        self.bar.set_position(items_processed as u64);
    }

    fn end_split(&mut self) {
        self.bar.finish_and_clear();
    }

    fn update_epoch(&mut self, epoch: usize) {
        let (train, valid) = (self.train, self.valid);
        println!(
            "epoch {epoch}/{}: bits per character {train:.3} in training, {valid:.3} in validation",
            self.epochs
        );
        self.epoch = epoch + 1;
    }

    fn end(&mut self) {}

    fn log_event_training(&mut self, _: String) {}
}

/// There is no evaluation apart from the validation of every epoch.
impl EvaluationProgressLogger for Progress {
    fn start_global_progress(&mut self, _: usize) {}
    fn start_test(&mut self, _: &str, _: usize) {}
    fn update_test_progress(&mut self, _: usize) {}
    fn end_test(&mut self) {}
    fn end_global_progress(&mut self) {}
    fn log_event_evaluation(&mut self, _: String) {}
}

impl MetricsRendererEvaluation for Progress {
    fn update_test(&mut self, _: EvaluationName, _: MetricState) {}
}

impl MetricsRenderer for Progress {
    fn manual_close(&mut self) {}
    fn register_metric(&mut self, _: MetricDefinition) {}
}
