"""Gradient time of one S5 layer against one GRU layer of the same width, and what share of the matmul rate S5 reaches.

    uv run benchmarks/layer_speed.py [--batch 8 64] [--json PATH]

Both layers are called through the memory contract, bare (no norm, no gate), in float32: values and gradients by
parameters and inputs over whole sequences with resets. "matmuls" are the two matmuls of S5 with their gradients and
nothing else: no implementation of the layer can be faster. Medians of five interleaved runs after one to compile, so
that other work on the machine lowers all rows alike; the ratios are what counts. "sgemm" is the best float32 matmul of
1024, 2048 and 4096, timed in the same rounds. At 64 sequences fresh memory pages are a large part: with
MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_ARENA_MAX=1 in the environment glibc keeps them.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hippodrome.memory import GRU, S5

TARGETS = {8: 4.0, 64: 2.5}
SGEMM_SIZES = (1024, 2048, 4096)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[8, 64], help="sequences at once (default: 8 64)")
    parser.add_argument("--steps", type=int, default=1024, help="length of a sequence (default: %(default)s)")
    parser.add_argument("--d-model", type=int, default=256, help="width of both layers (default: %(default)s)")
    parser.add_argument(
        "--d-state", type=int, default=256, help="state of S5, half of it complex (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs of each, in turn (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    return parser.parse_args()


def layer_gradient(memory: Any, x: jax.Array, reset: jax.Array, weights: jax.Array) -> Callable[[], Any]:
    """The compiled gradient of sum(weights * y) by parameters and inputs."""
    carry = memory.initial_carry(x.shape[1:-1])
    params = memory.init(jax.random.key(1), carry, x[:1], reset[:1])

    @jax.jit
    def gradient(params, x, weights):
        return jax.value_and_grad(lambda p, x: jnp.vdot(memory.apply(p, carry, x, reset)[1], weights), (0, 1))(
            params, x
        )

    return lambda: gradient(params, x, weights)


def matmuls_gradient(d_state: int, x: jax.Array, weights: jax.Array) -> Callable[[], Any]:
    """The two real matmuls of S5 with their four gradient matmuls."""
    width = x.shape[-1]
    W_in, W_out = jnp.ones((width, d_state)), jnp.ones((d_state, width))
    x, weights = x.reshape(-1, width), weights.reshape(-1, width)

    @jax.jit
    def gradient(W_in, W_out, x, weights):
        return jax.vjp(lambda W_in, W_out, x: (x @ W_in) @ W_out, W_in, W_out, x)[1](weights)

    return lambda: gradient(W_in, W_out, x, weights)


def square_matmul(size: int) -> Callable[[], Any]:
    """A float32 matmul of `size` by `size`."""
    a, multiply = jnp.ones((size, size)), jax.jit(jnp.matmul)
    return lambda: multiply(a, a)


def seconds(run: Callable[[], Any]) -> float:
    """Wall-clock time of one call."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def measure(batch: int, options: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of one batch size."""
    keys = jax.random.split(jax.random.key(0), 3)
    shape = (options.steps, batch, options.d_model)
    x, weights = jax.random.normal(keys[0], shape), jax.random.normal(keys[1], shape)
    reset = jax.random.bernoulli(keys[2], 0.01, shape[:2]).at[0].set(True)
    runs = {
        "GRU": layer_gradient(GRU(d_model=options.d_model), x, reset, weights),
        "S5": layer_gradient(S5(d_model=options.d_model, d_state=options.d_state), x, reset, weights),
        "matmuls": matmuls_gradient(options.d_state, x, weights),
        **{size: square_matmul(size) for size in SGEMM_SIZES},
    }
    first_call = {name: seconds(run) for name, run in runs.items()}
    taken: dict[Any, list[float]] = {name: [] for name in runs}
    for _ in range(options.repeats):
        for name, run in runs.items():
            taken[name].append(seconds(run))
    medians = {name: statistics.median(values) for name, values in taken.items()}
    sgemm = max(2.0 * size**3 / medians[size] for size in SGEMM_SIZES)
    operations = 6 * 2.0 * options.steps * batch * options.d_model * options.d_state
    return [
        {
            "batch": batch,
            "layer": name,
            "gradient_ms": round(1e3 * medians[name], 1),
            "fastest_ms": round(1e3 * min(taken[name]), 1),
            "first_call_s": round(first_call[name], 2),
            "times_faster_than_gru": round(medians["GRU"] / medians[name], 2),
            "share_of_sgemm": None if name == "GRU" else round(operations / medians[name] / sgemm, 3),
            "sgemm_gflops": round(sgemm / 1e9, 1),
        }
        for name in ("GRU", "S5", "matmuls")
    ]


def main() -> None:
    """Measure, print the table, write the JSON."""
    options = parse_args()
    rows = [row for batch in options.batch for row in measure(batch, options)]
    print(f"T={options.steps} d_model={options.d_model} d_state={options.d_state}")
    print(f"{'batch':>5} {'layer':<8} {'gradient ms':>11} {'GRU / this':>10} {'of sgemm':>8}  target")
    for row in rows:
        share = "" if row["share_of_sgemm"] is None else f"{row['share_of_sgemm']:.0%}"
        target = f"at least {TARGETS[row['batch']]}" if row["layer"] == "S5" and row["batch"] in TARGETS else ""
        numbers = f"{row['gradient_ms']:>11} {row['times_faster_than_gru']:>10} {share:>8}"
        print(f"{row['batch']:>5} {row['layer']:<8} {numbers}  {target}".rstrip())
    if options.json is not None:
        machine = {"cpus": os.cpu_count(), "machine": platform.machine(), "jax": jax.__version__}
        setting = {name: value for name, value in vars(options).items() if name != "json"}
        options.json.write_text(json.dumps({"setting": setting, "machine": machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
