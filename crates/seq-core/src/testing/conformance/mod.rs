mod gradients;
mod kernels;
mod leaves;
mod padding;
mod saving;
mod sequence;
mod trial;

use std::sync::Mutex;

use burn::tensor::{DType, Device, Tensor};
use proptest::test_runner::{Config, RngSeed, TestCaseError, TestRunner};

use super::{backends, first_device, float_types, guarded};
use crate::{Lengths, SequenceLayer};
use leaves::{Parameters, Prepare};
use trial::{Limits, Sizes, Trial};

/// The laws that every [`SequenceLayer`] obeys, checked on layers of many sizes.
///
/// Each law runs on the [backends](crate::testing), in f32 and, where the device computes in it, in f64
/// (the finite differences in f64 alone). Sizes and values are drawn by proptest from a fixed seed;
/// `PROPTEST_RNG_SEED` takes another one. Parameters are moved away from their initial values a
/// little, so that none is a plain zero or one, and dropout is off.
///
/// Two results agree when they differ by at most 3e-5 (f32) or 3e-13 (f64) of one plus the largest
/// value of the tensor, gradients by at most ten times as much. Measured on the LSTM are 4e-6 and
/// 1e-14, for gradients 2e-5 and 6e-14; where few values are normalised 1e-5 and 1e-4 (f32).
///
/// ```no_run
/// # use burn::tensor::Device;
/// # use seq_core::SequenceLayer;
/// use seq_core::testing::Conformance;
///
/// /// `make` gives a layer whose widths follow from one small number.
/// fn check<L: SequenceLayer + 'static>(make: fn(usize, &Device) -> L) {
///     Conformance::new(make).check();
/// }
/// ```
pub struct Conformance<L: SequenceLayer> {
    make: Box<Make<L>>,
    reference: Option<Box<Body<L>>>,
    cases: u32,
}

type Make<L> = dyn Fn(usize, &Device) -> L;

/// What `forward` and `forward_padded` compute.
type Body<L> = dyn Fn(
    &L,
    Tensor<3>,
    Option<&Lengths>,
    <L as SequenceLayer>::State,
) -> (Tensor<3>, <L as SequenceLayer>::State);

/// The generators of random numbers are global, so layers are made one at a time.
static MAKING: Mutex<()> = Mutex::new(());

impl<L: SequenceLayer> Conformance<L> {
    /// Checks the layers that `make` gives for a small number, 1 or more, which is to set their
    /// widths, and a device.
    pub fn new(make: impl Fn(usize, &Device) -> L + 'static) -> Self {
        Self {
            make: Box::new(make),
            reference: None,
            cases: 4,
        }
    }

    /// Compares the layer with `body` too, its specification in plain tensor operations.
    pub fn with_reference(
        mut self,
        body: impl Fn(&L, Tensor<3>, Option<&Lengths>, L::State) -> (Tensor<3>, L::State) + 'static,
    ) -> Self {
        self.reference = Some(Box::new(body));
        self
    }

    /// How many random sizes to try a law, beside the fixed ones. Four by default.
    pub fn with_cases(mut self, cases: u32) -> Self {
        self.cases = cases;
        self
    }

    /// Checks all laws.
    ///
    /// # Panics
    ///
    /// When a law is broken, saying which and how.
    pub fn check(&self) {
        self.streaming();
        self.causality();
        self.check_whole();
    }

    /// Checks the laws of a layer that needs the whole sequence at once, which has no `step` and is
    /// not causal: all but [`streaming`](Self::streaming) and [`causality`](Self::causality).
    ///
    /// # Panics
    ///
    /// When a law is broken, saying which and how.
    pub fn check_whole(&self) {
        self.padding();
        self.gradients();
        self.kernels();
        self.state();
        self.saving();
    }

    /// Law 1: `forward` gives what `step` repeated gives, and what `forward` over any split into
    /// chunks gives, outputs and last state. To begin without a state is to begin at the initial
    /// one, to the bit.
    ///
    /// # Panics
    ///
    /// When the law is broken.
    pub fn streaming(&self) {
        self.everywhere(
            "streaming",
            Limits {
                batch: 3,
                time: 12,
                width: 18,
            },
            sequence::streaming,
        );
    }

    /// Law 2: a padded batch gives each sequence what it gets alone: outputs, state and gradients.
    /// Lengths are unsorted, with the full one, one and zero among them. Padding gives zeros and
    /// gets a zero gradient, and NaN in it changes no bit of anything.
    ///
    /// # Panics
    ///
    /// When the law is broken.
    pub fn padding(&self) {
        self.everywhere(
            "padding",
            Limits {
                batch: 5,
                time: 7,
                width: 6,
            },
            padding::padding,
        );
    }

