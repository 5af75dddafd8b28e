"""Time of Dreamer's world-model gradient and of its whole update, by sequence model and length of the window.

    uv run benchmarks/world_model_speed.py [--size dreamer dreamer-12m] [--lengths 64 256 1024 4096] [--steps 4096]
                                           [--repeats 5] [--json FILE]

Sizes are shipped configurations: `dreamer`, with the sequence models of `dreamer_runs.py`, and `dreamer-12m`, with S5
of as many parameters. Each has a block-GRU with the recurrent posterior, as in DreamerV3; the others have the parallel
one. An update replays `steps` steps whatever the window, so that longer windows are fewer. Observations are those of
PositionOnlyCartPoleEasy; an episode ends every 100 steps. A window is run in 16 chunks and imagination starts from the
end of each; its horizon is that of the configuration. All programs of one length run in turn, `repeats` times; medians
are shown.
"""

import argparse
import itertools
import json
import logging
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from dreamer_runs import BACKBONES

from hippodrome.agents import ReplayBatch, ReplayStep
from hippodrome.agents.dreamer.world_model import world_model_loss
from hippodrome.training.config import load_config
from hippodrome.training.step import make_experiment

CHUNKS = 16
EPISODE = 100
_PARALLEL = ("--agent.posterior", "parallel")
_ONE_LAYER = ("--memory.num-layers", "1")
_LARGE_S5 = ("--memory.kind", "s5", "--memory.d-model", "1024", "--memory.d-state", "896", "--memory.num-layers", "2")
MODELS = {
    "dreamer": {
        "block-GRU, recurrent posterior": (*BACKBONES["block-GRU"], *_ONE_LAYER, "--agent.posterior", "recurrent"),
        **{f"{label}, parallel posterior": (*flags, *_ONE_LAYER) for label, flags in BACKBONES.items()},
    },
    "dreamer-12m": {"block-GRU, recurrent posterior": (), "S5, parallel posterior": (*_LARGE_S5, *_PARALLEL)},
}


def random_windows(agent: Any, length: int, windows: int) -> ReplayBatch:
    """Windows of noise, with ends of episodes."""
    shape = (length, windows)
    observation = jax.random.normal(jax.random.key(1), (*shape, *agent.observation_space.shape))
    last = (jnp.arange(length)[:, None] + 13 * jnp.arange(windows)) % EPISODE == EPISODE - 1
    reset = jnp.concatenate([jnp.zeros((1, windows), bool), last[:-1]])
    action = jnp.where(reset, -1, jax.random.randint(jax.random.key(2), shape, 0, agent.action_space.n))
    steps = ReplayStep(observation, reset, action, jnp.where(reset, 0.0, 1.0 / EPISODE), last, last)
    return ReplayBatch(steps, agent.initial_carry(windows))


def programs(size: str, flags: tuple[str, ...], length: int, windows: int) -> dict[str, Callable[[], Any]]:
    """The gradient and the update of one sequence model, compiled."""
    words = [
        *("--env.id", "popgym/PositionOnlyCartPoleEasy", *flags),
        *("--agent.batch-length", str(length), "--agent.batch-size", str(windows)),
        *("--agent.imagination-stride", str(length // CHUNKS)),
    ]
    agent: Any = make_experiment(load_config(size, words)).agent
    state = jax.jit(lambda key: agent.init(key, 1))(jax.random.key(0))
    batch, key = random_windows(agent, length, windows), jax.random.key(3)

    def loss(params):
        return world_model_loss(agent, params, state.target, (jnp.zeros(()), jnp.ones(())), batch, key)[0]

    gradient = jax.jit(jax.grad(loss)).lower(state.params).compile()
    update = jax.jit(agent.learn).lower(state, batch, key).compile()
    return {"gradient": lambda: gradient(state.params), "update": lambda: update(state, batch, key)}


def seconds(function: Callable[[], Any]) -> float:
    """Of one call."""
    began = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - began


def measure(size: str, length: int, windows: int, repeats: int) -> dict[str, dict[str, float]]:
    """Median seconds of every program at one length, run in turn."""
    made = {label: programs(size, flags, length, windows) for label, flags in MODELS[size].items()}
    found: dict[tuple[str, str], list[float]] = {(label, what): [] for label in made for what in made[label]}
    for repeat in range(repeats + 1):
        for label, what in found:
            taken = seconds(made[label][what])
            if repeat:  # the first one warms up
                found[label, what].append(taken)
    return {label: {what: statistics.median(found[label, what]) for what in made[label]} for label in made}


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[64, 256, 1024, 4096])
    parser.add_argument("--steps", type=int, default=4096, help="of an update, all windows together")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    for length in arguments.lengths:
        if length % CHUNKS or arguments.steps % length:
            parser.error(f"--lengths {length} must be divisible by {CHUNKS} and divide --steps {arguments.steps}")
    logging.getLogger("hippodrome.config").setLevel(logging.ERROR)
    print("| Size | Window | Sequence model | Gradient (ms) | Times as fast | Update (ms) | Times as fast |")
    print("|---|---:|---|---:|---:|---:|---:|", flush=True)
    results = {}
    for size, length in itertools.product(arguments.size, arguments.lengths):
        found = measure(size, length, arguments.steps // length, arguments.repeats)
        results[f"{size}/{length}"] = found
        base = next(iter(found.values()))
        for label, times in found.items():
            cells = [size, str(length), label]
            for what in ("gradient", "update"):
                cells += [f"{1e3 * times[what]:.0f}", f"{base[what] / times[what]:.2f}"]
            print(f"| {' | '.join(cells)} |", flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
