//! Small RNNs that forecast a series of counts together.

use burn::module::Module;
use burn::nn::loss::{MseLoss, Reduction};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData};
use indicatif::ProgressBar;
use seq_data::DataError;
use seq_data::series::Standardize;
use seq_rnn::{RecurrentInit, Rnn, RnnConfig, RnnState, SequenceLayer};

/// How the networks are made and trained.
#[derive(Clone, Debug)]
pub struct Training {
    /// How many networks there are. They differ in their first weights, and the forecast is their mean.
    pub networks: usize,
    /// The width of the hidden state of each.
    pub d_hidden: usize,
    /// How often each reads the series.
    pub epochs: usize,
    /// AdamW's rate.
    pub learning_rate: f64,
}

/// Forecasts the next count of a series from all before it.
///
/// The networks see standardised square roots, as a count scatters by about its root, and say by how
/// much the next one differs.
pub struct Forecaster {
    scaler: Standardize,
    networks: Vec<Rnn>,
    device: Device,
}

/// What each network remembers of the counts that it has read.
pub type Memory = Vec<RnnState>;

impl Forecaster {
    /// Trains each network to forecast every count from those before it. The series is read as a
    /// whole, and the gradients go back through all of it. `bar` moves by one an epoch.
    ///
    /// Fails when a count is infinite or not a number; two counts at least are needed.
    pub fn fit(
        counts: &[f32],
        training: &Training,
        device: &Device,
        bar: &ProgressBar,
    ) -> Result<Self, DataError> {
        let scaler = Standardize::fit(&roots(counts))?;
        let series = column(scaler.apply(&roots(counts)), &device.clone().autodiff());
        let time = counts.len() - 1;
        let inputs = series.clone().narrow(1, 0, time);
        let changes = series.narrow(1, 1, time) - inputs.clone();

        let config = RnnConfig::new(1, training.d_hidden)
            .with_d_output(Some(1))
            .with_recurrent_init(RecurrentInit::Orthogonal);
        let network = |_| {
            let mut rnn = config.init(device).train();
            let mut optimizer = AdamWConfig::new().with_weight_decay(1e-2).init();
            for _ in 0..training.epochs {
                let (forecasts, _) = rnn.forward(inputs.clone(), None);
                let loss = MseLoss::new().forward(forecasts, changes.clone(), Reduction::Mean);
                let gradients = GradientsParams::from_grads(loss.backward(), &rnn);
                rnn = optimizer.step(training.learning_rate, rnn, gradients);
                bar.inc(1);
            }
            rnn.valid()
        };
        Ok(Self {
            scaler,
            networks: (0..training.networks).map(network).collect(),
            device: device.clone(),
        })
    }

    /// Reads a series from its beginning, all at once, and forecasts the next count.
    pub fn read(&self, counts: &[f32]) -> (f32, Memory) {
        let last = counts.len() - 1;
        let x = column(self.scaler.apply(&roots(counts)), &self.device);
        let run = |rnn: &Rnn| {
            let (y, state) = rnn.forward(x.clone(), None);
            (y.narrow(1, last, 1).squeeze_dim(1), state)
        };
        self.join(counts[last], self.networks.iter().map(run))
    }

    /// Reads one more count and forecasts the next.
    pub fn step(&self, count: f32, memory: Memory) -> (f32, Memory) {
        let x = column(self.scaler.apply(&roots(&[count])), &self.device).squeeze_dim::<2>(1);
        let run = |(rnn, state): (&Rnn, RnnState)| rnn.step(x.clone(), state);
        self.join(count, self.networks.iter().zip(memory).map(run))
    }

    /// Forecasts `len` counts, of which the first is `next`, by reading the forecasts as if they had
    /// come true.
    pub fn run_on(&self, mut next: f32, mut memory: Memory, len: usize) -> Vec<f32> {
        let mut path = vec![next];
        while path.len() < len {
            (next, memory) = self.step(next, memory);
            path.push(next);
        }
        path
    }

    /// The forecast of all networks after the count `last`, from the change `[1, 1]` that each expects.
    fn join(
        &self,
        last: f32,
        outputs: impl Iterator<Item = (Tensor<2>, RnnState)>,
    ) -> (f32, Memory) {
        let (changes, memory): (Vec<_>, Memory) = outputs.unzip();
        let change: f32 = Tensor::cat(changes, 0).mean().into_scalar();
        let root = last.sqrt() + change * self.scaler.std;
        // A NaN, of weights that have grown without bound, must not become a zero.
        let root = if root < 0.0 { 0.0 } else { root };
        (root * root, memory)
    }
}

fn roots(counts: &[f32]) -> Vec<f32> {
    counts.iter().map(|count| count.sqrt()).collect()
}

/// One sequence `[1, time, 1]`.
fn column(series: Vec<f32>, device: &Device) -> Tensor<3> {
    let time = series.len();
    Tensor::from_data(TensorData::new(series, [1, time, 1]), device)
}
