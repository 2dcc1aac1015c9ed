//! Configurations in JSON, and language models: saved, loaded, trained.

use std::fs;
use std::path::Path;

use burn::module::Module;
use burn::optim::{AdamConfig, GradientsParams};
use burn::tensor::{Device, Int, Tensor, TensorData};
use seq_core::checkpoint::write_safetensors;
use seq_core::models::Sampler;
use seq_core::testing::backends;
use seq_gru::GruConfig;
use seq_hybrid::{
    BlockConfig, CheckpointError, HybridConfig, HybridConfigError, HybridLm, HybridLmConfig, load,
    save,
};
use seq_lstm::LstmConfig;
use seq_mamba::{Mamba2Config, Mamba3Config, MambaConfig};
use seq_rnn::RnnConfig;
use seq_ssm::{Mixing, S4BlockConfig, S4Config, S4dConfig, S5Config};
use seq_transformer::{
    Activation, FeedForwardConfig, MixtureOfExpertsConfig, MultiHeadAttentionConfig, NormConfig,
    RotaryConfig, TransformerBlockConfig,
};
use serde_json::{Value, json};

/// One block of each kind, none with all of its defaults.
fn all() -> HybridConfig {
    let attention = MultiHeadAttentionConfig::new(8, 2).with_rotary(Some(RotaryConfig::new(4)));
    let experts = MixtureOfExpertsConfig::new(8, 6, 3).with_top_k(1);
    let blocks = vec![
        MambaConfig::new(8).with_d_state(3).into(),
        Mamba2Config::new(8).with_head_dim(4).with_d_state(3).into(),
        Mamba3Config::new(8).with_head_dim(4).with_d_state(4).into(),
        S4Config::new(8).with_d_state(4).into(),
        BlockConfig::S4d {
            layer: S4dConfig::new(8).with_d_state(6),
            block: S4BlockConfig::new().with_mixing(Mixing::Linear),
        },
        S5Config::new(8).with_d_state(4).into(),
        RnnConfig::new(8, 5).with_d_output(Some(8)).into(),
        LstmConfig::new(8, 5).with_d_projection(Some(8)).into(),
        GruConfig::new(8, 8).with_num_layers(2).into(),
        attention.clone().with_window(Some(4)).into(),
        TransformerBlockConfig::new(attention, experts.clone().into())
            .with_norm(NormConfig::Rms { epsilon: 1e-5 })
            .into(),
        FeedForwardConfig::new(8, 12)
            .with_activation(Activation::Silu)
            .into(),
        experts.into(),
    ];
    HybridConfig::new(8, blocks).with_norm_eps(1e-5)
}

fn value(config: &HybridConfig) -> Value {
    serde_json::to_value(config).unwrap()
}

#[test]
fn what_is_written_is_read() {
    let written = value(&all());
    let read: HybridConfig = serde_json::from_value(written.clone()).unwrap();
    assert_eq!(value(&read), written);
    read.validate().unwrap();
}

#[test]
fn defaults_are_left_out() {
    let json = json!({
        "d_model": 8,
        "blocks": [
            {"mamba": {}}, {"mamba2": {"head_dim": 4}}, {"mamba3": {"head_dim": 4}},
            {"s4": {}}, {"s4d": {"layer": {"d_state": 6}}}, {"s5": {"block": {"mixing": "Linear"}}},
            {"rnn": {}}, {"lstm": {"zoneout": {"cell": 0.5}}}, {"gru": {}},
            {"attention": {"num_heads": 2, "num_kv_heads": 1}},
            {"transformer": {
                "attention": {"num_heads": 2},
                "feed_forward": {"Dense": {"d_hidden": 12}},
                "norm": {"Rms": {"epsilon": 1e-5}},
            }},
            {"feed_forward": {}}, {"experts": {"num_experts": 3}},
        ],
    });
    let read: HybridConfig = serde_json::from_value(json).unwrap();
    read.validate().unwrap();
    let blocks = vec![
        MambaConfig::new(8).into(),
        Mamba2Config::new(8).with_head_dim(4).into(),
        Mamba3Config::new(8).with_head_dim(4).into(),
        S4Config::new(8).into(),
        S4dConfig::new(8).with_d_state(6).into(),
        BlockConfig::S5 {
            layer: S5Config::new(8),
            block: S4BlockConfig::new().with_mixing(Mixing::Linear),
        },
        RnnConfig::new(8, 8).into(),
        LstmConfig::new(8, 8)
            .with_zoneout(seq_lstm::Zoneout::new().with_cell(0.5))
            .into(),
        GruConfig::new(8, 8).into(),
        MultiHeadAttentionConfig::new(8, 2)
            .with_num_kv_heads(Some(1))
            .into(),
        TransformerBlockConfig::new(
            MultiHeadAttentionConfig::new(8, 2),
            FeedForwardConfig::new(8, 12).into(),
        )
        .with_norm(NormConfig::Rms { epsilon: 1e-5 })
        .into(),
        FeedForwardConfig::new(8, 32).into(),
        MixtureOfExpertsConfig::new(8, 32, 3).into(),
    ];
    assert_eq!(value(&read), value(&HybridConfig::new(8, blocks)));
}

