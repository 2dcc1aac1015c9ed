"""Selective scans, Mamba layers and long convolutions in other libraries, each as its users write it."""

import start

# Of a stream in one call.
STEPS = 200
D_MODEL, D_INNER, D_STATE, D_CONV, DT_RANK = 256, 512, 16, 4, 16


def torch_inputs(torch, length, tracked):
    inputs = {
        "u": torch.randn(1, D_INNER, length),
        "delta": torch.randn(1, D_INNER, length) * 0.5 - 2,
        "a": -torch.rand(D_INNER, D_STATE) * 8 - 0.5,
        "b": torch.randn(1, D_STATE, length),
        "c": torch.randn(1, D_STATE, length),
        "d": torch.randn(D_INNER),
        "z": torch.randn(1, D_INNER, length),
    }
    return {name: value.requires_grad_(tracked) for name, value in inputs.items()}


def torch_operation(torch, scan, kind, length):
    inputs = torch_inputs(torch, length, kind == "fwdbwd")

    @torch.inference_mode()
    def forward():
        scan(**inputs)

    def backward():
        for value in inputs.values():
            value.grad = None
        scan(**inputs).sum().backward()

    return backward if kind == "fwdbwd" else forward


def torch_scan(_, kind, sizes, threads):
    """A loop over time. The steps are taken apart by unbind: each index would fill a gradient of the whole
    sequence."""
    torch = start.torch(threads)
    functional = torch.nn.functional

    def scan(u, delta, a, b, c, d, z):
        delta = functional.softplus(delta)
        decays = torch.exp(torch.einsum("bdl,dn->bdln", delta, a)).unbind(2)
        written = torch.einsum("bdl,bnl,bdl->bdln", delta, b, u).unbind(2)
        state, states = torch.zeros(1, *a.shape), []
        for decay, write in zip(decays, written):
            state = torch.addcmul(write, decay, state)
            states.append(state)
        y = torch.einsum("bdln,bnl->bdl", torch.stack(states, 2), c) + u * d[:, None]
        return y * functional.silu(z)

    return torch_operation(torch, scan, kind, sizes["L"])


def mambapy_scan(_, kind, sizes, threads):
    torch = start.torch(threads)
    from mambapy.pscan import pscan

    functional = torch.nn.functional

    def scan(u, delta, a, b, c, d, z):
        u, delta, b, c = (x.transpose(1, 2) for x in (u, delta, b, c))
        delta = functional.softplus(delta).unsqueeze(-1)
        states = pscan(torch.exp(delta * a), delta * b.unsqueeze(2) * u.unsqueeze(-1))
        y = (states @ c.unsqueeze(-1)).squeeze(3) + d * u
        return y.transpose(1, 2) * functional.silu(z)

    return torch_operation(torch, scan, kind, sizes["L"])


def jax_scan_body(jax):
    from jax import numpy as jnp

    def scan(u, delta, a, b, c, d, z):
        delta = jax.nn.softplus(delta)

        def step(state, now):
            delta, written, b, c = now
            state = jnp.exp(delta[..., None] * a) * state + written[..., None] * b[:, None, :]
            return state, (state * c[:, None, :]).sum(-1)

        steps = tuple(jnp.moveaxis(x, 2, 0) for x in (delta, delta * u, b, c))
        begin = jnp.zeros((u.shape[0], *a.shape))
        y = jnp.moveaxis(jax.lax.scan(step, begin, steps, unroll=4)[1], 0, 2)
        return (y + u * d[:, None]) * jax.nn.silu(z)

    return scan


def jax_array(*shape):
    import numpy as np
    from jax import numpy as jnp

    return jnp.asarray(np.random.randn(*shape).astype(np.float32))


def jax_scan(_, kind, sizes, threads):
    jax = start.jax(threads)
    from jax import numpy as jnp

    x, narrow = (1, D_INNER, sizes["L"]), (1, D_STATE, sizes["L"])
    rate = -jnp.abs(jax_array(D_INNER, D_STATE)) * 4 - 0.5
    inputs = [jax_array(*x), jax_array(*x) * 0.5 - 2, rate, jax_array(*narrow), jax_array(*narrow)]
    inputs += [jax_array(D_INNER), jax_array(*x)]
    scan = jax_scan_body(jax)
    if kind == "fwdbwd":
        forward = scan
        scan = jax.value_and_grad(lambda *inputs: forward(*inputs).sum(), argnums=tuple(range(7)))
    run = jax.jit(scan)
    return lambda: jax.block_until_ready(run(*inputs))


