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


def onnxruntime(threads):
    """What makes a function of a serialised ONNX model: of its inputs by name, to the list of its outputs."""
    import onnxruntime

    def compile_model(model):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda inputs: session.run(None, inputs)

    return compile_model


def openvino(threads):
    """As onnxruntime."""
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

    return compile_model
