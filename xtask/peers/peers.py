"""Times the workloads named, done by another library on the CPU in f32; prints one JSON line each.

    peers.py --peer torch --threads 2 lstm_infer/B1_T256_I128_H256_L1 lstm_step/B1_H256

B, T, I, H and L are batch, time, d_input, d_hidden and num_layers. `infer` is the whole sequence,
`train` forward, backward and the gradients of all parameters, `step` one step of a stream.
"""

import argparse
import json
import os
import re
import statistics
import time

STEPS = 500  # of a stream in one call


def torch_lstm(kind, size, threads):
    import torch

    torch.set_num_threads(threads)
    batch, steps, width, hidden, layers = size
    x = torch.randn(batch, steps, width)
    if kind == "step":
        cell = torch.nn.LSTMCell(width, hidden).eval()

        @torch.inference_mode()
        def stream():
            state = (torch.zeros(batch, hidden), torch.zeros(batch, hidden))
            for _ in range(STEPS):
                state = cell(x[:, 0], state)

        return stream
    lstm = torch.nn.LSTM(width, hidden, layers, batch_first=True)

    @torch.inference_mode()
    def infer():
        lstm(x)

    def train():
        lstm.zero_grad(set_to_none=True)
        lstm(x)[0].sum().backward()

    return train if kind == "train" else infer


def onnx_lstm(kind, size, compile_model):
    """An ONNX model of the LSTM, run by what `compile_model` makes of it."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    if kind == "train":
        return None
    batch, steps, width, hidden, layers = size
    random = np.random.default_rng(0)

    def array(*shape):
        return (random.standard_normal(shape) * 0.05).astype(np.float32)

    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes, inputs, outputs = [], [value("x", [steps, batch, width])], []
    weights = [numpy_helper.from_array(np.array([1], np.int64), "axis")]
    states, ends = [], [""]
    if kind == "step":
        shape = [1, batch, hidden]
        inputs += [value("h", shape), value("c", shape)]
        outputs += [value("h_n", shape), value("c_n", shape)]
        states, ends = ["", "h", "c"], ["", "h_n", "c_n"]
    x = "x"
    for layer in range(layers):
        below = hidden if layer else width
        shapes = {"W": (4 * hidden, below), "R": (4 * hidden, hidden), "B": (8 * hidden,)}
        for name, shape in shapes.items():
            weights.append(numpy_helper.from_array(array(1, *shape), f"{name}{layer}"))
        names = [f"{name}{layer}" for name in shapes]
        results = ends if kind == "step" else [f"Y{layer}"]
        nodes.append(helper.make_node("LSTM", [x, *names, *states], results, hidden_size=hidden))
        if kind == "infer":
            x = f"y{layer}"
            nodes.append(helper.make_node("Squeeze", [f"Y{layer}", "axis"], [x]))
    if kind == "infer":
        outputs = [value(x, [steps, batch, hidden])]
    graph = helper.make_graph(nodes, "lstm", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    model.ir_version = 10
    run = compile_model(model.SerializeToString())
    data = array(steps, batch, width)

    def stream():
        h = c = np.zeros((1, batch, hidden), np.float32)
        for _ in range(STEPS):
            h, c = (np.array(state) for state in run({"x": data, "h": h, "c": c}))

    return stream if kind == "step" else lambda: run({"x": data})


def onnxruntime_lstm(kind, size, threads):
    import onnxruntime

    def compile_model(model):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)

    return onnx_lstm(kind, size, compile_model)


def openvino_lstm(kind, size, threads):
    import openvino

    def compile_model(model):
        core = openvino.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = core.compile_model(core.read_model(model), "CPU", settings)
        request, count = compiled.create_infer_request(), len(compiled.outputs)

        def run(inputs):
            outputs = request.infer(inputs, share_inputs=True, share_outputs=True)
            return [outputs[i] for i in range(count)]

        return run

    return onnx_lstm(kind, size, compile_model)


def jax_lstm(kind, size, threads):
    if threads == 1:  # JAX takes every core that it may use
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {0})
    import jax
    import numpy as np
    from jax import lax
    from jax import numpy as jnp

    jax.config.update("jax_platforms", "cpu")
    batch, steps, width, hidden, layers = size

    def array(*shape):
        return jnp.asarray(np.random.randn(*shape).astype(np.float32) * 0.05)

    parameters = [
        (array(hidden if layer else width, 4 * hidden), array(hidden, 4 * hidden), array(4 * hidden))
        for layer in range(layers)
    ]
    x = array(steps, batch, width)
    zeros = (jnp.zeros((batch, hidden)), jnp.zeros((batch, hidden)))

    def cell(weight_hh, state, gates):
        i, f, g, o = jnp.split(gates + state[0] @ weight_hh, 4, -1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    def forward(parameters, y):
        for weight_ih, weight_hh, bias in parameters:
            gates = y @ weight_ih + bias
            y = lax.scan(lambda state, gates: cell(weight_hh, state, gates), zeros, gates, unroll=4)[1]
        return y

    if kind == "step":
        weight_ih, weight_hh, bias = parameters[0]
        step = jax.jit(lambda x, state: cell(weight_hh, state, x @ weight_ih + bias)[0])
        first = x[0]

        def stream():
            state = zeros
            for _ in range(STEPS):
                state = step(first, state)
            jax.block_until_ready(state)

        return stream
    loss = jax.value_and_grad(lambda parameters, x: forward(parameters, x).sum())
    run = jax.jit(loss if kind == "train" else forward)
    return lambda: jax.block_until_ready(run(parameters, x))


# A library and, for each architecture, a function of (kind, size, threads) that makes the operation,
# or None where the library has none.
PEERS = {
    "torch": {"lstm": torch_lstm},
    "onnxruntime": {"lstm": onnxruntime_lstm},
    "openvino": {"lstm": openvino_lstm},
    "jax": {"lstm": jax_lstm},
}


def measure(operation, seconds):
    """Milliseconds a call: two to warm up, then for `seconds` and seven calls; three if they are long."""
    operation(), operation()
    times, start = [], time.perf_counter()
    while True:
        before = time.perf_counter()
        operation()
        now = time.perf_counter()
        times.append((now - before) * 1e3)
        if (len(times) >= 7 and now - start >= seconds) or (len(times) >= 3 and now - start > 12):
            return times


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", required=True, choices=PEERS)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.5, help="at the least for one workload")
    parser.add_argument("workloads", nargs="+")
    args = parser.parse_args()
    for workload in args.workloads:
        name, sizes = workload.split("/")
        architecture, kind = name.split("_")
        size = {letter: int(number) for letter, number in re.findall(r"([A-Z])(\d+)", sizes)}
        hidden = size["H"]
        size = (size["B"], size.get("T", 1), size.get("I", hidden), hidden, size.get("L", 1))
        make = PEERS[args.peer].get(architecture)
        operation = make and make(kind, size, args.threads)
        if not operation:
            continue
        per = STEPS if kind == "step" else 1
        times = [ms / per for ms in measure(operation, args.seconds)]
        line = {
            "workload": workload,
            "peer": args.peer,
            "threads": args.threads,
            "ms_median": statistics.median(times),
            "ms_min": min(times),
            "ms_max": max(times),
            "n": len(times),
        }
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
