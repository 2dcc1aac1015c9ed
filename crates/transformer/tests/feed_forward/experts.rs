//! Mixtures of experts against the evaluation of all experts for all tokens, and what must hold of routing.

use burn::tensor::activation::softmax;
use burn::tensor::{DType, Device, Gradients, Tensor, TensorData};
use seq_core::testing::random::{Random, error};
use seq_core::testing::recurrent::cpu_devices;
use seq_transformer::{Lengths, MixtureOfExperts, MixtureOfExpertsConfig, Mlp, device};

/// Small layers of all kinds: of one choice, of several, of all.
fn configs() -> [MixtureOfExpertsConfig; 4] {
    let config = MixtureOfExpertsConfig::new(6, 9, 5);
    [
        config.clone(),
        config.clone().with_top_k(1).with_normalise(false),
        config
            .clone()
            .with_top_k(3)
            .with_gated(false)
            .with_bias(true),
        config.with_top_k(5).with_normalise(false),
    ]
}

/// The layer with its weights in the given type.
fn layer(config: &MixtureOfExpertsConfig, (device, dtype): (&Device, DType)) -> MixtureOfExperts {
    use burn::module::{Module, ModuleMapper, Param};

    struct Cast(DType);
    impl ModuleMapper for Cast {
        fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
            // Sharper than the initial values, so that experts and tokens differ.
            param.map(|x| {
                let x = (x * 3.0).detach().cast(self.0);
                if x.is_autodiff() { x.require_grad() } else { x }
            })
        }
    }
    device.seed(8);
    config.init(device).map(&mut Cast(dtype))
}

/// The most probable experts of every token by repeated search, as zeros and ones, `[tokens, num_experts]`.
fn chosen(probabilities: &Tensor<2>, top_k: usize) -> Tensor<2> {
    let [tokens, num_experts] = probabilities.dims();
    let values: Vec<f64> = probabilities.to_data().iter().collect();
    let mut chosen = vec![0.0; tokens * num_experts];
    for (values, chosen) in values
        .chunks(num_experts)
        .zip(chosen.chunks_mut(num_experts))
    {
        for _ in 0..top_k {
            let rest = (0..num_experts).filter(|&e| chosen[e] == 0.0);
            let best = rest.max_by(|&a, &b| values[a].total_cmp(&values[b]));
            chosen[best.expect("an expert")] = 1.0;
        }
    }
    let data = TensorData::new(chosen, [tokens, num_experts]);
    Tensor::from_data(data, (&probabilities.device(), probabilities.dtype()))
}

/// All experts of all tokens, weighed.
fn dense(layer: &MixtureOfExperts, x: Tensor<2>) -> (Tensor<2>, Tensor<1>) {
    let probabilities = softmax(layer.router.forward(x.clone()), 1);
    let chosen = chosen(&probabilities, layer.top_k);
    let mut weights = probabilities.clone() * chosen.clone();
    if layer.normalise {
        weights = weights.clone() / weights.sum_dim(1);
    }
    let outputs = layer.experts.iter().enumerate();
    let y = outputs
        .map(|(e, expert)| expert.forward(x.clone()) * weights.clone().narrow(1, e, 1))
        .reduce(|a, b| a + b)
        .expect("an expert");
    let balance = (chosen.mean_dim(0) * probabilities.mean_dim(0)).sum();
    (y, balance * layer.experts.len() as f64)
}

/// The gradients of the router and of all experts.
fn gradients_of(layer: &MixtureOfExperts, gradients: &Gradients) -> Vec<Option<Tensor<2>>> {
    let mut maps = vec![&layer.router];
    for expert in &layer.experts {
        maps.extend(
            [
                Some(&expert.input),
                expert.gate.as_ref(),
                Some(&expert.output),
            ]
            .into_iter()
            .flatten(),
        );
    }
    let gradient = |map: &&burn::nn::Linear| map.weight.val().grad(gradients);
    maps.iter().map(gradient).collect()
}

