//! Causal attention alone, beside Burn's own function.

use burn::tensor::module::attention;
use burn::tensor::ops::AttentionModuleOptions;
use burn::tensor::{Device, Gradients, Tensor};
use seq_transformer::Attention;

use super::{attention_flops, finish};
use crate::kind::{Kind, NORMAL, Named, build, compare, flat, leaf, placed};
use crate::{Agreement, Case, Disagreement, Profile, Workload};

const HEADS: usize = 8;
const D_HEAD: usize = 64;

/// The longest that Burn's, which stores all scores, is timed at.
const BESIDE: usize = 2048;

/// How many steps are compared.
const COMPARED: usize = 512;

pub fn cases(profile: Profile) -> Vec<Case> {
    let (infer, train) = match profile {
        Profile::Quick => (&[512, 2048, 8192][..], &[512, 2048][..]),
        Profile::Full => (&[512, 2048, 8192, 32768][..], &[512, 2048, 8192][..]),
    };
    let infer = infer.iter().map(|&time| case(Kind::Infer, time));
    let train = train.iter().map(|&time| case(Kind::Train, time));
    infer.chain(train).collect()
}

fn case(kind: Kind, time: usize) -> Case {
    let name = match kind {
        Kind::Train => "train",
        Kind::Infer | Kind::Step => "causal",
    };
    let steps = time as f64;
    Case {
        name: format!("sdpa_{name}/B1_H{HEADS}_T{time}_D{D_HEAD}"),
        // A query sees half of the keys, on average.
        flops: attention_flops(steps, steps / 2.0, HEADS * D_HEAD, kind == Kind::Train),
        steps: 1,
        scaling: false,
        checked: true,
        reads: 0.0,
        inputs: (time >= 8192).then_some(3 * time * HEADS * D_HEAD * size_of::<f32>()),
        baseline: (time <= BESIDE).then_some("burn"),
        build: build(move |device| Causal::new(kind, time, device)),
    }
}

struct Causal {
    kind: Kind,
    device: Device,
    /// Query, key and value, `[1, time, HEADS, D_HEAD]`.
    ours: [Tensor<4>; 3],
    /// The same `[1, HEADS, time, D_HEAD]`, as Burn's function takes them, where it is timed.
    burn: Option<[Tensor<4>; 3]>,
}

impl Causal {
    fn new(kind: Kind, time: usize, device: &Device) -> Self {
        let device = placed(kind, device);
        let ours = [(); 3].map(|()| leaf([1, time, HEADS, D_HEAD], NORMAL, kind, &device));
        let swapped = |x: &Tensor<4>| {
            // A copy through plain data is contiguous and a leaf of its own for the gradients.
            let x = Tensor::from_data(x.clone().swap_dims(1, 2).into_data(), &device);
            match kind {
                Kind::Train => x.require_grad(),
                Kind::Infer | Kind::Step => x,
            }
        };
        Self {
            kind,
            burn: (time <= BESIDE).then(|| ours.each_ref().map(swapped)),
            ours,
            device,
        }
    }

    fn run(&self) -> Tensor<4> {
        let [query, key, value] = self.ours.clone();
        let attention = Attention {
            causal: true,
            ..Attention::new(query, key, value)
        };
        attention.run()
    }

    fn run_burn(&self) -> Tensor<4> {
        let [query, key, value] = self.burn.clone().expect("no longer than `BESIDE`");
        let options = AttentionModuleOptions {
            is_causal: true,
            ..Default::default()
        };
        attention(query, key, value, None, None, options)
    }

    /// Of whichever of the two the output was.
    fn gradients(&self, gradients: &Gradients) -> Named {
        let named = |i: usize, x: Option<Tensor<1>>| {
            let name = ["the query", "the key", "the value"][i];
            Some((name.to_owned(), x?))
        };
        let ours = self.ours.iter().enumerate();
        let ours = ours.filter_map(|(i, x)| named(i, flat(x, gradients)));
        let burn = self.burn.iter().flatten().enumerate();
        let burn = burn.filter_map(|(i, x)| {
            let gradient = x.grad(gradients)?.swap_dims(1, 2).reshape([-1]);
            named(i, Some(gradient))
        });
        ours.chain(burn).collect()
    }

    fn end(&self, y: Tensor<4>) {
        if self.kind == Kind::Train {
            drop(y.sum().backward());
        }
        finish(&self.device);
    }
}

impl Workload for Causal {
    fn ours(&self) {
        self.end(self.run());
    }

    fn baseline(&self) {
        self.end(self.run_burn());
    }

    fn num_params(&self) -> usize {
        0
    }

    fn check(&self) -> Result<Agreement, Disagreement> {
        let [_, time, ..] = self.ours[0].dims();
        let short = Self::new(self.kind, time.min(COMPARED), &self.device);
        let outputs = [short.run(), short.run_burn().swap_dims(1, 2)];
        let [ours, burn] = outputs.clone();
        let agreement = Agreement::default().compare("the output", ours, burn)?;
        match self.kind {
            Kind::Train => compare(agreement, outputs, |gradients| short.gradients(gradients)),
            Kind::Infer | Kind::Step => Ok(agreement),
        }
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
                let causal = Causal::new(kind, 37, &backend.device());
                if let Err(error) = causal.check() {
                    panic!("attention on {backend}: {error}");
                }
            }
        }
    }

    #[test]
    fn all_gradients_are_compared() {
        let causal = Causal::new(Kind::Train, 3, &Device::default());
        for y in [causal.run(), causal.run_burn()] {
            let gradients = causal.gradients(&y.sum().backward());
            assert_eq!(gradients.len(), 3);
        }
    }

    #[test]
    fn operations_are_counted_as_for_the_libraries_measured_beside() {
        assert_eq!(case(Kind::Infer, 8192).flops, 2.0 * 512.0 * 8192.0 * 8192.0);
        assert_eq!(case(Kind::Train, 512).flops, 7.0 * 512.0 * 512.0 * 512.0);
    }
}