def jax_layer(_, kind, sizes, threads):
    jax = start.jax(threads)
    from jax import numpy as jnp

    scan = jax_scan_body(jax)
    parameters = {
        "enter": jax_array(D_MODEL, 2 * D_INNER) * 0.05,
        "conv": jax_array(D_CONV, D_INNER) * 0.3,
        "conv_bias": jax_array(D_INNER) * 0.1,
        "select": jax_array(D_INNER, DT_RANK + 2 * D_STATE) * 0.05,
        "dt": jax_array(DT_RANK, D_INNER) * 0.1,
        "dt_bias": jax_array(D_INNER) * 0.1 - 3,
        "a_log": jnp.log(jnp.tile(jnp.arange(1.0, D_STATE + 1), (D_INNER, 1))),
        "d": jnp.ones(D_INNER),
        "leave": jax_array(D_INNER, D_MODEL) * 0.05,
    }

    def select(p, u):
        dt, b, c = jnp.split(u @ p["select"], [DT_RANK, DT_RANK + D_STATE], -1)
        return dt @ p["dt"] + p["dt_bias"], -jnp.exp(p["a_log"]), b, c

    def forward(p, x):
        steps = x.shape[1]
        u, z = jnp.split(x @ p["enter"], 2, -1)
        padded = jnp.pad(u, ((0, 0), (D_CONV - 1, 0), (0, 0)))
        taps = sum(padded[:, i : i + steps] * p["conv"][i] for i in range(D_CONV))
        u = jax.nn.silu(taps + p["conv_bias"])
        dt, a, b, c = select(p, u)
        u, dt, b, c, z = (jnp.swapaxes(x, 1, 2) for x in (u, dt, b, c, z))
        return jnp.swapaxes(scan(u, dt, a, b, c, p["d"], z), 1, 2) @ p["leave"]

    @jax.jit
    def step(p, x, state, tail):
        u, z = jnp.split(x @ p["enter"], 2, -1)
        tail = jnp.concatenate([tail[:, 1:], u[:, None]], 1)
        u = jax.nn.silu((tail * p["conv"]).sum(1) + p["conv_bias"])
        dt, a, b, c = select(p, u)
        dt = jax.nn.softplus(dt)
        state = jnp.exp(dt[..., None] * a) * state + (dt * u)[..., None] * b[:, None]
        y = ((state * c[:, None]).sum(-1) + p["d"] * u) * jax.nn.silu(z)
        return y @ p["leave"], state, tail

    if kind == "step":
        x = jax_array(1, D_MODEL)

        def stream():
            state, tail = jnp.zeros((1, D_INNER, D_STATE)), jnp.zeros((1, D_CONV, D_INNER))
            for _ in range(STEPS):
                y, state, tail = step(parameters, x, state, tail)
            jax.block_until_ready(y)

        return stream
    x = jax_array(sizes["B"], sizes["T"], D_MODEL)
    loss = jax.value_and_grad(lambda p, x: forward(p, x).sum())
    run = jax.jit(loss if kind == "train" else forward)
    return lambda: jax.block_until_ready(run(parameters, x))


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


def transformers_layer(_, kind, sizes, threads):
    torch = start.torch(threads)
    from transformers import MambaConfig
    from transformers.cache_utils import DynamicCache
    from transformers.models.mamba.modeling_mamba import MambaMixer

    config = MambaConfig(
        hidden_size=D_MODEL,
        state_size=D_STATE,
        num_hidden_layers=1,
        conv_kernel=D_CONV,
        expand=2,
        time_step_rank=DT_RANK,
        use_bias=False,
        use_conv_bias=True,
        vocab_size=16,
        # Its own loop takes half a minute for the gradients of 512 steps.
        use_mambapy=kind == "train",
    )
    mixer = MambaMixer(config, 0)
    if kind != "step":
        return torch_layer(torch, mixer, kind, sizes)
    mixer.eval()
    before, x = torch.randn(1, 8, D_MODEL), torch.randn(1, 1, D_MODEL)

    @torch.inference_mode()
    def stream():
        cache = DynamicCache(config=config)
        mixer(before, cache_params=cache)
        for _ in range(STEPS):
            mixer(x, cache_params=cache)

    return stream


