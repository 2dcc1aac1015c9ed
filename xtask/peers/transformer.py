"""Attention, encoder layers and decoding with a cache in other libraries, each as its users write it."""

import start

# Of a stream in one call, after the same context each time.
STEPS = 16
D_MODEL, HEADS, D_FF = 512, 8, 2048


def torch_attention(_, kind, sizes, threads):
    torch = start.torch(threads)
    attend = torch.nn.functional.scaled_dot_product_attention
    shape = sizes["B"], sizes["H"], sizes["T"], sizes["D"]
    inputs = [torch.randn(shape, requires_grad=kind == "train") for _ in range(3)]

    @torch.inference_mode()
    def forward():
        attend(*inputs, is_causal=True)

    def train():
        for x in inputs:
            x.grad = None
        attend(*inputs, is_causal=True).sum().backward()

    return train if kind == "train" else forward


def torch_encoder(_, kind, sizes, threads):
    torch = start.torch(threads)
    layer = torch.nn.TransformerEncoderLayer(
        D_MODEL, HEADS, D_FF, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )
    return torch_layer(torch, layer, kind, sizes)


def torch_fused_encoder(_, kind, sizes, threads):
    """The same layer by hand, with PyTorch's fused attention in inference too."""
    torch = start.torch(threads)
    nn, functional = torch.nn, torch.nn.functional

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(D_MODEL) for _ in range(2))
            self.enter, self.leave = nn.Linear(D_MODEL, 3 * D_MODEL), nn.Linear(D_MODEL, D_MODEL)
            self.feed_forward = nn.Sequential(nn.Linear(D_MODEL, D_FF), nn.GELU(), nn.Linear(D_FF, D_MODEL))

        def forward(self, x):
            split = self.enter(self.norms[0](x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(*split)
            x = x + self.leave(y.transpose(1, 2).flatten(2))
            return x + self.feed_forward(self.norms[1](x))

    return torch_layer(torch, Layer(), kind, sizes)


def torch_layer(torch, layer, kind, sizes):
    x = torch.randn(sizes["B"], sizes["T"], D_MODEL)

    @torch.inference_mode()
    def infer():
        layer(x)

    def train():
        layer.zero_grad(set_to_none=True)
        layer(x).sum().backward()

    layer.train(kind == "train")
    return train if kind == "train" else infer


def torch_stream(_, _kind, sizes, threads):
    """Attention with its projections over a cache that has room for the steps."""
    torch = start.torch(threads)
    attend = torch.nn.functional.scaled_dot_product_attention
    heads, context, width = sizes["H"], sizes["C"], sizes["D"]
    d_model = heads * width
    enter, leave = torch.nn.Linear(d_model, 3 * d_model), torch.nn.Linear(d_model, d_model)
    keys, values = (torch.randn(sizes["B"], heads, context + STEPS, width) for _ in range(2))
    x = torch.randn(sizes["B"], 1, d_model)

    @torch.inference_mode()
    def stream():
        for at in range(context, context + STEPS):
            q, k, v = enter(x).unflatten(-1, (3, heads, width)).permute(2, 0, 3, 1, 4)
            keys[:, :, at : at + 1], values[:, :, at : at + 1] = k, v
            y = attend(q, keys[:, :, : at + 1], values[:, :, : at + 1])
            leave(y.transpose(1, 2).flatten(2))

    return stream


def transformers_decoder(_, _kind, sizes, threads):
    """The blocks of SmolLM2-135M, L of its 30."""
    torch = start.torch(threads)
    from transformers import LlamaConfig, LlamaModel
    from transformers.cache_utils import DynamicCache

    config = LlamaConfig(
        vocab_size=16,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=sizes["L"],
        num_attention_heads=9,
        num_key_value_heads=3,
        rms_norm_eps=1e-5,
        rope_theta=100000.0,
        max_position_embeddings=sizes["C"] + STEPS,
    )
    model, context = LlamaModel(config).eval(), sizes["C"]
    cache = DynamicCache(config=config)
    for layer in range(sizes["L"]):
        cache.update(*(torch.randn(sizes["B"], 3, context, 64) for _ in range(2)), layer)
    x = torch.randn(sizes["B"], 1, 576)

    @torch.inference_mode()
    def stream():
        cache.crop(context - cache.get_seq_length())
        for _ in range(STEPS):
            model(inputs_embeds=x, past_key_values=cache, use_cache=True)

    return stream


class Graph:
    """An ONNX graph in the making, its weights random."""

    def __init__(self):
        import numpy as np
        import onnx

        self.np, self.onnx = np, onnx
        self.random = np.random.default_rng(0)
        self.nodes, self.weights = [], []

    def weight(self, name, *shape):
        value = (self.random.standard_normal(shape) * 0.05).astype(self.np.float32)
        self.weights.append(self.onnx.numpy_helper.from_array(value, name))
        return name

    def node(self, operator, inputs, **options):
        output = f"n{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], **options))
        return output

    def linear(self, name, x, d_input, d_output):
        product = self.node("MatMul", [x, self.weight(f"{name}.w", d_input, d_output)])
        return self.node("Add", [product, self.weight(f"{name}.b", d_output)])

    def norm(self, name, x):
        weights = [self.weight(f"{name}.{part}", D_MODEL) for part in ("w", "b")]
        return self.node("LayerNormalization", [x, *weights], axis=-1)

    def run(self, inputs, output, compile_model):
        """A function that runs the graph on random inputs of the shapes given; the output has that of the first."""
        helper, number = self.onnx.helper, self.onnx.TensorProto.FLOAT
        values = [helper.make_tensor_value_info(name, number, shape) for name, shape in inputs.items()]
        result = helper.make_tensor_value_info(output, number, next(iter(inputs.values())))
        graph = helper.make_graph(self.nodes, "graph", values, [result], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
        model.ir_version = 10
        run = compile_model(model.SerializeToString())
        data = {name: self.random.standard_normal(shape).astype(self.np.float32) for name, shape in inputs.items()}
        return lambda: run(data)


def onnx_attention(kind, sizes, compile_model):
    if kind != "causal":
        return None
    graph = Graph()
    shape = [sizes["B"], sizes["H"], sizes["T"], sizes["D"]]
    y = graph.node("Attention", ["q", "k", "v"], is_causal=1)
    return graph.run(dict.fromkeys("qkv", shape), y, compile_model)


def onnx_encoder(kind, sizes, compile_model):
    if kind != "infer":
        return None
    graph = Graph()
    normed = graph.norm("norm1", "x")
    split = [graph.linear(name, normed, D_MODEL, D_MODEL) for name in "qkv"]
    y = graph.node("Attention", split, q_num_heads=HEADS, kv_num_heads=HEADS)
    x = graph.node("Add", ["x", graph.linear("leave", y, D_MODEL, D_MODEL)])
    hidden = graph.node("Gelu", [graph.linear("enter", graph.norm("norm2", x), D_MODEL, D_FF)])
    y = graph.node("Add", [x, graph.linear("exit", hidden, D_FF, D_MODEL)])
    return graph.run({"x": [sizes["B"], sizes["T"], D_MODEL]}, y, compile_model)


def onnxruntime_of(operation):
    return lambda _, kind, sizes, threads: operation(kind, sizes, start.onnxruntime(threads))


def openvino_of(operation):
    return lambda _, kind, sizes, threads: operation(kind, sizes, start.openvino(threads))


ATTENTION = {
    "torch": torch_attention,
    "onnxruntime": onnxruntime_of(onnx_attention),
    "openvino": openvino_of(onnx_attention),
}
ENCODERS = {
    "torch": torch_encoder,
    "torch_attention": torch_fused_encoder,
    "onnxruntime": onnxruntime_of(onnx_encoder),
    "openvino": openvino_of(onnx_encoder),
}
STREAMS = {"torch": torch_stream}
DECODERS = {"transformers": transformers_decoder}
