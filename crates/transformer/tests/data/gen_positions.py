"""Writes the files of numbers here: what Hugging Face transformers 5.23.0 (torch 2.15.0) answers."""

import json

import torch
from transformers import GPTNeoXConfig, LlamaConfig
from transformers.models.bloom.modeling_bloom import build_alibi_tensor
from transformers.models.gpt_neox import modeling_gpt_neox as neox
from transformers.models.gptj import modeling_gptj as gptj
from transformers.models.llama import modeling_llama as llama

D_HEAD, TIME, OFFSETS = 16, 3, [0, 37]
YARN = {
    "factor": 4.0,
    "original_max_positions": 64,
    "attention_factor": None,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": None,
    "mscale_all_dim": None,
    "truncate": True,
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_positions": 8192}
KINDS = {"Linear": "linear", "DynamicNtk": "dynamic", "Yarn": "yarn", "Llama3": "llama3"}

CASES = {
    "plain": {},
    "interleaved": {"interleaved": True, "d_rotary": 8},
    "partial": {"d_rotary": 4},
    "base": {"base": 500000.0},
    "linear": {"scaling": {"Linear": {"factor": 2.5}}},
    "dynamic_short": {"scaling": {"DynamicNtk": {"factor": 2.0, "max_positions": 64}}},
    "dynamic_long": {"scaling": {"DynamicNtk": {"factor": 2.0, "max_positions": 16}}},
    "yarn": {"scaling": {"Yarn": YARN}},
    "yarn_partial": {"d_rotary": 12, "scaling": {"Yarn": YARN | {"beta_fast": 8.0, "beta_slow": 2.0}}},
    "yarn_ramp_of_no_length": {"scaling": {"Yarn": YARN | {"original_max_positions": 6}}},
    "yarn_attention_factor": {"scaling": {"Yarn": YARN | {"attention_factor": 0.7, "truncate": False}}},
    "yarn_mscale": {"scaling": {"Yarn": YARN | {"mscale": 1.0, "mscale_all_dim": 0.5}}},
    "llama3": {"base": 500000.0, "scaling": {"Llama3": LLAMA3}},
    "llama3_partial": {"d_rotary": 10, "scaling": {"Llama3": LLAMA3 | {"original_max_positions": 1024}}},
}


def rope_parameters(config):
    parameters = {"rope_type": "default", "rope_theta": config["base"]}
    if config["d_rotary"] is not None:
        parameters["partial_rotary_factor"] = config["d_rotary"] / D_HEAD
    for kind, options in (config["scaling"] or {}).items():
        parameters["rope_type"] = KINDS[kind]
        for name, value in options.items():
            if name == "original_max_positions":
                parameters["original_max_position_embeddings"] = value
            elif name != "max_positions" and value is not None:
                parameters[name] = value
    return parameters


def case(name, options):
    config = {"d_head": D_HEAD, "base": 10000.0, "d_rotary": None, "interleaved": False, "scaling": None} | options
    scaling = config["scaling"] or {}
    sizes = {
        "hidden_size": D_HEAD,
        "num_attention_heads": 1,
        "max_position_embeddings": scaling.get("DynamicNtk", {}).get("max_positions", 256),
        "rope_parameters": rope_parameters(config),
    }
    if config["d_rotary"] is None:
        embedding = llama.LlamaRotaryEmbedding(LlamaConfig(**sizes, head_dim=D_HEAD))
    else:
        embedding = neox.GPTNeoXRotaryEmbedding(GPTNeoXConfig(**sizes))
    x = (torch.rand(2, TIME, 1, D_HEAD, dtype=torch.float64) * 2 - 1).mul(1000).round().div(1000)
    positions = torch.tensor([[offset + t for t in range(TIME)] for offset in OFFSETS])
    cos, sin = embedding(x, positions)
    pairs = embedding.inv_freq.numel()
    cos, sin = cos.double(), sin.double()
    if config["interleaved"]:
        turned = x[..., : 2 * pairs]
        turned = gptj.apply_rotary_pos_emb(turned, sin[..., :pairs], cos[..., :pairs])
        y = torch.cat([turned, x[..., 2 * pairs :]], -1)
    else:
        y, _ = neox.apply_rotary_pos_emb(x, x, cos, sin, unsqueeze_dim=2)
    numbers = lambda tensor: [float(f"{value:.9g}") for value in tensor.flatten().tolist()]
    return {
        "name": name,
        "config": config,
        "offsets": OFFSETS,
        "length": max(OFFSETS) + TIME,
        "frequencies": numbers(embedding.inv_freq),
        "attention_factor": embedding.attention_scaling,
        "cos": numbers(cos[..., :pairs]),
        "sin": numbers(sin[..., :pairs]),
        "shape": list(x.shape),
        "x": numbers(x),
        "y": numbers(y),
    }


def alibi(heads):
    biases = build_alibi_tensor(torch.ones(1, 2), heads, torch.float32)
    return {"heads": heads, "slopes": biases[:, 0, 1].tolist()}


def sinusoids(positions, width):
    halves = gptj.create_sinusoidal_positions(positions, width)
    table = torch.stack(halves.chunk(2, dim=1), dim=-1).flatten()
    return {"shape": [positions, width], "table": table.tolist()}


def write(name, value):
    lines = ",\n".join(json.dumps(entry) for entry in value)
    open(name, "w").write(f"[\n{lines}\n]\n")


torch.manual_seed(1)
write("rotary.json", [case(name, options) for name, options in CASES.items()])
write("alibi.json", [alibi(heads) for heads in [1, 2, 3, 6, 8, 12, 20, 64, 112]])
write("sinusoidal.json", [sinusoids(5, 2), sinusoids(7, 12)])
