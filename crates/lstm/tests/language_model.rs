//! The shared language model over an LSTM: streaming, loss, training, resumption.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};
use seq_core::models::{LanguageModel, Sampler, TextTraining, TrainingFailure, surprisal};
use seq_core::testing::backends;
use seq_data::text::TextWindows;
use seq_lstm::{Lstm, LstmConfig};

const VOCAB: usize = 11;

fn model(device: &burn::tensor::Device) -> LanguageModel<Lstm> {
    let lstm = LstmConfig::new(6, 8).with_num_layers(2).init(device);
    LanguageModel::new(VOCAB, lstm, device)
}

#[test]
fn steps_give_the_logits_of_the_whole() {
    for backend in backends() {
        let device = backend.device();
        let model = model(&device);
        let ids = Tensor::<2, Int>::from_data([[1, 5, 0, 10, 7], [2, 2, 9, 3, 4]], &device);
        let (whole, _) = model.forward(ids.clone(), None);
        assert_eq!(whole.dims(), [2, 5, VOCAB]);
        let (first, mut state) = model.forward(ids.clone().narrow(1, 0, 2), None);
        let mut logits = vec![first];
        for t in 2..5 {
            let (next, after) = model.step(ids.clone().narrow(1, t, 1).squeeze_dim(1), state);
            logits.push(next.unsqueeze_dim(1));
            state = after;
        }
        let error = (Tensor::cat(logits, 1) - whole)
            .abs()
            .max()
            .into_scalar::<f32>();
        // The largest measured is 3e-8.
        assert!(error < 1e-6, "{backend}: an error of {error:e}");
    }
}

#[test]
fn generation_streams_what_forward_would_pick() {
    for backend in backends() {
        let device = backend.device();
        let model = model(&device);
        let mut ids = vec![3, 1, 4];
        let streamed: Vec<u32> = model.generate(&ids, Sampler::greedy()).take(12).collect();
        for next in streamed {
            let input = TensorData::new(ids.clone(), [1, ids.len()]);
            let (logits, _) = model.forward(Tensor::from_data(input, &device), None);
            let last: Vec<f32> = logits
                .narrow(1, ids.len() - 1, 1)
                .into_data()
                .iter()
                .collect();
            assert_eq!(
                next,
                Sampler::greedy().sample(&last),
                "{backend} after {ids:?}"
            );
            ids.push(next);
        }
    }
}

#[test]
#[should_panic(expected = "a prompt needs at least one symbol")]
fn there_is_no_generation_without_a_prompt() {
    model(&seq_lstm::device()).generate(&[], Sampler::greedy());
}

#[test]
fn surprisal_is_minus_the_log_of_the_probability() {
    let device = seq_lstm::device();
    let p = [0.5f32, 0.125, 0.375];
    let logits = Tensor::<3>::from_data([[p.map(|p| p.ln() + 40.0), p.map(|p| p.ln())]], &device);
    let targets = Tensor::from_data([[1, 2]], &device);
    let found: Vec<f64> = surprisal(logits, targets).into_data().iter().collect();
    // The logits near 40 are rounded to 4e-6.
    for (found, p) in found.iter().zip([0.125f64, 0.375]) {
        assert!((found + p.ln()).abs() < 1e-5, "{found}");
    }
}

/// A text in which every symbol tells the next.
fn windows() -> (TextWindows, TextWindows) {
    let ids: Vec<u32> = (0..1200).map(|i| (i * 3) % VOCAB as u32).collect();
    TextWindows::split(&ids, 0.8, 16, 16).unwrap()
}

fn train(
    out: &Path,
    epochs: usize,
    resume: bool,
    model: LanguageModel<Lstm>,
) -> Result<LanguageModel<Lstm>, TrainingFailure> {
    let training = TextTraining {
        epochs,
        resume,
        batch_size: 8,
        learning_rate: 0.02,
        ..TextTraining::new(out)
    };
    let (train, valid) = windows();
    training.fit(model, train, valid)
}

