"""What every memory costs by length: forward, gradient and single step, and the memory XLA sets aside for the gradient.

    uv run benchmarks/memory_speed.py [--kinds s5 mamba gru] [--json FILE] [--markdown FILE] [--plot FILE]

One bare layer of width 64 at its default options, batch 8, float32, T = 64 ... 16,384; medians of runs that take the
memories in turn. Times are per token. "Peak" is the temporary memory of the compiled gradient. A cell is left out where
the one before it took more than --patience seconds.
"""

import argparse
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


class Cell:
    """One memory at one length, compiled."""

    def __init__(self, kind: str, length: int):
        memory = make_memory(kind, d_model=WIDTH).layers[0].layer
        self.tokens = length * BATCH
        carry = memory.initial_carry((BATCH,))
        x = jax.random.normal(jax.random.key(0), (length, BATCH, WIDTH))
        reset = jax.random.uniform(jax.random.key(1), x.shape[:2]) < 0.005
        params = jax.jit(memory.init)(jax.random.key(2), carry, x[:2], reset[:2])

        def loss(params: Any, x: jax.Array) -> jax.Array:
            return (memory.apply(params, carry, x, reset)[1] ** 2).sum()

        forward = jax.jit(lambda: memory.apply(params, carry, x, reset))
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1))).lower(params, x).compile()
        step = jax.jit(lambda: memory.apply(params, carry, x[0], reset[0], method="step"))
        self.calls: dict[str, Callable[[], Any]] = {
            "forward": forward,
            "gradient": lambda: gradient(params, x),
            "step": step,
        }
        self.times: dict[str, list[float]] = {name: [] for name in self.calls}
        self.peak = gradient.memory_analysis().temp_size_in_bytes

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
    parser.add_argument("--kinds", nargs="+", default=[each for each in list_memories() if each not in SKIPPED])
    parser.add_argument("--lengths", type=int, nargs="+", default=list(LENGTHS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--patience", type=float, default=20.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    results: dict[str, dict[int, dict[str, float]]] = {kind: {} for kind in arguments.kinds}
    slow: set[str] = set()
    for length in arguments.lengths:
        cells = {kind: Cell(kind, length) for kind in arguments.kinds if kind not in slow}
        for _ in range(arguments.repeats + 1):
            for kind, cell in cells.items():
                if cell.run() > arguments.patience:
                    slow.add(kind)
        for kind, cell in cells.items():
            results[kind][length] = cell.row()
            print(kind, length, {name: round(value, 3) for name, value in cell.row().items()}, flush=True)
        jax.clear_caches()
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    if arguments.markdown:
        arguments.markdown.write_text(markdown(results, arguments.lengths))
    if arguments.plot:
        plot(results, arguments.plot)


def markdown(results: dict[str, dict[int, dict[str, float]]], lengths: list[int]) -> str:
    """One table: for each memory the gradient per token and the peak at each length, forward and step at the first."""
    head = ["memory", "step (us)", "forward (us/token)", *(f"gradient at {each}" for each in lengths)]
    head += [f"peak at {each} (MB)" for each in lengths]
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    for kind, rows in results.items():
        first = rows[lengths[0]]
        cells = [kind, f"{first['step_us']:.0f}", f"{first['forward_us']:.2f}"]
        for name, digits in (("gradient_us", 2), ("peak_mb", 1)):
            cells += [f"{rows[each][name]:.{digits}f}" if each in rows else "-" for each in lengths]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def plot(results: dict[str, dict[int, dict[str, float]]], path: Path) -> None:
    """Gradient time per token and peak memory against length."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(12, 5))
    for axis, name, label in zip(axes, ("gradient_us", "peak_mb"), ("gradient, us/token", "peak, MB"), strict=True):
        for kind, rows in results.items():
            axis.plot(list(rows), [row[name] for row in rows.values()], marker="o", label=kind)
        axis.set(xscale="log", yscale="log", xlabel="length", ylabel=label)
    axes[1].legend(fontsize="small", ncol=2)
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