/// The error of a block in JSON.
fn block_error(block: Value) -> String {
    let json = json!({"d_model": 8, "blocks": [{"mamba": {}}, block]});
    let error = serde_json::from_value::<HybridConfig>(json).unwrap_err();
    error.to_string()
}

#[test]
fn fields_that_are_wrong_are_named() {
    let unknown = "unknown field `blocks[1]";
    for (block, place) in [
        (json!({"mamba4": {}}), ".mamba4`"),
        (json!({"mamba": {"states": 4}}), ".mamba.states`"),
        (json!({"s4": {"d_state": 4}}), ".s4.d_state`"),
        // Inside what is given as a whole, too.
        (
            json!({"attention": {"num_heads": 2, "qk_norm": {"Rms": {"epsilon": 1.0, "eps": 1.0}}}}),
            ".attention.qk_norm.Rms.eps`",
        ),
    ] {
        assert_eq!(block_error(block), format!("{unknown}{place}"));
    }
    let one = "an object with one field, the kind of the block, was expected";
    for (block, place, reason) in [
        (json!({}), "", one),
        (json!("mamba"), "", one),
        (json!({"mamba": {}, "gru": {}}), "", one),
        (
            json!({"mamba": 3}),
            ".mamba",
            "it is 3, an object was expected",
        ),
        (
            json!({"attention": {}}),
            ".attention.num_heads",
            "it is not there",
        ),
        (
            json!({"transformer": {}}),
            ".transformer.attention.num_heads",
            "it is not there",
        ),
        (
            json!({"experts": {}}),
            ".experts.num_experts",
            "it is not there",
        ),
        (
            json!({"mamba": {"d_state": "many"}}),
            ".mamba",
            "invalid type: string \"many\", expected usize",
        ),
        (
            json!({"lstm": {"zoneout": {"hiden": 0.5}}}),
            ".lstm",
            "missing field `hidden`",
        ),
    ] {
        let expected = format!("field `blocks[1]{place}`: {reason}");
        assert_eq!(block_error(block), expected);
    }
    let error = |json: Value| {
        serde_json::from_value::<HybridLmConfig>(json)
            .unwrap_err()
            .to_string()
    };
    let hybrid = json!({"d_model": 8, "blocks": [{"mamba": {}}]});
    assert_eq!(
        error(json!({"hybrid": hybrid})),
        "field `vocab_size`: it is not there"
    );
    assert_eq!(
        error(json!({"hybrid": hybrid, "vocab_size": 5, "tied": true})),
        "unknown field `tied`"
    );
    let without = json!({"hybrid": {"blocks": []}, "vocab_size": 5});
    assert_eq!(error(without), "field `hybrid.d_model`: it is not there");
    let inside = json!({"hybrid": {"d_model": 8, "blocks": [{"gru": {"d": 1}}]}, "vocab_size": 5});
    assert_eq!(error(inside), "unknown field `hybrid.blocks[0].gru.d`");
}

