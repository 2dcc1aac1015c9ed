"""The recurrent layers in other libraries. Each function makes an operation, or None where the library has
none."""

import start

# Of a stream in one call.
STEPS = 500
# The blocks of rows in the weights of each architecture.
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def shape(sizes):
    """Batch, time, d_input, d_hidden and num_layers."""
    hidden = sizes["H"]
    return sizes["B"], sizes.get("T", 1), sizes.get("I", hidden), hidden, sizes.get("L", 1)


def torch_recurrent(architecture, kind, sizes, threads):
    torch = start.torch(threads)
    batch, steps, width, hidden, layers = shape(sizes)
    x = torch.randn(batch, steps, width)
    if kind == "step":
        cell = getattr(torch.nn, f"{architecture.upper()}Cell")(width, hidden).eval()
        zeros = torch.zeros(batch, hidden)
        begin = (zeros, zeros) if architecture == "lstm" else zeros

        @torch.inference_mode()
        def stream():
            state = begin
            for _ in range(STEPS):
                state = cell(x[:, 0], state)

        return stream
    layer = getattr(torch.nn, architecture.upper())(width, hidden, layers, batch_first=True)

    @torch.inference_mode()
    def infer():
        layer(x)

    def train():
        layer.zero_grad(set_to_none=True)
        layer(x)[0].sum().backward()

    return train if kind == "train" else infer


def onnx_recurrent(architecture, kind, sizes, compile_model):
    """An ONNX model of the layer, run by what `compile_model` makes of it."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    if kind == "train":
        return None
    batch, steps, width, hidden, layers = shape(sizes)
    rows = GATES[architecture] * hidden
    random = np.random.default_rng(0)

    def array(*shape):
        return (random.standard_normal(shape) * 0.05).astype(np.float32)

    def value(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes, inputs, outputs = [], [value("x", [steps, batch, width])], []
    weights = [numpy_helper.from_array(np.array([1], np.int64), "axis")]
    states, ends = [], [""]
    if kind == "step":
        names = ["h", "c"] if architecture == "lstm" else ["h"]
        states, ends = ["", *names], ["", *(f"{name}_n" for name in names)]
        inputs += [value(name, [1, batch, hidden]) for name in states[1:]]
        outputs += [value(name, [1, batch, hidden]) for name in ends[1:]]
    # The reset gate acts on the product, as in the other libraries.
    options = {"linear_before_reset": 1} if architecture == "gru" else {}
    x = "x"
    for layer in range(layers):
        below = hidden if layer else width
        shapes = {"W": (rows, below), "R": (rows, hidden), "B": (2 * rows,)}
        for name, dims in shapes.items():
            weights.append(numpy_helper.from_array(array(1, *dims), f"{name}{layer}"))
        names = [x, *(f"{name}{layer}" for name in shapes), *states]
        results = ends if kind == "step" else [f"Y{layer}"]
        nodes.append(helper.make_node(architecture.upper(), names, results, hidden_size=hidden, **options))
        if kind == "infer":
            x = f"y{layer}"
            nodes.append(helper.make_node("Squeeze", [f"Y{layer}", "axis"], [x]))
    if kind == "infer":
        outputs = [value(x, [steps, batch, hidden])]
    graph = helper.make_graph(nodes, architecture, inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)])
    model.ir_version = 10
    run = compile_model(model.SerializeToString())
    data = array(steps, batch, width)

    def stream():
        state = [np.zeros((1, batch, hidden), np.float32) for _ in states[1:]]
        for _ in range(STEPS):
            state = [np.array(part) for part in run({"x": data, **dict(zip(states[1:], state))})]

    return stream if kind == "step" else lambda: run({"x": data})


def onnxruntime_recurrent(architecture, kind, sizes, threads):
    return onnx_recurrent(architecture, kind, sizes, start.onnxruntime(threads))


def openvino_recurrent(architecture, kind, sizes, threads):
    return onnx_recurrent(architecture, kind, sizes, start.openvino(threads))


def jax_recurrent(architecture, kind, sizes, threads):
    jax = start.jax(threads)
    import numpy as np
    from jax import lax
    from jax import numpy as jnp

    batch, steps, width, hidden, layers = shape(sizes)
    rows = GATES[architecture] * hidden

    def array(*shape):
        return jnp.asarray(np.random.randn(*shape).astype(np.float32) * 0.05)

    # One bias would do, but for the GRU, whose reset gate acts on the second.
    biases = 2 if architecture == "gru" else 1
    parameters = [
        (array(hidden if layer else width, rows), array(hidden, rows), *(array(rows) for _ in range(biases)))
        for layer in range(layers)
    ]
    x = array(steps, batch, width)
    zeros = jnp.zeros((batch, hidden))

    def lstm(state, gates, weight_hh):
        i, f, g, o = jnp.split(gates + state[0] @ weight_hh, 4, -1)
        c = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return jax.nn.sigmoid(o) * jnp.tanh(c), c

    def gru(state, gates, weight_hh, bias_hh):
        r, z, n = jnp.split(gates, 3, -1)
        r_h, z_h, n_h = jnp.split(state[0] @ weight_hh + bias_hh, 3, -1)
        z = jax.nn.sigmoid(z + z_h)
        n = jnp.tanh(n + jax.nn.sigmoid(r + r_h) * n_h)
        return ((1 - z) * n + z * state[0],)

    def rnn(state, gates, weight_hh):
        return (jnp.tanh(gates + state[0] @ weight_hh),)

    cell = {"lstm": lstm, "gru": gru, "rnn": rnn}[architecture]
    begin = (zeros, zeros) if architecture == "lstm" else (zeros,)

    def forward(parameters, y):
        for weight_ih, weight_hh, bias, *more in parameters:
            def step(state, gates):
                state = cell(state, gates, weight_hh, *more)
                return state, state[0]

            y = lax.scan(step, begin, y @ weight_ih + bias, unroll=4)[1]
        return y

    if kind == "step":
        weight_ih, weight_hh, bias, *more = parameters[0]
        step = jax.jit(lambda x, state: cell(state, x @ weight_ih + bias, weight_hh, *more))
        first = x[0]

        def stream():
            state = begin
            for _ in range(STEPS):
                state = step(first, state)
            jax.block_until_ready(state)

        return stream
    loss = jax.value_and_grad(lambda parameters, x: forward(parameters, x).sum())
    run = jax.jit(loss if kind == "train" else forward)
    return lambda: jax.block_until_ready(run(parameters, x))


PEERS = {
    "torch": torch_recurrent,
    "onnxruntime": onnxruntime_recurrent,
    "openvino": openvino_recurrent,
    "jax": jax_recurrent,
}
