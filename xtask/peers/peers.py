"""Times the workloads named, done by another library on the CPU in f32; prints one JSON line each.

    peers.py --peer torch --threads 2 lstm_infer/B1_T256_I128_H256_L1 sscan_fwd/L512

Of recurrent layers, B, T, I, H and L are batch, time, d_input, d_hidden and num_layers; of Mamba and of
Transformer layers, B and T are batch and time; of a scan or a convolution alone, L is the length. Of attention,
H and D are the heads and their width, C how many steps the cache holds. `infer` is the whole sequence, `train`
forward, backward and the gradients of all parameters, `step` one step of a stream.
"""

import argparse
import json
import re
import statistics
import time

import recurrent
import state_space
import transformer

# For each kind of workload, the functions of (name, kind, sizes, threads) that make the operation in a
# library, and how many steps of a stream it makes in a call.
FAMILIES = {
    "lstm": (recurrent.PEERS, recurrent.STEPS),
    "gru": (recurrent.PEERS, recurrent.STEPS),
    "rnn": (recurrent.PEERS, recurrent.STEPS),
    "sscan": (state_space.SCANS, 1),
    "mamba": (state_space.LAYERS, state_space.STEPS),
    "s4d": (state_space.CONVOLUTIONS, 1),
    "sdpa": (transformer.ATTENTION, 1),
    "encoder": (transformer.ENCODERS, 1),
    "causal": (state_space.TRANSFORMERS, 1),
    "attention": (transformer.STREAMS, transformer.STEPS),
    "decode": (transformer.DECODERS, transformer.STEPS),
}
LIBRARIES = sorted({library for peers, _ in FAMILIES.values() for library in peers})


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
    parser.add_argument("--peer", required=True, choices=LIBRARIES)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=0.5, help="at the least for one workload")
    parser.add_argument("workloads", nargs="+")
    args = parser.parse_args()
    for workload in args.workloads:
        name, sizes = workload.split("/")
        family, kind = name.split("_")
        peers, steps = FAMILIES.get(family, ({}, 1))
        if args.peer not in peers:
            continue
        sizes = {letter: int(number) for letter, number in re.findall(r"([A-Z])(\d+)", sizes)}
        operation = peers[args.peer](family, kind, sizes, args.threads)
        if not operation:
            continue
        per = steps if kind == "step" else 1
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