fn checkpoints(out: &Path) -> Vec<String> {
    let files = fs::read_dir(out.join("checkpoint")).unwrap();
    let mut names: Vec<_> = files
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn training_learns_and_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("new/folder");
    let device = seq_lstm::device();
    let trained = train(&out, 3, false, model(&device)).unwrap();
    let kept = [
        "model-2",
        "model-3",
        "optim-2",
        "optim-3",
        "scheduler-2",
        "scheduler-3",
    ];
    assert_eq!(checkpoints(&out), kept.map(|name| format!("{name}.bpk")));

    // Nothing is left to train: what comes back is the checkpoint, not the fresh model given.
    let restored = train(&out, 3, true, model(&device)).unwrap();
    let weights = |model: &LanguageModel<Lstm>| model.layer.state_dict();
    assert_eq!(weights(&restored), weights(&trained));

    let longer = train(&out, 12, true, model(&device)).unwrap();
    assert!(checkpoints(&out).contains(&"model-12.bpk".to_string()));
    let text: Vec<u32> = longer
        .generate(&[0, 3], Sampler::greedy())
        .take(20)
        .collect();
    let expected: Vec<u32> = (2..22).map(|i| (i * 3) % VOCAB as u32).collect();
    assert_eq!(text, expected);

    // Beginning anew leaves nothing of the old training behind.
    train(&out, 1, false, model(&device)).unwrap();
    assert_eq!(
        checkpoints(&out),
        ["model-1.bpk", "optim-1.bpk", "scheduler-1.bpk"]
    );
}

#[test]
fn nothing_to_resume_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let error = train(folder.path(), 1, true, model(&seq_lstm::device())).unwrap_err();
    assert!(
        matches!(error, TrainingFailure::NoCheckpoint { .. }),
        "{error}"
    );
    // Half a checkpoint is none.
    fs::write(folder.path().join("checkpoint/model-1.bpk"), "").unwrap();
    let error = train(folder.path(), 1, true, model(&seq_lstm::device())).unwrap_err();
    assert!(
        matches!(error, TrainingFailure::NoCheckpoint { .. }),
        "{error}"
    );

    let file = folder.path().join("file");
    fs::write(&file, "").unwrap();
    let error = train(&file, 1, false, model(&seq_lstm::device())).unwrap_err();
    assert!(matches!(error, TrainingFailure::Io { .. }), "{error}");
}

#[test]
fn checkpoints_that_do_not_fit_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let device = seq_lstm::device();
    train(folder.path(), 1, false, model(&device)).unwrap();
    let refused = |model, part: &str| {
        let error = train(folder.path(), 2, true, model).unwrap_err();
        let TrainingFailure::Checkpoint { file, .. } = &error else {
            panic!("{error}");
        };
        assert_eq!(
            file,
            &folder.path().join(format!("checkpoint/{part}-1.bpk"))
        );
    };
    let wider = LanguageModel::new(VOCAB, LstmConfig::new(6, 9).init(&device), &device);
    refused(wider, "model");
    // Of the scheduler's file, all but the first 20 bytes are padding.
    for (part, keep) in [("scheduler", 0.05), ("optim", 0.9), ("model", 0.9)] {
        let file = folder.path().join(format!("checkpoint/{part}-1.bpk"));
        let content = fs::read(&file).unwrap();
        fs::write(&file, &content[..(content.len() as f64 * keep) as usize]).unwrap();
        refused(model(&device), part);
    }
}

#[test]
fn dropout_is_for_training_alone() {
    let device = seq_lstm::device();
    let model = model(&device.clone().autodiff()).with_dropout(0.5);
    let loss = |model: &LanguageModel<Lstm>| {
        let device = model.devices()[0].clone();
        let ids = Tensor::<2, Int>::from_data([[1, 5, 0, 10], [2, 2, 9, 3]], &device);
        model.loss(ids.clone(), ids).into_scalar::<f32>()
    };
    assert_ne!(loss(&model), loss(&model));
    let model = model.valid();
    assert_eq!(loss(&model), loss(&model));
}
