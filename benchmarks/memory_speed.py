"""What every memory costs by length: forward, gradient and single step, and the memory XLA sets aside for the gradient.

    uv run --with memax==0.1.1 --with equinox benchmarks/memory_speed.py [--kinds s5 mamba gru] [--json FILE]
        [--markdown FILE] [--plot FILE]

One bare layer of width 64 at its default options, batch 8, float32, T = 64 ... 16,384; medians of runs that take the
memories in turn. Times are per token. "Peak" is the temporary memory of the compiled gradient. PyPI memax's layers of
the same width stand beside, where it is installed: its recurrences as it ships them, one head, batched by vmap. A cell
is left out where the one before it took more than --patience seconds, or where its peak is above --limit.

Freed memory stays with the process (glibc only; not with --give-back): each call of a compiled function takes its
buffers anew, and the page faults of giving them back and forth would be counted as the memory's. In training the layers
share one program.
"""

import argparse
import ctypes
import functools
import importlib
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from hippodrome.memory import list_memories, make_memory

LENGTHS, BATCH, WIDTH = (64, 256, 1024, 4096, 16_384), 8, 64
SKIPPED = ("hybrid", "parallel", "mlp")
# Layers of memax: module, class, arguments.
MEMAX = {
    "memax GRU": ("set_actions.gru", "GRU", {"recurrent_size": WIDTH}),
    "memax LSTM": ("set_actions.lstm", "LSTM", {"recurrent_size": WIDTH}),
    "memax LRU": ("semigroups.lru", "LRU", {"recurrent_size": WIDTH, "hidden_size": WIDTH}),
    "memax S6": ("semigroups.s6", "S6", {"recurrent_size": WIDTH, "hidden_size": WIDTH}),
    "memax FART": ("semigroups.fart", "FART", {"recurrent_size": WIDTH, "hidden_size": WIDTH}),
    "memax DeltaNet": ("semigroups.delta", "DeltaNet", {"recurrent_size": WIDTH, "hidden_size": WIDTH}),
    "memax GDN": ("semigroups.gdn", "GDN", {"recurrent_size": WIDTH, "hidden_size": WIDTH}),
    "memax attention": (
        "semigroups.attn",
        "Attention",
        {"recurrent_size": WIDTH, "window_size": 64, "positional_embedding": "rope"},
    ),
}
Layer = tuple[Any, Callable[..., jax.Array], Callable[..., jax.Array], jax.Array, jax.Array]


def our_layer(kind: str, length: int) -> Layer:
    """Parameters, the sequence call, the step, and inputs with resets in time-major layout."""
    memory = make_memory(kind, d_model=WIDTH).layers[0].layer
    carry = memory.initial_carry((BATCH,))
    x = jax.random.normal(jax.random.key(0), (length, BATCH, WIDTH))
    reset = jax.random.uniform(jax.random.key(1), x.shape[:2]) < 0.005
    params = jax.jit(memory.init)(jax.random.key(2), carry, x[:2], reset[:2])

    def sequence(params: Any, x: jax.Array, reset: jax.Array) -> jax.Array:
        return memory.apply(params, carry, x, reset)[1]

    def step(params: Any, x: jax.Array, reset: jax.Array) -> jax.Array:
        return memory.apply(params, carry, x[0], reset[0], method="step")[1]

    return params, sequence, step, x, reset


def memax_layer(name: str, length: int) -> Layer:
    """The same of a layer of memax, in the batch-major layout that its vmap asks for."""
    import equinox

    module, cls, arguments = MEMAX[name]
    layer = getattr(importlib.import_module(f"memax.equinox.{module}"), cls)(**arguments, key=jax.random.key(2))
    params, static = equinox.partition(layer, equinox.is_inexact_array)
    x = jax.random.normal(jax.random.key(0), (BATCH, length, WIDTH))
    start = jax.random.uniform(jax.random.key(1), x.shape[:2]) < 0.005

    def sequence(params: Any, x: jax.Array, start: jax.Array) -> jax.Array:
        layer = equinox.combine(params, static)
        return jax.vmap(lambda x, start: layer(layer.initialize_carry(), (x, start))[1])(x, start)

    def step(params: Any, x: jax.Array, start: jax.Array) -> jax.Array:
        return sequence(params, x[:, :1], start[:, :1])

    return params, sequence, step, x, start


