//! A whole layer: an encoder's beside Burn's own module with the same weights, and a causal one.

use burn::module::{Module, Param};
use burn::nn::activation::ActivationConfig;
use burn::nn::transformer::{TransformerEncoderConfig, TransformerEncoderLayer};
use burn::nn::{LayerNorm, Linear};
use burn::tensor::{Device, Gradients, Tensor};
use seq_core::SequenceLayer;
use seq_transformer::{AttentionMask, Mlp, TransformerBlock};

use super::{attention_flops, block, finish};
use crate::kind::{Kind, NORMAL, Named, build, compare, flat, placed};
use crate::{Agreement, Case, Disagreement, Profile, Workload};

/// Width and number of heads.
const ENCODER: [usize; 2] = [512, 8];

/// As wide as the Mamba layers that are timed.
const CAUSAL: [usize; 2] = [256, 4];

/// The longest that a causal layer is compared at.
const COMPARED: usize = 256;

pub fn cases(profile: Profile) -> Vec<Case> {
    let encoders = [
        (Kind::Infer, 1, 512),
        (Kind::Infer, 1, 2048),
        (Kind::Infer, 8, 256),
        (Kind::Train, 8, 256),
    ];
    let encoders = encoders.map(|(kind, batch, time)| encoder(kind, batch, time));
    let lengths = match profile {
        Profile::Quick => &[2048, 8192][..],
        Profile::Full => &[2048, 8192, 32768],
    };
    let causal = lengths.iter().map(|&time| causal(time));
    encoders.into_iter().chain(causal).collect()
}

fn encoder(kind: Kind, batch: usize, time: usize) -> Case {
    let name = match kind {
        Kind::Train => "train",
        Kind::Infer | Kind::Step => "infer",
    };
    let [width, heads] = ENCODER;
    let (steps, train) = ((batch * time) as f64, kind == Kind::Train);
    Case {
        name: format!("encoder_{name}/B{batch}_T{time}"),
        flops: product_flops(steps, width, train)
            + attention_flops(steps, time as f64, width, train),
        steps: 1,
        scaling: false,
        checked: true,
        reads: 0.0,
        inputs: None,
        baseline: Some("burn_nn"),
        build: build(move |device| Encoder::new(kind, [batch, time, width], heads, device)),
    }
}

fn causal(time: usize) -> Case {
    let [width, heads] = CAUSAL;
    let steps = time as f64;
    Case {
        name: format!("causal_infer/B1_T{time}"),
        flops: product_flops(steps, width, false)
            + attention_flops(steps, steps / 2.0, width, false),
        steps: 1,
        scaling: false,
        checked: true,
        reads: 0.0,
        inputs: None,
        baseline: None,
        build: build(move |device| Causal::new(time, width, heads, device)),
    }
}

/// Of the four projections and the feed-forward, four times as wide; backward is two products for each.
fn product_flops(steps: f64, width: usize, with_gradients: bool) -> f64 {
    let passes = if with_gradients { 3.0 } else { 1.0 };
    passes * 2.0 * steps * (12 * width * width) as f64
}

struct Encoder {
    kind: Kind,
    device: Device,
    ours: TransformerBlock,
    burn_nn: TransformerEncoderLayer,
    /// `[batch, time, d_model]`
    x: Tensor<3>,
}

impl Encoder {
    fn new(kind: Kind, shape: [usize; 3], heads: usize, device: &Device) -> Self {
        let device = placed(kind, device);
        let [_, _, width] = shape;
        let ours = block(width, heads).init(&device);
        Self {
            kind,
            burn_nn: burn_nn(&ours, heads, &device),
            ours,
            x: Tensor::random(shape, NORMAL, &device),
            device,
        }
    }

    /// The same weights with an activation that both differentiate alike and that has no kink, at which they would
    /// differ by rounding alone.
    fn with_gelu_tanh(&self) -> Self {
        let (mut ours, mut burn_nn) = (self.ours.clone(), self.burn_nn.clone());
        if let Mlp::Dense(feed_forward) = &mut ours.feed_forward {
            feed_forward.activation = seq_transformer::Activation::GeluTanh;
        }
        burn_nn.pwff.activation = ActivationConfig::GeluApproximate.init(&self.device);
        Self {
            kind: self.kind,
            device: self.device.clone(),
            x: self.x.clone(),
            ours,
            burn_nn,
        }
    }

