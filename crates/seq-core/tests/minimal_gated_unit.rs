//! What an architecture has to bring to the recurrent kit, and that the rest follows: the minimal gated
//! unit (Zhou et al. 2016, <https://arxiv.org/abs/1603.09420>), its forget gate behind the product.
#![cfg(all(feature = "testing", any(feature = "ndarray", feature = "flex")))]

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use seq_core::cpu::{Real, Simd};
use seq_core::recurrent::{
    Activation, Backward, Cell, CellWeights, Forward, Fused, HiddenState, LayerOptions, Recurrence,
    RecurrentCell, RecurrentConfig, State, Taken, WeightsConfig,
};
use seq_core::testing::recurrent::{conformance, kernels};
use seq_core::{ConfigError, Lengths};

#[derive(Clone, Copy)]
struct MguConfig(LayerOptions);

impl RecurrentConfig for MguConfig {
    type Cell = MguCell;

    fn options(&self) -> LayerOptions {
        self.0
    }

    fn fresh_cell(&self, d_input: usize, _: bool, device: &Device) -> MguCell {
        let weights = WeightsConfig::new(&[1, 1], d_input, self.0.d_between).init(device);
        MguCell { weights }
    }

    fn validate(&self) -> Result<(), ConfigError> {
        self.0.validate()?;
        ConfigError::sizes([("d_hidden", self.0.d_between)])
    }
}

/// The two blocks of rows are the gate and the candidate.
#[derive(Module, Debug)]
struct MguCell {
    weights: CellWeights,
}

impl RecurrentCell for MguCell {
    type State = HiddenState;

    fn weights(&self) -> &CellWeights {
        &self.weights
    }

    fn stepper(&self, batch: usize) -> impl Fn(Tensor<2>, HiddenState) -> HiddenState {
        let product = self.weights.recurrent(batch);
        move |x, HiddenState { hidden }| {
            let [f_x, n_x] = x.chunk(2, 1).try_into().unwrap();
            let [f_h, n_h] = product.all(hidden.clone()).chunk(2, 1).try_into().unwrap();
            let f = Activation::Sigmoid.forward(f_x + f_h);
            let n = (n_x + f.clone() * n_h).tanh();
            HiddenState {
                hidden: hidden.clone() * (-f.clone() + 1.0) + f * n,
            }
        }
    }

    fn fused(&self, layer: Recurrence, lengths: Option<&Lengths>, reverse: bool) -> Fused {
        layer.run(MguKernel, lengths, reverse)
    }
}

#[derive(Debug, Clone)]
struct MguKernel;

/// The slots are the candidate's input product, the gate, and the candidate's recurrent product.
impl Cell<3, 2, 2, 0> for MguKernel {
    const MEMORY: bool = false;
    const INPUT: [usize; 2] = [1, 0];
    const RECURRENT: [usize; 2] = [0, 1];

    #[inline(always)]
    fn forward<R: Real, S: Simd>(
        &self,
        s: S,
        [n_x, f, n_h]: [R::V<S>; 3],
        _: [R::V<S>; 0],
        before: State<R::V<S>>,
    ) -> Forward<R::V<S>, 3> {
        let f = R::sigmoid(s, f);
        let n = R::tanh(s, R::mul_add(s, f, n_h, n_x));
        let hidden = R::mul_add(s, f, R::vsub(s, n, before.hidden), before.hidden);
        Forward {
            state: State { hidden, ..before },
            kept: [n, f, n_h],
        }
    }

    #[inline(always)]
    fn backward<R: Real, S: Simd>(
        &self,
        s: S,
        step: Taken<R::V<S>, 3>,
        _: [R::V<S>; 0],
        gradient: State<R::V<S>>,
    ) -> Backward<R::V<S>, 3, 0> {
        let ([n, f, n_h], d_h) = (step.kept, gradient.hidden);
        let one = R::splat(s, R::ONE);
        let d_n = R::vmul(s, R::vmul(s, d_h, f), R::neg_mul_add(s, n, n, one));
        let through_n = R::vmul(s, d_n, n_h);
        let d_f = R::mul_add(s, d_h, R::vsub(s, n, step.before.hidden), through_n);
        Backward {
            sums: [
                d_n,
                R::vmul(s, d_f, R::neg_mul_add(s, f, f, f)),
                R::vmul(s, d_n, f),
            ],
            weights: [],
            before: State {
                hidden: R::neg_mul_add(s, d_h, f, d_h),
                ..gradient
            },
        }
    }
}

#[test]
fn it_obeys_the_laws_of_a_sequence_layer() {
    conformance(|d_input, d_hidden| MguConfig(LayerOptions::new(d_input, d_hidden))).check();
}

#[test]
fn layers_over_one_another_read_both_ways() {
    let options = |d_input, d_hidden| LayerOptions {
        num_layers: 2,
        bidirectional: true,
        ..LayerOptions::new(d_input, d_hidden)
    };
    conformance(move |d_input, d_hidden| MguConfig(options(d_input, d_hidden))).check_whole();
}

#[test]
fn it_runs_by_the_fused_kernel() {
    let config = MguConfig(LayerOptions::new(5, 20));
    kernels::fused_are([config], []);
    kernels::changed_weights_are_packed_again(&config);
    kernels::an_empty_batch_has_gradients_of_zero(&config);
}