#[test]
fn options_that_do_not_fit_are_named() {
    let error = |block: BlockConfig| {
        let blocks = vec![MambaConfig::new(8).into(), block];
        let error = HybridConfig::new(8, blocks).validate().unwrap_err();
        assert!(
            matches!(error, HybridConfigError::Block { index: 1, .. }),
            "{error:?}"
        );
        error.to_string()
    };
    let expected = |place: &str, found: usize| {
        let (kind, option) = place.split_once(": ").unwrap();
        format!("blocks[1].{kind}: {option} must be the hybrid's d_model, is {found}")
    };
    for (block, place, found) in [
        (MambaConfig::new(6).into(), "mamba: d_model", 6),
        (Mamba2Config::new(32).into(), "mamba2: d_model", 32),
        (Mamba3Config::new(32).into(), "mamba3: d_model", 32),
        (S4Config::new(6).into(), "s4: layer.d_model", 6),
        (S4dConfig::new(6).into(), "s4d: layer.d_model", 6),
        (S5Config::new(6).into(), "s5: layer.d_model", 6),
        (RnnConfig::new(6, 8).into(), "rnn: d_input", 6),
        (RnnConfig::new(8, 6).into(), "rnn: d_hidden", 6),
        (
            RnnConfig::new(8, 8).with_d_output(Some(6)).into(),
            "rnn: d_output",
            6,
        ),
        (LstmConfig::new(8, 6).into(), "lstm: d_hidden", 6),
        (
            LstmConfig::new(8, 8).with_d_projection(Some(6)).into(),
            "lstm: d_projection",
            6,
        ),
        (GruConfig::new(8, 6).into(), "gru: d_hidden", 6),
        (
            MultiHeadAttentionConfig::new(6, 2).into(),
            "attention: d_model",
            6,
        ),
        (
            MultiHeadAttentionConfig::new(8, 2)
                .with_d_memory(Some(6))
                .into(),
            "attention: d_memory",
            6,
        ),
        (
            FeedForwardConfig::new(6, 8).into(),
            "feed_forward: d_model",
            6,
        ),
        (
            MixtureOfExpertsConfig::new(6, 8, 2).into(),
            "experts: d_model",
            6,
        ),
    ] {
        assert_eq!(error(block), expected(place, found));
    }
    let off = "must be off, as a block reads step by step, is true";
    assert_eq!(
        error(GruConfig::new(8, 8).with_reverse(true).into()),
        format!("blocks[1].gru: reverse {off}")
    );
    assert_eq!(
        error(S4dConfig::new(8).with_bidirectional(true).into()),
        format!("blocks[1].s4d: layer.bidirectional {off}")
    );
    assert_eq!(
        error(MambaConfig::new(8).with_d_conv(1).into()),
        "blocks[1].mamba: d_conv must be at least 2, is 1"
    );

    let config = |blocks: Vec<BlockConfig>| HybridConfig::new(8, blocks);
    let error = |config: HybridConfig| config.validate().unwrap_err().to_string();
    assert_eq!(
        error(config(vec![FeedForwardConfig::new(8, 8).into()])),
        "blocks must be some, one of them with a memory, is [feed_forward]"
    );
    assert_eq!(
        error(config(vec![]).with_repeat(0)),
        "repeat must be at least 1, is 0"
    );
    assert_eq!(
        error(all().with_norm_eps(0.0)),
        "norm_eps must be positive, is 0"
    );
    let model = HybridLmConfig::new(0, all()).validate().unwrap_err();
    assert_eq!(model.to_string(), "vocab_size must be at least 1, is 0");
}

fn logits(model: &HybridLm, device: &Device) -> Vec<f32> {
    let ids = Tensor::<2, Int>::from_data([[1, 5, 9, 2]], device);
    model
        .forward(ids, None)
        .0
        .into_data()
        .iter::<f32>()
        .collect()
}

#[test]
fn what_is_saved_is_loaded() {
    for backend in backends() {
        let device = backend.device();
        for tied in [true, false] {
            let config = HybridLmConfig::new(11, all()).with_tied_embeddings(tied);
            let model = config.init(&device);
            let folder = tempfile::tempdir().unwrap();
            let folder = folder.path().join("new");
            save(&model, &config, &folder).unwrap();
            let (loaded, read) = load(&folder, &device).unwrap();
            assert_eq!(value(&read.hybrid), value(&config.hybrid));
            assert_eq!(read.tied_embeddings, tied);
            assert_eq!(loaded.num_params(), model.num_params());
            assert_eq!(
                logits(&loaded, &device),
                logits(&model, &device),
                "{backend}"
            );
        }
    }
}

/// A folder with a saved model whose files a test spoils, and the error of loading it.
fn spoilt(spoil: impl FnOnce(&Path)) -> CheckpointError {
    let device = seq_hybrid::device();
    let blocks = vec![MambaConfig::new(8).into(), GruConfig::new(8, 8).into()];
    let config = HybridLmConfig::new(11, HybridConfig::new(8, blocks));
    let folder = tempfile::tempdir().unwrap();
    save(&config.init(&device), &config, folder.path()).unwrap();
    spoil(folder.path());
    let error = load(folder.path(), &device).unwrap_err();
    assert!(
        error.to_string().contains(folder.path().to_str().unwrap()),
        "{error}"
    );
    error
}