def mambapy_layer(_, kind, sizes, threads):
    torch = start.torch(threads)
    from mambapy.mamba import MambaBlock, MambaConfig

    block = MambaBlock(MambaConfig(d_model=D_MODEL, n_layers=1, d_state=D_STATE, d_conv=D_CONV, dt_rank=DT_RANK))
    if kind != "step":
        return torch_layer(torch, block, kind, sizes)
    x = torch.randn(1, D_MODEL)

    @torch.inference_mode()
    def stream():
        cache = torch.zeros(1, D_INNER, D_STATE), torch.zeros(1, D_INNER, D_CONV - 1)
        for _ in range(STEPS):
            _, cache = block.step(x, cache)

    return stream


def transformer_layer(_, kind, sizes, threads):
    """A causal Transformer layer of the same width in PyTorch, with its fused attention: what a Mamba layer is
    taken in the place of."""
    if kind != "infer" or sizes["B"] != 1:
        return None
    torch = start.torch(threads)
    nn, functional = torch.nn, torch.nn.functional
    heads = D_MODEL // 64

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norms = nn.ModuleList(nn.LayerNorm(D_MODEL) for _ in range(2))
            self.enter, self.leave = nn.Linear(D_MODEL, 3 * D_MODEL), nn.Linear(D_MODEL, D_MODEL)
            self.feed_forward = nn.Sequential(nn.Linear(D_MODEL, 4 * D_MODEL), nn.GELU(), nn.Linear(4 * D_MODEL, D_MODEL))

        def forward(self, x):
            split = self.enter(self.norms[0](x)).unflatten(-1, (3, heads, 64)).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(*split, is_causal=True)
            x = x + self.leave(y.transpose(1, 2).flatten(2))
            return x + self.feed_forward(self.norms[1](x))

    return torch_layer(torch, Block(), kind, sizes)


def convolve(fft, x, kernel, **options):
    size = 2 * x.shape[-1]
    spectrum = fft.rfft(x, size, **options) * fft.rfft(kernel, size, **options)
    return fft.irfft(spectrum, size, **options)[..., : x.shape[-1]]


def torch_convolution(_, _kind, sizes, threads):
    torch = start.torch(threads)
    x, kernel = torch.randn(1, D_INNER, sizes["L"]), torch.randn(D_INNER, sizes["L"])

    @torch.inference_mode()
    def run():
        convolve(torch.fft, x, kernel)

    return run


def jax_convolution(_, _kind, sizes, threads):
    jax = start.jax(threads)
    from jax import numpy as jnp

    x, kernel = jax_array(1, D_INNER, sizes["L"]), jax_array(D_INNER, sizes["L"])
    run = jax.jit(lambda x, kernel: convolve(jnp.fft, x, kernel))
    return lambda: jax.block_until_ready(run(x, kernel))


def scipy_convolution(_, _kind, sizes, threads):
    import numpy as np
    import scipy.fft

    def array(*shape):
        return np.random.randn(*shape).astype(np.float32)

    x, kernel = array(1, D_INNER, sizes["L"]), array(D_INNER, sizes["L"])
    return lambda: convolve(scipy.fft, x, kernel, workers=threads)


SCANS = {"torch": torch_scan, "mambapy": mambapy_scan, "jax": jax_scan}
LAYERS = {
    "jax": jax_layer,
    "transformers": transformers_layer,
    "mambapy": mambapy_layer,
    "torch_attention": transformer_layer,
}
CONVOLUTIONS = {"torch": torch_convolution, "jax": jax_convolution, "scipy": scipy_convolution}
# The same layer under the names of our own.
TRANSFORMERS = {"torch": transformer_layer}