    fn run(&self) -> Tensor<3> {
        self.ours.encode(self.x.clone(), &AttentionMask::default())
    }

    fn run_burn_nn(&self) -> Tensor<3> {
        self.burn_nn.forward(self.x.clone(), None, None)
    }

    fn end(&self, y: Tensor<3>) {
        if self.kind == Kind::Train {
            drop(y.sum().backward());
        }
        finish(&self.device);
    }

    /// Of whichever of the two the output was.
    fn gradients(&self, gradients: &Gradients) -> Named {
        let linears = [ours_linears(&self.ours), burn_nn_linears(&self.burn_nn)];
        let norms = [ours_norms(&self.ours), burn_nn_norms(&self.burn_nn)];
        let linears = linears.into_iter().flatten().filter_map(|(name, linear)| {
            let weight = flat(&linear.weight.val(), gradients)?;
            let bias = linear.bias.as_ref().expect("a layer with biases");
            // In one, as the keys' bias has no gradient but rounding.
            let both = vec![weight, flat(&bias.val(), gradients)?];
            Some((name.to_owned(), Tensor::cat(both, 0)))
        });
        let norms = norms.into_iter().flatten().filter_map(|(name, norm)| {
            let [gamma, beta] = norm;
            let both = vec![
                flat(&gamma.val(), gradients)?,
                flat(&beta.val(), gradients)?,
            ];
            Some((name.to_owned(), Tensor::cat(both, 0)))
        });
        linears.chain(norms).collect()
    }
}

impl Workload for Encoder {
    fn ours(&self) {
        self.end(self.run());
    }

    fn baseline(&self) {
        self.end(self.run_burn_nn());
    }

    fn num_params(&self) -> usize {
        self.ours.num_params()
    }

    fn check(&self) -> Result<Agreement, Disagreement> {
        let (ours, burn_nn) = (self.run(), self.run_burn_nn());
        let agreement =
            Agreement::default().compare("the output", ours.clone(), burn_nn.clone())?;
        match self.kind {
            Kind::Train => {
                // Burn's gradient of GELU is that of another function, the tanh form.
                let alike = self.with_gelu_tanh();
                let outputs = [alike.run(), alike.run_burn_nn()];
                compare(agreement, outputs, |gradients| alike.gradients(gradients))
            }
            Kind::Infer | Kind::Step => Ok(agreement),
        }
    }
}

fn ours_linears(layer: &TransformerBlock) -> [(&'static str, &Linear); 6] {
    let Mlp::Dense(feed_forward) = &layer.feed_forward else {
        unreachable!("the layer has no experts");
    };
    let attention = &layer.attention;
    [
        ("query", &attention.query),
        ("key", &attention.key),
        ("value", &attention.value),
        ("output", &attention.output),
        ("feed_forward.input", &feed_forward.input),
        ("feed_forward.output", &feed_forward.output),
    ]
}

fn burn_nn_linears(layer: &TransformerEncoderLayer) -> [(&'static str, &Linear); 6] {
    [
        ("query", &layer.mha.query),
        ("key", &layer.mha.key),
        ("value", &layer.mha.value),
        ("output", &layer.mha.output),
        ("feed_forward.input", &layer.pwff.linear_inner),
        ("feed_forward.output", &layer.pwff.linear_outer),
    ]
}

/// The scale and the bias of a norm.
type Norm<'a> = [&'a Param<Tensor<1>>; 2];

fn ours_norms(layer: &TransformerBlock) -> [(&'static str, Norm<'_>); 2] {
    [
        ("attention_norm", of_ours(&layer.attention_norm)),
        ("feed_forward_norm", of_ours(&layer.feed_forward_norm)),
    ]
}

fn of_ours(norm: &seq_core::blocks::Norm) -> Norm<'_> {
    match norm {
        seq_core::blocks::Norm::Layer(norm) => {
            [&norm.gamma, norm.beta.as_ref().expect("a norm with a bias")]
        }
        seq_core::blocks::Norm::Rms(_) => unreachable!("the layer has layer norms"),
    }
}

fn burn_nn_norms(layer: &TransformerEncoderLayer) -> [(&'static str, Norm<'_>); 2] {
    fn of(norm: &LayerNorm) -> Norm<'_> {
        [&norm.gamma, norm.beta.as_ref().expect("a norm with a bias")]
    }
    // Burn's names are those of norms that stand after.
    [
        ("attention_norm", of(&layer.norm_2)),
        ("feed_forward_norm", of(&layer.norm_1)),
    ]
}

