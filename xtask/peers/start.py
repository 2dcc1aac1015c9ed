"""Libraries on the CPU with as many threads as asked for."""

import os


def torch(threads):
    import torch

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    return torch


def jax(threads):
    if threads == 1:  # JAX takes every core that it may use
        os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, {0})
    import jax

    jax.config.update("jax_platforms", "cpu")
    return jax
