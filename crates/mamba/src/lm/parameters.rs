//! The parameters of the layers by the names of the reference code and of Hugging Face, which are the same.

use seq_core::checkpoint::{Parameters, Stored};

use super::Mixer;
use crate::{Mamba, Mamba2, Mamba3};

/// Adds the parameters of a layer, whose names begin with `prefix`.
pub(super) fn add<'a>(all: &mut Parameters<'a>, prefix: &str, mixer: &'a mut Mixer) {
    match mixer {
        Mixer::Mamba(layer) => mamba(all, prefix, layer),
        Mixer::Mamba2(layer) => mamba2(all, prefix, layer),
        Mixer::Mamba3(layer) => mamba3(all, prefix, layer),
    }
}

fn mamba<'a>(all: &mut Parameters<'a>, prefix: &str, layer: &'a mut Mamba) {
    let name = |name: &str| format!("{prefix}.{name}");
    all.linear(&name("in_proj"), &mut layer.in_proj);
    all.push(name("conv1d.weight"), Stored::Taps(&mut layer.conv_weight));
    all.bias(&name("conv1d"), layer.conv_bias.as_mut());
    all.linear(&name("x_proj"), &mut layer.x_proj);
    all.linear(&name("dt_proj"), &mut layer.dt_proj);
    all.push(name("A_log"), Stored::Matrix(&mut layer.a_log));
    all.push(name("D"), Stored::Vector(&mut layer.d));
    all.linear(&name("out_proj"), &mut layer.out_proj);
}

fn mamba2<'a>(all: &mut Parameters<'a>, prefix: &str, layer: &'a mut Mamba2) {
    let name = |name: &str| format!("{prefix}.{name}");
    all.linear(&name("in_proj"), &mut layer.in_proj);
    all.push(name("conv1d.weight"), Stored::Taps(&mut layer.conv_weight));
    all.bias(&name("conv1d"), layer.conv_bias.as_mut());
    all.push(name("dt_bias"), Stored::Vector(&mut layer.dt_bias));
    all.push(name("A_log"), Stored::Vector(&mut layer.a_log));
    all.push(name("D"), Stored::Flat(&mut layer.d));
    if let Some(weight) = &mut layer.norm_weight {
        all.push(name("norm.weight"), Stored::Vector(weight));
    }
    all.linear(&name("out_proj"), &mut layer.out_proj);
}

fn mamba3<'a>(all: &mut Parameters<'a>, prefix: &str, layer: &'a mut Mamba3) {
    let name = |name: &str| format!("{prefix}.{name}");
    all.linear(&name("in_proj"), &mut layer.in_proj);
    all.push(name("dt_bias"), Stored::Vector(&mut layer.dt_bias));
    all.push(name("B_bias"), Stored::Taps(&mut layer.b_bias));
    all.push(name("C_bias"), Stored::Taps(&mut layer.c_bias));
    let norms = [
        ("B_norm.weight", &mut layer.b_norm_weight),
        ("C_norm.weight", &mut layer.c_norm_weight),
    ];
    for (norm, weight) in norms {
        all.push(name(norm), Stored::Vector(weight));
    }
    all.push(name("D"), Stored::Vector(&mut layer.d));
    if let Some(weight) = &mut layer.norm_weight {
        all.push(name("norm.weight"), Stored::Vector(weight));
    }
    all.linear(&name("out_proj"), &mut layer.out_proj);
}
