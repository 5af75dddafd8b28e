"""Which solver of the diagonal recurrence is fastest where, and how far `method="auto"` is from it.

    uv run benchmarks/scan_crossover.py [--markdown FILE] [--lengths 64 --batches 1 --widths 32] [--forms]

Gradients by factors, inputs and carry of `linear_recurrence`. A time is the mean of as many calls as take
--milliseconds; the number shown is the median of --repeats times (five times as many where a call is shorter than
that), the methods taken in a new random order each round.
The kernel ("pallas") runs on GPUs only. Cells that would hold more than --limit floats are left out. Up to 64 steps
"chunked" has one chunk: its values are those of "sequential", its gradient another program.

--forms compares the two gradients of "sequential" by constant factors instead: "fused" sums those of the factors in its
loop, "apart" afterwards.
"""

import argparse
import itertools
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hippodrome.memory import diagonal, linear_recurrence
from hippodrome.memory.scan import choose_method

LENGTHS, BATCHES, WIDTHS = (16, 64, 256, 1024, 4096), (1, 8, 64), (32, 128)
FORMS = ("fused", "apart")


def make_call(method: str, length: int, batch: int, width: int, is_complex: bool, varying: bool):
    """The compiled gradient with its arguments, as a call without arguments."""
    key = jax.random.key(0)
    shape = (length, batch, width)
    decay = jax.random.uniform(key, shape if varying else (width,), minval=0.5, maxval=0.999)
    b, reset = jax.random.normal(key, shape), jax.random.uniform(key, shape[:2]) < 0.01
    carry = jnp.zeros(shape[1:])
    if is_complex:
        decay, b, carry = decay * jnp.exp(0.1j), b + 1j, carry + 0j

    def loss(decay, b, carry, reset):
        states, _ = linear_recurrence(decay, b, reset, carry, method="sequential" if method in FORMS else method)
        return (jnp.abs(states) ** 2).sum()

    choice = diagonal.is_fused
    if method in FORMS:
        diagonal.is_fused = lambda size, paired: method == "fused"
    try:
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(decay, b, carry, reset).compile()
    finally:
        diagonal.is_fused = choice
    return lambda: jax.block_until_ready(gradient(decay, b, carry, reset))


def seconds(call: Callable[[], Any], count: int) -> float:
    """Mean time of a call, over `count` of them."""
    began = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - began) / count


def main() -> None:
    """Time the grid, print it, and write it as Markdown where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("lengths", LENGTHS), ("batches", BATCHES), ("widths", WIDTHS)):
        parser.add_argument(f"--{name}", type=int, nargs="+", default=default)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--milliseconds", type=float, default=10.0)
    parser.add_argument("--limit", type=float, default=2e7, help="floats of the states (default: %(default)g)")
    parser.add_argument("--forms", action="store_true", help="the two gradients of the sequential method")
    parser.add_argument("--markdown", type=Path, help="write the table there")
    arguments = parser.parse_args()
    methods = ["sequential", "associative", "chunked"] + (["pallas"] if jax.default_backend() == "gpu" else [])
    chosen = choose_method("auto")
    if arguments.forms:
        methods = list(FORMS)
    head = [
        "T",
        "B",
        "states",
        "factors",
        *(f"{each} (ms)" for each in methods),
        "fastest",
        "auto" if arguments.forms else f"auto = {chosen}",
    ]
    rows, worst, shuffled = [], 0.0, random.Random(0)
    for length, batch, width, is_complex, varying in itertools.product(
        arguments.lengths,
        arguments.batches,
        arguments.widths,
        (False, True),
        (False,) if arguments.forms else (False, True),
    ):
        if length * batch * width * (1 + is_complex) > arguments.limit:
            continue
        calls = {each: make_call(each, length, batch, width, is_complex, varying) for each in methods}
        counts = {}
        for name, call in calls.items():
            call()
            counts[name] = max(1, round(arguments.milliseconds / 1e3 / seconds(call, 2)))
        times: dict[str, list[float]] = {each: [] for each in methods}
        # The shortest calls scatter most and cost least.
        rounds = arguments.repeats * (5 if max(counts.values()) > 1 else 1)
        for _ in range(rounds):
            for name in shuffled.sample(methods, len(methods)):
                times[name].append(1e3 * seconds(calls[name], counts[name]))
        medians = {name: statistics.median(values) for name, values in times.items()}
        fastest = min(medians, key=medians.__getitem__)
        if arguments.forms:
            chosen = "fused" if diagonal.is_fused(length * batch * width * (1 + is_complex), is_complex) else "apart"
        ratio = medians[chosen] / medians[fastest]
        worst = max(worst, ratio)
        kind = f"{width} {'complex' if is_complex else 'real'}"
        numbers = [f"{medians[each]:.2f}" for each in methods]
        factors = "varying" if varying else "constant"
        rows.append([str(length), str(batch), kind, factors, *numbers, fastest, f"{ratio:.2f} times"])
        print(" | ".join(rows[-1]), flush=True)
        jax.clear_caches()
    print(f"auto is at worst {worst:.2f} times the fastest")
    if arguments.markdown:
        lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in rows)]
        title = f"# The solvers of the diagonal recurrence on {jax.devices()[0].device_kind}\n\n"
        about = f"    uv run benchmarks/scan_crossover.py\n\nauto is at worst {worst:.2f} times the fastest.\n\n"
        arguments.markdown.write_text(title + about + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