/// As [`spoilt`], by a change of the configuration.
fn misconfigured(edit: impl FnOnce(&mut Value)) -> CheckpointError {
    spoilt(|folder| {
        let file = folder.join("config.json");
        let mut config = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        edit(&mut config);
        fs::write(&file, config.to_string()).unwrap();
    })
}

#[test]
fn folders_that_are_not_right_are_errors() {
    let error = spoilt(|folder| fs::remove_file(folder.join("config.json")).unwrap());
    assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
    let error = spoilt(|folder| fs::remove_file(folder.join("model.safetensors")).unwrap());
    assert!(matches!(error, CheckpointError::Io { .. }), "{error}");
    let error = spoilt(|folder| fs::write(folder.join("config.json"), "{").unwrap());
    assert!(matches!(error, CheckpointError::Corrupt { .. }), "{error}");
    let error = spoilt(|folder| {
        let one = [(
            "embedding.weight".to_owned(),
            TensorData::from([[0f32; 8]; 11]),
        )];
        write_safetensors(folder.join("model.safetensors"), one).unwrap();
    });
    let CheckpointError::MissingTensor { name, .. } = &error else {
        panic!("{error}");
    };
    assert!(name.starts_with("layer.layers.0.Mamba."), "{name}");

    let error = misconfigured(|config| config["hybrid"]["dmodel"] = json!(8));
    let CheckpointError::UnknownFields { fields, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(fields, &["hybrid.dmodel"]);
    let error =
        misconfigured(|config| config["hybrid"]["blocks"][1]["gru"]["dropout"] = json!(2.0));
    let CheckpointError::WrongField { field, reason, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(field, "hybrid.blocks[1].gru.dropout");
    assert_eq!(reason, "dropout must be in [0, 1), is 2");
    let error = misconfigured(|config| config["vocab_size"] = json!(12));
    let CheckpointError::WrongShape {
        name,
        expected,
        found,
        ..
    } = &error
    else {
        panic!("{error}");
    };
    assert_eq!(
        (name.as_str(), &expected[..], &found[..]),
        ("embedding.weight", &[12, 8][..], &[11, 8][..])
    );
    let error = misconfigured(|config| {
        config["hybrid"]["blocks"].as_array_mut().unwrap().pop();
    });
    assert!(
        matches!(error, CheckpointError::UnexpectedTensors { .. }),
        "{error}"
    );
}

#[test]
fn infinity_is_not_saved() {
    let device = seq_hybrid::device();
    let mamba = MambaConfig::new(8).with_dt_limit(Some([0.0, f64::INFINITY]));
    let config = HybridLmConfig::new(11, HybridConfig::new(8, vec![mamba.into()]));
    let folder = tempfile::tempdir().unwrap();
    let error = save(&config.init(&device), &config, folder.path()).unwrap_err();
    let CheckpointError::WrongField { field, .. } = &error else {
        panic!("{error}");
    };
    assert_eq!(field, "hybrid.blocks[0].mamba");
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_model_learns_and_writes() {
    for backend in backends() {
        let device = backend.device().autodiff();
        let config = HybridLmConfig::new(11, all());
        let mut model = config.init(&device);
        let ids: Vec<i64> = (0..2 * 13).map(|i| (i * i) % 11).collect();
        let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, [2, 13]), &device);
        let (inputs, targets) = (ids.clone().narrow(1, 0, 12), ids.narrow(1, 1, 12));
        let mut optimizer = AdamConfig::new().init();
        let mut losses = Vec::new();
        for _ in 0..8 {
            let loss = model.loss(inputs.clone(), targets.clone());
            let gradients = GradientsParams::from_grads(loss.backward(), &model);
            model = optimizer.step(1e-2, model, gradients);
            losses.push(loss.into_scalar::<f32>());
        }
        println!("{backend}: {losses:?}");
        assert!(losses.iter().all(|loss| loss.is_finite()));
        assert!(losses[7] < 0.8 * losses[0], "{backend}: {losses:?}");

        // What is streamed is what the whole would have given.
        let model = model.valid();
        let device = backend.device();
        let mut ids = vec![3, 1, 4];
        let written: Vec<u32> = model.generate(&ids, Sampler::greedy()).take(6).collect();
        for next in written {
            let whole = TensorData::new(ids.clone(), [1, ids.len()]);
            let (logits, _) = model.forward(Tensor::from_data(whole, &device), None);
            let last = logits.narrow(1, ids.len() - 1, 1).into_data();
            let last: Vec<f32> = last.iter::<f32>().collect();
            assert_eq!(
                next,
                Sampler::greedy().sample(&last),
                "{backend} after {ids:?}"
            );
            ids.push(next);
        }
    }
}