def keep_freed_memory() -> None:
    """Take large blocks from one heap that is never given back to the system."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        arena_max, mmap_max, trim_threshold = -8, -4, -1  # of malloc.h
        mallopt(arena_max, 1)
        mallopt(mmap_max, 0)
        mallopt(trim_threshold, -1)


class Cell:
    """One memory at one length, compiled."""

    def __init__(self, kind: str, length: int):
        params, sequence, step, x, reset = (memax_layer if kind in MEMAX else our_layer)(kind, length)
        self.tokens = length * BATCH

        def loss(params: Any, x: jax.Array, reset: jax.Array) -> jax.Array:
            return (sequence(params, x, reset) ** 2).sum()

        gradient = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x, reset).compile()
        self.peak = gradient.memory_analysis().temp_size_in_bytes
        functions = {"forward": jax.jit(sequence), "gradient": gradient, "step": jax.jit(step)}
        self.calls = {name: functools.partial(each, params, x, reset) for name, each in functions.items()}
        self.times: dict[str, list[float]] = {name: [] for name in self.calls}

    def run(self) -> float:
        """Each call once; the seconds they took together."""
        for name, call in self.calls.items():
            began = time.perf_counter()
            jax.block_until_ready(call())
            self.times[name].append(time.perf_counter() - began)
        return sum(values[-1] for values in self.times.values())

    def row(self) -> dict[str, float]:
        """Medians in microseconds: forward and gradient per token, the step of the whole batch; peak in MB."""
        median = {name: 1e6 * statistics.median(values[1:]) for name, values in self.times.items()}
        return {
            "forward_us": median["forward"] / self.tokens,
            "gradient_us": median["gradient"] / self.tokens,
            "step_us": median["step"],
            "peak_mb": self.peak / 1e6,
        }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = [each for each in list_memories() if each not in SKIPPED]
    if importlib.util.find_spec("memax"):
        kinds += MEMAX
    parser.add_argument("--kinds", nargs="+", default=kinds)
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patience", type=float, default=20.0)
    parser.add_argument("--limit", type=float, default=6e9, help="bytes of peak memory (default: %(default)g)")
    parser.add_argument("--give-back", action="store_true", help="let the allocator return freed memory to the system")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    if not arguments.give_back:
        keep_freed_memory()
    results: dict[str, dict[int, dict[str, float]]] = {kind: {} for kind in arguments.kinds}
    slow: set[str] = set()
    for length in arguments.lengths:
        cells = {kind: Cell(kind, length) for kind in arguments.kinds if kind not in slow}
        too_large = {kind for kind, cell in cells.items() if cell.peak > arguments.limit}
        for kind in too_large:
            print(f"{kind} at {length} needs {cells.pop(kind).peak / 1e9:.1f} GB: left out", flush=True)
        slow |= too_large
        for _ in range(arguments.repeats + 1):
            for kind, cell in cells.items():
                if cell.run() > arguments.patience:
                    slow.add(kind)
        for kind, cell in cells.items():
            results[kind][length] = cell.row()
            print(kind, length, {name: round(value, 3) for name, value in cell.row().items()}, flush=True)
        jax.clear_caches()
        # After every length: what has been measured is not lost with what comes.
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
        if arguments.markdown:
            arguments.markdown.write_text(markdown(results, arguments.lengths))
        if arguments.plot:
            plot(results, arguments.plot)


def markdown(results: dict[str, dict[int, dict[str, float]]], lengths: list[int]) -> str:
    """One table: the step, and at each length forward and gradient per token and the peak of the gradient."""
    head = ["memory", "step (us)"]
    for title in ("forward at {} (us/token)", "gradient at {} (us/token)", "peak at {} (MB)"):
        head += [title.format(f"{each:,}") for each in lengths]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for kind, rows in results.items():
        first = rows[lengths[0]]
        cells = [kind, f"{first['step_us']:.0f}"]
        for name, digits in (("forward_us", 2), ("gradient_us", 2), ("peak_mb", 1)):
            cells += [f"{rows[each][name]:.{digits}f}" if each in rows else "-" for each in lengths]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Gradient time per token and peak memory against length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(13, 6))
    for axis, name, label in zip(axes, ("gradient_us", "peak_mb"), ("gradient, us/token", "peak, MB"), strict=True):
        for index, (kind, rows) in enumerate(results.items()):
            style = ":" if kind in MEMAX else "-" if index < 10 else "--"
            values = [row[name] for row in rows.values()]
            axis.plot(list(rows), values, style, color=f"C{index % 10}", marker="o", markersize=4, label=kind)
        axis.set(xscale="log", yscale="log", xlabel="length", ylabel=label)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize="small", loc="center right")
    figure.tight_layout(rect=(0, 0, 0.86, 1))
    figure.savefig(path)


if __name__ == "__main__":
    main()