    /// Law 3: changing `x[t..]` leaves `y[..t]` as it was, to the bit.
    ///
    /// # Panics
    ///
    /// When the law is broken.
    pub fn causality(&self) {
        self.everywhere(
            "causality",
            Limits {
                batch: 3,
                time: 12,
                width: 18,
            },
            sequence::causality,
        );
    }

    /// Law 4: gradients through the output and the last state, with respect to the input, every
    /// parameter and the initial state, agree with central differences in f64 along a random
    /// direction of each tensor, with and without padding.
    ///
    /// The differences are of fourth order, over 1e-5 and 2e-5 to either side, and have to agree to
    /// 1e-7 of one plus the slope. Where they do not, shorter ones are tried, so a layer may have
    /// kinks as long as it does not sit on one.
    ///
    /// # Panics
    ///
    /// When the law is broken.
    pub fn gradients(&self) {
        self.everywhere(
            "gradients",
            Limits {
                batch: 2,
                time: 5,
                width: 4,
            },
            gradients::differences,
        );
    }

    /// Law 5: outputs, last state and all gradients are the same on every backend, for contiguous
    /// and for strided inputs, states, parameters and output gradients, with autodiff and without,
    /// and by the reference body if there is one.
    ///
    /// # Panics
    ///
    /// When the law is broken.
    pub fn kernels(&self) {
        let first = first_device();
        self.everywhere(
            "kernels",
            Limits {
                batch: 5,
                time: 7,
                width: 20,
            },
            |trial| {
                let base = Trial::new(self, trial.sizes, &first, trial.dtype);
                kernels::agreement(&base, trial, self.reference.as_deref())
            },
        );
    }

    /// Law 6: a state saved to bytes and restored goes on to the bit as if nothing had happened; a
    /// record stays what it was while the state goes on; rows selected from a state are those
    /// sequences' states, and joined again they are the whole one; bytes that are not a state of the
    /// layer give errors.
    ///
    /// # Panics
    ///
    /// When the law is broken.
    pub fn state(&self) {
        self.everywhere(
            "state",
            Limits {
                batch: 4,
                time: 5,
                width: 6,
            },
            saving::state,
        );
    }

    /// Law 7: a module saved, to bytes and to a file, and loaded into a fresh one gives the same
    /// outputs, to the bit.
    ///
    /// # Panics
    ///
    /// When the law is broken.
    pub fn saving(&self) {
        self.everywhere(
            "saving",
            Limits {
                batch: 2,
                time: 5,
                width: 6,
            },
            |trial| {
                saving::module(trial, |seed| {
                    self.layer(trial.sizes.width, seed, &trial.device, trial.dtype)
                })
            },
        );
    }

    /// Checks a law for fixed corner cases and random sizes, on every backend and in every type.
    fn everywhere(
        &self,
        law: &str,
        limits: Limits,
        check: impl Fn(&Trial<L>) -> Result<(), String>,
    ) {
        let check = |sizes: Sizes| {
            for backend in backends() {
                let device = backend.device();
                for dtype in float_types(backend) {
                    guarded(|| check(&Trial::new(self, sizes, &device, dtype))).map_err(
                        |what| {
                            format!("the law of {law} is broken on {backend} in {dtype:?}: {what}")
                        },
                    )?;
                }
            }
            Ok::<_, String>(())
        };
        for sizes in Sizes::corners(limits) {
            check(sizes).unwrap_or_else(|what| panic!("{what}\nwith {sizes:?}"));
        }
        let mut config = Config {
            cases: self.cases,
            failure_persistence: None,
            ..Config::default()
        };
        config.max_shrink_iters = 16;
        if config.rng_seed == RngSeed::Random {
            config.rng_seed = RngSeed::Fixed(1);
        }
        let result = TestRunner::new(config).run(&Sizes::any(limits), |sizes| {
            check(sizes).map_err(TestCaseError::fail)
        });
        if let Err(error) = result {
            panic!("{error}");
        }
    }

    /// A layer with autodiff, the same for the same arguments.
    fn layer(&self, width: usize, seed: u64, device: &Device, dtype: DType) -> L {
        let device = device.clone().autodiff();
        // A broken layer may have panicked in here: the lock guards nothing that could be damaged.
        let turn = MAKING
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        device.seed(seed);
        let layer =
            (self.make)(width, &device).map(&mut Parameters::new(&mut Prepare::new(seed, dtype)));
        drop(turn);
        layer
    }
}
