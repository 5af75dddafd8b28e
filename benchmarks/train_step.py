"""The whole PPO train step with S5 against GRU stacks of the same width, and its share of the machine's sgemm rate.

    uv run benchmarks/train_step.py --json results.json

Four pre-norm residual layers of width 256 on RepeatPreviousHard: S5 with a full GLU, GRU without a GLU (as GRUs are
usually stacked) and, with --glu-too, GRU in the very same block as S5. Each shape is timed in interleaved runs of one
process, square float32 products among them, and medians are compared. Floating-point operations are those of the matrix
products alone: twice the weights used per step and environment, once in the rollout, three times (forward and both
gradients) in each epoch of learning.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from hippodrome.training.config import load_config
from hippodrome.training.rollout import collect
from hippodrome.training.step import initial_state, make_experiment

EPOCHS, MINIBATCHES, LAYERS, WIDTH = 2, 8, 4, 256
SHAPES = {"64x1024": (64, 1024), "16x128": (16, 128)}
MEMORIES = {"s5": "full", "gru": "none", "gru+glu": "full"}


def config_for(name: str, num_envs: int, num_steps: int) -> Any:
    """The configuration of one cell of the table."""
    memory = name.partition("+")[0]
    flags = {
        "memory.kind": memory,
        "env.id": "popgym/RepeatPreviousHard",
        "env.num-envs": num_envs,
        "memory.d-model": WIDTH,
        "memory.num-layers": LAYERS,
        "memory.glu": MEMORIES[name],
        "agent.num-steps": num_steps,
        "agent.num-epochs": EPOCHS,
        "agent.num-minibatches": MINIBATCHES,
        "total-env-steps": num_envs * num_steps,
    }
    if memory == "s5":
        flags["memory.d-state"] = WIDTH
    return load_config("quickstart", [word for name, value in flags.items() for word in (f"--{name}", str(value))])


class Cell:
    """One compiled train step and what belongs to it."""

    def __init__(self, memory: str, num_envs: int, num_steps: int):
        self.steps = num_envs * num_steps
        config = config_for(memory, num_envs, num_steps)
        experiment = make_experiment(config)
        state = jax.jit(lambda: initial_state(experiment, config))()
        began = time.perf_counter()
        self.step = jax.jit(experiment.step).lower(state).compile()
        self.compile_seconds = time.perf_counter() - began
        self.act = jax.jit(
            lambda s: collect(
                experiment.agent, experiment.envs, s.learner.params, s.envs, s.carry, s.key, num_steps=num_steps
            )
        )
        self.state = state
        kernels = [leaf.size for leaf in jax.tree.leaves(state.learner.params) if leaf.ndim >= 2]
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(state.learner.params))
        self.operations = 2 * sum(kernels) * self.steps * (1 + 3 * EPOCHS)

    def seconds(self, function: Any) -> float:
        """Wall-clock time of one call."""
        began = time.perf_counter()
        jax.block_until_ready(function(self.state))
        return time.perf_counter() - began


SQUARES = (1024, 2048, 4096)


def square_rates() -> dict[int, float]:
    """Operations a second of one float32 `jnp` product of each size."""
    rates = {}
    for size in SQUARES:
        a = jnp.ones((size, size))
        jax.block_until_ready(jnp.matmul(a, a))
        began = time.perf_counter()
        jax.block_until_ready(jnp.matmul(a, a))
        rates[size] = 2 * size**3 / (time.perf_counter() - began)
    return rates


def measure(shape: str, memories: list[str], repeats: int) -> dict[str, Any]:
    """All memories at one shape, interleaved."""
    cells = {memory: Cell(memory, *SHAPES[shape]) for memory in memories}
    times: dict[str, list[float]] = {memory: [] for memory in memories}
    acting: dict[str, list[float]] = {memory: [] for memory in memories}
    squares = []
    for repeat in range(repeats + 1):
        for memory, cell in cells.items():
            step, act = cell.seconds(cell.step), cell.seconds(cell.act)
            if repeat:  # the first run warms up
                times[memory].append(step)
                acting[memory].append(act)
        squares += [square_rates() for _ in range(3)]
    rate = max(statistics.median(each[size] for each in squares) for size in SQUARES)
    peak = max(max(each.values()) for each in squares)
    result: dict[str, Any] = {"sgemm_gflops": rate / 1e9, "sgemm_peak_gflops": peak / 1e9, "load": os.getloadavg()[0]}
    for memory, cell in cells.items():
        median = statistics.median(times[memory])
        result[memory] = {
            "parameters": cell.parameters,
            "compile_seconds": cell.compile_seconds,
            "step_seconds": median,
            "rollout_seconds": statistics.median(acting[memory]),
            "env_steps_per_second": cell.steps / median,
            "share_of_sgemm": cell.operations / median / rate,
            "ratio": median / statistics.median(times["s5"]),
        }
    return result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--glu-too", action="store_true", help="also a GRU in the same block as S5")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    memories = list(MEMORIES) if arguments.glu_too else list(MEMORIES)[:2]
    results = {}
    for shape in arguments.shapes:
        result = results[shape] = measure(shape, memories, arguments.repeats)
        print(f"{shape}: sgemm {result['sgemm_gflops']:.0f} GFLOP/s (peak {result['sgemm_peak_gflops']:.0f})")
        for memory in memories:
            row = result[memory]
            print(
                f"  {memory:8} {row['ratio']:5.2f} times S5  {row['parameters']:>9,} parameters  "
                f"compile {row['compile_seconds']:5.1f} s  step {row['step_seconds']:6.2f} s "
                f"(rollout {row['rollout_seconds']:.2f})  {row['env_steps_per_second']:8,.0f} env steps/s  "
                f"{row['share_of_sgemm']:.0%} of sgemm",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
