"""Writes the PyTorch files of the recurrent architectures' tests. Made with PyTorch 2.15:
`python gen_recurrent.py`.

Each file has a module's state dict below `model.rnn`, and what the module gives: `input` and `output`
batch first, `h_0`, `h_n`, and `c_0`, `c_n` of the LSTM.
"""

from pathlib import Path

import torch
from torch import nn

CRATES = Path(__file__).parents[3]


def save(file, module, **tensors):
    weights = {f"model.rnn.{key}": value for key, value in module.state_dict().items()}
    tensors = {key: value.detach().contiguous() for key, value in tensors.items()}
    torch.save(weights | tensors, CRATES / file)


def run(file, module, x, before):
    """Saves what `module` gives for the states `before`, h_0 and perhaps c_0."""
    lone = len(before) == 1
    answer = module(x, before[0] if lone else before)
    cell = isinstance(module, nn.RNNCellBase)
    after = answer if cell else answer[1]
    states = zip("hc", before, [after] if lone else after)
    named = {f"{name}_{when}": value for name, *both in states for when, value in zip("0n", both)}
    save(file, module, input=x, **named, **({} if cell else {"output": answer[0]}))


def layer(file, kind, **options):
    module = kind(3, 4, num_layers=2, bidirectional=True, batch_first=True, **options)
    before = [torch.randn(4, 2, options.get("proj_size") or 4)]
    if kind is nn.LSTM:
        before.append(torch.randn(4, 2, 4))
    run(file, module, torch.randn(2, 5, 3), before)


def cell(file, kind):
    module = kind(3, 4)
    before = [torch.randn(2, 4) for _ in range(2 if kind is nn.LSTMCell else 1)]
    run(file, module, torch.randn(2, 3), before)


torch.manual_seed(20)
layer("lstm/tests/checkpoint/lstm.pt", nn.LSTM)
layer("lstm/tests/checkpoint/lstm_projection.pt", nn.LSTM, proj_size=2, bias=False)
cell("lstm/tests/checkpoint/cell.pt", nn.LSTMCell)
layer("gru/tests/checkpoint/gru.pt", nn.GRU)
layer("gru/tests/checkpoint/gru_no_bias.pt", nn.GRU, bias=False)
cell("gru/tests/checkpoint/cell.pt", nn.GRUCell)
layer("rnn/tests/checkpoint/rnn.pt", nn.RNN)
layer("rnn/tests/checkpoint/rnn_relu_no_bias.pt", nn.RNN, nonlinearity="relu", bias=False)
cell("rnn/tests/checkpoint/cell.pt", nn.RNNCell)
