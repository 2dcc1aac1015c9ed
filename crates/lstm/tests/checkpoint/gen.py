"""Writes the PyTorch files beside it. Made with PyTorch 2.15: `python gen.py`.

Each file has a module's state dict below `model.rnn`, and what the module gives: `input` and `output`
batch first, `h_0`, `c_0`, `h_n`, `c_n`.
"""

from pathlib import Path

import torch

HERE = Path(__file__).parent
torch.manual_seed(20)


def save(name, module, **tensors):
    weights = {f"model.rnn.{key}": value for key, value in module.state_dict().items()}
    torch.save(weights | {key: value.detach().contiguous() for key, value in tensors.items()}, HERE / name)


def save_lstm(name, **options):
    lstm = torch.nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True, **options)
    h_0 = torch.randn(4, 2, options.get("proj_size") or 4)
    c_0 = torch.randn(4, 2, 4)
    x = torch.randn(2, 5, 3)
    y, (h_n, c_n) = lstm(x, (h_0, c_0))
    save(name, lstm, input=x, output=y, h_0=h_0, c_0=c_0, h_n=h_n, c_n=c_n)


save_lstm("lstm.pt")
save_lstm("lstm_projection.pt", proj_size=2, bias=False)

cell = torch.nn.LSTMCell(3, 4)
h_0, c_0 = torch.randn(2, 4), torch.randn(2, 4)
x = torch.randn(2, 3)
h_n, c_n = cell(x, (h_0, c_0))
save("cell.pt", cell, input=x, h_0=h_0, c_0=c_0, h_n=h_n, c_n=c_n)
