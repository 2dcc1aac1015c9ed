"""Writes the PyTorch files beside it. Made with PyTorch 2.15: `python gen.py`.

Every weight is (i - n // 2) / 8, where i counts its n elements in row-major order: exact in 16 bits.
"""

from pathlib import Path

import torch

HERE = Path(__file__).parent


def fill(tensor):
    with torch.no_grad():
        n = tensor.numel()
        tensor.copy_(((torch.arange(n) - n // 2) / 8).reshape(tensor.shape))
    return tensor


def lstm():
    rnn = torch.nn.LSTM(3, 2)
    for parameter in rnn.parameters():
        fill(parameter)
    return rnn


weights = lstm().state_dict()
torch.save(weights, HERE / "lstm.pt")
torch.save(lstm().half().state_dict(), HERE / "lstm_float16.pt")
torch.save(weights, HERE / "lstm_legacy.pt", _use_new_zipfile_serialization=False)

# A training checkpoint. Its weights are windows of one storage, as cuDNN leaves them, and one of
# them is transposed.
flat = torch.empty(sum(weight.numel() for weight in weights.values()) + 6)
state_dict, offset = {}, 0
for name, weight in weights.items():
    window = flat[offset : offset + weight.numel()].view(weight.shape)
    state_dict[f"encoder.rnn.{name}"] = fill(window)
    offset += weight.numel()
state_dict["head.weight"] = fill(flat[offset:].view(2, 3).t())
state_dict["encoder.norm.num_batches_tracked"] = torch.tensor(7)
optimizer = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 1e-3}]}
checkpoint = {"epoch": 3, "state_dict": state_dict, "optimizer": optimizer}
torch.save(checkpoint, HERE / "lstm_nested.pt")