fn is_all_experts(device: &Device, dtype: DType, tolerance: f64) {
    let device = device.clone().autodiff();
    for config in configs() {
        let layer = layer(&config, (&device, dtype));
        let run = |routed: bool| {
            let mut random = Random::new(9, &device, dtype);
            let x: Tensor<2> = random.between("x", [17, 6], -2.0, 2.0);
            let (y, balance) = match routed {
                true => {
                    let routed = layer.forward(x.clone(), None);
                    (routed.y, routed.balance)
                }
                false => dense(&layer, x.clone()),
            };
            let probe: Tensor<2> = random.tensor("probe", [17, 6]);
            let loss = (y.clone() * probe).sum() + balance.clone();
            let gradients = loss.backward();
            let mut values = vec![Some(y.inner()), Some(balance.inner().unsqueeze())];
            values.push(x.grad(&gradients));
            values.extend(gradients_of(&layer, &gradients));
            values
        };
        for (i, (routed, all)) in run(true).into_iter().zip(run(false)).enumerate() {
            let all = all.expect("all experts are run");
            // No gradient is one of zero.
            let routed = routed.unwrap_or_else(|| all.zeros_like());
            let error = error(routed, all);
            assert!(error <= tolerance, "{config} {dtype:?} {i}: {error:e}");
        }
    }
}

#[test]
fn a_mixture_is_all_experts_weighed() {
    is_all_experts(&device(), DType::F32, 4e-6);
    for device in cpu_devices() {
        is_all_experts(&device, DType::F64, 2e-14);
    }
}

/// With all experts chosen, the router's probabilities are the weights, whatever their order.
#[test]
fn all_experts_are_the_full_mixture() {
    let device = device();
    for normalise in [true, false] {
        let config = MixtureOfExpertsConfig::new(6, 9, 4)
            .with_top_k(4)
            .with_normalise(normalise);
        let layer = layer(&config, (&device, DType::F32));
        let x: Tensor<2> = Random::new(10, &device, DType::F32).tensor("x", [8, 6]);
        let weights = softmax(layer.router.forward(x.clone()), 1);
        let mut y = Tensor::<2>::zeros([8, 6], &device);
        for (e, expert) in layer.experts.iter().enumerate() {
            y = y + expert.forward(x.clone()) * weights.clone().narrow(1, e, 1);
        }
        let routed = layer.forward(x, None);
        assert!(error(routed.y, y) < 4e-6);
        // Every expert has every token.
        let balance: f64 = routed.balance.into_scalar();
        assert!((balance - 4.0).abs() < 1e-5, "{balance}");
    }
}

/// Any order and any company of the tokens.
#[test]
fn a_token_does_not_depend_on_the_others() {
    let device = device();
    for config in configs() {
        let layer = layer(&config, (&device, DType::F32));
        let x: Tensor<3> = Random::new(11, &device, DType::F32).between("x", [3, 7, 6], -2.0, 2.0);
        let whole = layer.forward(x.clone(), None);
        let reversed = layer.forward(x.clone().flip([0, 1]), None);
        assert!(error(reversed.y.flip([0, 1]), whole.y.clone()) < 1e-6);
        assert!(error(reversed.balance, whole.balance) < 1e-6);
        for step in 0..7 {
            let y = layer.forward(x.clone().narrow(1, step, 1), None).y;
            assert!(error(y, whole.y.clone().narrow(1, step, 1)) < 1e-6);
        }
    }
}

/// Whatever it holds, even what is no number.
#[test]
fn padding_is_not_balanced() {
    let device = device();
    for config in configs() {
        let layer = layer(&config, (&device, DType::F32));
        let x: Tensor<3> = Random::new(12, &device, DType::F32).between("x", [2, 6, 6], -2.0, 2.0);
        let lengths = Lengths::new([6, 3]);
        let real = [
            x.clone().narrow(0, 0, 1),
            x.clone().narrow(0, 1, 1).narrow(1, 0, 3),
        ];
        let real = Tensor::cat(real.map(|x| x.reshape([-1, 6])).to_vec(), 0);
        let real = layer.forward::<2>(real, None);
        for padding in [0.0, f32::NAN] {
            let padding = Tensor::<3>::full([1, 3, 6], padding, &device);
            let x = x.clone().slice_assign([1..2, 3..6], padding);
            let routed = layer.forward(x.clone(), Some(&lengths));
            assert!(error(routed.balance, real.balance.clone()) < 1e-6);
            let y = routed.y.reshape([12, 6]).narrow(0, 0, 9);
            assert!(error(y, real.y.clone()) < 1e-6);
            // Further axes are of the same step.
            let x = x.reshape([2, 6, 1, 6]).repeat_dim(2, 2);
            let routed = layer.forward(x, Some(&lengths));
            assert!(error(routed.balance, real.balance.clone()) < 1e-6);
        }
        let nothing = layer.forward(x, Some(&Lengths::new([0, 0])));
        assert_eq!(nothing.balance.into_scalar::<f32>(), 0.0);
    }
}

