"""Makes feed_forward.json: what PyTorch 2.15 and transformers 5.23 (Apache-2.0) compute, with random weights.

    python feed_forward.py > feed_forward.json
"""

import json

import torch
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP
from transformers.models.mixtral.modeling_mixtral import (
    MixtralConfig,
    MixtralSparseMoeBlock,
    load_balancing_loss_func,
)
from transformers.activations import ACT2FN

torch.manual_seed(0)
torch.set_default_dtype(torch.float64)


def tensor(x):
    return {"shape": list(x.shape), "values": x.detach().flatten().tolist()}


def activations():
    x = torch.cat([torch.linspace(-12, 12, 97), torch.tensor([-30.0, -1e-9, 1e-9, 40.0])])
    names = {"Relu": "relu", "Gelu": "gelu", "GeluTanh": "gelu_new", "Silu": "silu"}
    cases = {}
    for ours, theirs in names.items():
        leaf = x.clone().requires_grad_()
        y = ACT2FN[theirs](leaf)
        (gradient,) = torch.autograd.grad(y.sum(), leaf)
        cases[ours] = {"y": tensor(y), "gradient": tensor(gradient)}
    return {"x": tensor(x), "of": cases}


def encoder():
    layer = torch.nn.TransformerEncoderLayer(4, 2, dim_feedforward=7, activation="gelu", dropout=0.0)
    x = torch.randn(2, 3, 4, requires_grad=True)
    y = layer.linear2(layer.dropout(layer.activation(layer.linear1(x))))
    probe = torch.randn_like(y)
    (y * probe).sum().backward()
    return {
        "x": tensor(x),
        "y": tensor(y),
        "probe": tensor(probe),
        "gradient": tensor(x.grad),
        "input": tensor(layer.linear1.weight),
        "input_bias": tensor(layer.linear1.bias),
        "output": tensor(layer.linear2.weight),
        "output_bias": tensor(layer.linear2.bias),
    }


def llama():
    layer = LlamaMLP(LlamaConfig(hidden_size=4, intermediate_size=7, num_attention_heads=2, hidden_act="silu"))
    x = torch.randn(2, 3, 4, requires_grad=True)
    y = layer(x)
    probe = torch.randn_like(y)
    (y * probe).sum().backward()
    return {
        "x": tensor(x),
        "y": tensor(y),
        "probe": tensor(probe),
        "gradient": tensor(x.grad),
        "input": tensor(layer.up_proj.weight),
        "gate": tensor(layer.gate_proj.weight),
        "output": tensor(layer.down_proj.weight),
    }


def mixtral():
    config = MixtralConfig(
        hidden_size=4,
        intermediate_size=6,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=5,
        num_experts_per_tok=2,
        hidden_act="silu",
    )
    layer = MixtralSparseMoeBlock(config)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    x = torch.randn(2, 6, 4, requires_grad=True)
    lengths = [6, 4]
    mask = torch.tensor([[float(t < n) for t in range(6)] for n in lengths])
    y = layer(x)
    logits, _, _ = layer.gate(x)
    balance = load_balancing_loss_func((logits,), 5, 2)
    masked = load_balancing_loss_func((logits,), 5, 2, mask)
    probe = torch.randn_like(y)
    router, experts = layer.gate.weight, layer.experts
    gradients = torch.autograd.grad(
        (y * probe).sum() + balance, [x, router, experts.down_proj], retain_graph=True
    )
    (masked_gradient,) = torch.autograd.grad(masked, [router])
    gate, up = experts.gate_up_proj.chunk(2, dim=1)
    return {
        "x": tensor(x),
        "y": tensor(y),
        "probe": tensor(probe),
        "lengths": lengths,
        "balance": balance.item(),
        "masked_balance": masked.item(),
        "x_gradient": tensor(gradients[0]),
        "router_gradient": tensor(gradients[1]),
        "output_gradient": tensor(gradients[2]),
        "masked_router_gradient": tensor(masked_gradient),
        "router": tensor(router),
        "gate": tensor(gate),
        "input": tensor(up),
        "output": tensor(experts.down_proj),
    }


print(
    json.dumps(
        {
            "source": "PyTorch 2.15.0 (BSD-3-Clause), transformers 5.23 (Apache-2.0); made by feed_forward.py",
            "activations": activations(),
            "encoder": encoder(),
            "llama": llama(),
            "mixtral": mixtral(),
        }
    )
)