/// Burn's module with the weights of `ours`; the norms of both begin alike.
fn burn_nn(ours: &TransformerBlock, heads: usize, device: &Device) -> TransformerEncoderLayer {
    let [
        (_, query),
        (_, key),
        (_, value),
        (_, output),
        (_, input),
        (_, leave),
    ] = ours_linears(ours).map(|(name, linear)| (name, copy(linear, device)));
    let width = query.weight.dims()[0];
    let config = TransformerEncoderConfig::new(width, input.weight.dims()[1], heads, 1)
        .with_dropout(0.0)
        .with_norm_first(true);
    let mut module = TransformerEncoderLayer::new(&config, device);
    (module.mha.query, module.mha.key) = (query, key);
    (module.mha.value, module.mha.output) = (value, output);
    (module.pwff.linear_inner, module.pwff.linear_outer) = (input, leave);
    module
}

/// Through plain data: contiguous, and leaves of their own for the gradients.
fn copy(linear: &Linear, device: &Device) -> Linear {
    Linear {
        weight: Param::from_data(linear.weight.val().into_data(), device),
        bias: linear
            .bias
            .as_ref()
            .map(|bias| Param::from_data(bias.val().into_data(), device)),
    }
}

struct Causal {
    device: Device,
    layer: TransformerBlock,
    /// `[1, time, d_model]`
    x: Tensor<3>,
}

impl Causal {
    fn new(time: usize, width: usize, heads: usize, device: &Device) -> Self {
        let device = placed(Kind::Infer, device);
        Self {
            layer: block(width, heads).init(&device),
            x: Tensor::random([1, time, width], NORMAL, &device),
            device,
        }
    }
}

impl Workload for Causal {
    fn ours(&self) {
        drop(self.layer.forward(self.x.clone(), None));
        finish(&self.device);
    }

    fn baseline(&self) {
        unreachable!("it is compared with itself under a mask");
    }

    fn num_params(&self) -> usize {
        self.layer.num_params()
    }

    /// With an encoder's layer under a mask.
    fn check(&self) -> Result<Agreement, Disagreement> {
        let [_, time, _] = self.x.dims();
        let time = time.min(COMPARED);
        let x = self.x.clone().narrow(1, 0, time);
        let mask = Tensor::<2, burn::tensor::Bool>::tril_mask([time, time], 0, &self.device);
        let mask = AttentionMask {
            mask: Some(mask.bool_not().unsqueeze()),
            ..Default::default()
        };
        let (y, _state) = self.layer.forward(x.clone(), None);
        Agreement::default().compare("the output", y, self.layer.encode(x, &mask))
    }
}

#[cfg(test)]
mod tests {
    use seq_core::BackendName;

    use super::*;

    #[test]
    fn ours_and_burns_agree_to_the_gradients() {
        for backend in BackendName::compiled() {
            for kind in [Kind::Infer, Kind::Train] {
                let encoder = Encoder::new(kind, [2, 5, 16], 4, &backend.device());
                if let Err(error) = encoder.check() {
                    panic!("the encoder's layer on {backend}: {error}");
                }
            }
            if let Err(error) = Causal::new(9, 16, 4, &backend.device()).check() {
                panic!("the causal layer on {backend}: {error}");
            }
        }
    }

    #[test]
    fn another_weight_is_a_disagreement() {
        let encoder = || Encoder::new(Kind::Train, [2, 5, 16], 4, &Device::default());
        let mut changed = encoder();
        let weight = &mut changed.burn_nn.pwff.linear_outer.weight;
        *weight = weight.clone().map(|weight| weight * 1.01);
        assert!(changed.check().is_err());
        let encoder = encoder();
        for y in [encoder.run(), encoder.run_burn_nn()] {
            // Six maps and two norms.
            assert_eq!(encoder.gradients(&y.sum().backward()).len(), 8);
        }
    }

    #[test]
    fn operations_are_counted_as_for_the_libraries_measured_beside() {
        let products = 2.0 * 512.0 * f64::from(4 * 512 * 512 + 2 * 512 * 2048);
        let attention = f64::from(4 * 512 * 512 * 512);
        let case = encoder(Kind::Infer, 1, 512);
        assert_eq!(case.flops, products + attention);
    }
}