/// The loss is `top_k` where all experts are equally probable, whichever is chosen.
#[test]
fn of_equals_the_first_experts_are_chosen() {
    let device = device();
    let config = MixtureOfExpertsConfig::new(6, 9, 5);
    let mut layer = layer(&config, (&device, DType::F32));
    layer.router.weight = layer.router.weight.map(|weight| weight.zeros_like());
    let x: Tensor<2> = Random::new(13, &device, DType::F32).tensor("x", [4, 6]);
    let routed = layer.forward(x.clone(), None);
    let balance: f64 = routed.balance.into_scalar();
    assert!((balance - 2.0).abs() < 1e-6, "{balance}");
    let y = (layer.experts[0].forward(x.clone()) + layer.experts[1].forward(x)) * 0.5;
    assert!(error(routed.y, y) < 1e-6);
}

#[test]
fn gradients_are_finite_differences() {
    const STEP: f64 = 1e-5;
    for device in cpu_devices() {
        for config in configs() {
            let autodiff = device.clone().autodiff();
            let run = |device: &Device, x: Tensor<2>| {
                let layer = layer(&config, (device, DType::F64));
                let routed = layer.forward(x, None);
                let probe: Tensor<2> = Random::new(15, device, DType::F64).tensor("probe", [4, 6]);
                (routed.y * probe).sum() + routed.balance
            };
            let x: Tensor<2> = Random::new(14, &autodiff, DType::F64).tensor("x", [4, 6]);
            let gradients = run(&autodiff, x.clone()).backward();
            let gradient: Vec<f64> = x
                .grad(&gradients)
                .expect("a gradient")
                .into_data()
                .iter()
                .collect();
            let values: Vec<f64> = x.into_data().iter().collect();
            for i in 0..values.len() {
                let at = |step: f64| -> f64 {
                    let mut values = values.clone();
                    values[i] += step;
                    let x = TensorData::new(values, [4, 6]);
                    run(&device, Tensor::from_data(x, (&device, DType::F64))).into_scalar()
                };
                let difference = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                let error = (difference - gradient[i]).abs();
                assert!(error < 2e-9, "{config} element {i}: {error:e}");
            }
        }
    }
}

#[test]
fn no_tokens_are_no_tokens() {
    let device = device();
    let layer = MixtureOfExpertsConfig::new(6, 9, 5).init(&device);
    let routed = layer.forward(Tensor::<3>::zeros([0, 4, 6], &device), None);
    assert_eq!(routed.y.dims(), [0, 4, 6]);
    assert_eq!(routed.balance.into_scalar::<f32>(), 0.0);
}

#[test]
fn an_mlp_of_experts_is_the_mixture() {
    let device = device();
    let layer = MixtureOfExpertsConfig::new(6, 9, 5).init(&device);
    let x: Tensor<3> = Random::new(16, &device, DType::F32).tensor("x", [2, 3, 6]);
    let lengths = Lengths::new([3, 1]);
    let routed = layer.forward(x.clone(), Some(&lengths));
    let (y, balance) = Mlp::from(layer).forward(x, Some(&lengths));
    assert_eq!(y.into_data(), routed.y.into_data());
    let balance = balance.expect("a loss");
    assert_eq!(balance.into_data(), routed.balance.into_data());
}

#[test]
#[should_panic(expected = "the input has shape [2, 5], the layer a width of 6")]
fn another_width_is_named() {
    let device = device();
    MixtureOfExpertsConfig::new(6, 9, 5)
        .init(&device)
        .forward(Tensor::<2>::ones([2, 5], &device), None);
}

#[test]
#[should_panic(expected = "3 lengths were given for an input of batch 2")]
fn lengths_must_fit() {
    let device = device();
    MixtureOfExpertsConfig::new(6, 9, 5).init(&device).forward(
        Tensor::<3>::ones([2, 4, 6], &device),
        Some(&Lengths::new([4, 4, 4])),
    );
}
