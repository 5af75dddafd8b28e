"""What Dreamer learns, seed by seed: learning gates, PPO beside it, four sequence models, what the actor sees.

    uv run benchmarks/dreamer_runs.py [--groups gates ppo ...] [--seeds 0 1 2] [--run-dir runs/dreamer]
                                      [--results docs/measured/dreamer_runs.json] [--markdown FILE] [--table-only]

Every cell is a run of `hippodrome train` for each seed, so the command may be killed and given again: what is finished
is kept in the results file, what is half-finished is resumed. The tables give the return of the final policy on 512
fresh episodes, and where it was solved: the environment steps at the first of three evaluations in a row (64 episodes
each, every `EVALUATE_EVERY` steps) that reach 95 % of the best possible return. The groups are in GROUPS.
"""

import argparse
import collections
import dataclasses
import functools
import logging
import statistics
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from child import digest_of, run_to_end
from measured import Results

from hippodrome.training import evaluate
from hippodrome.training.config import load_config
from hippodrome.training.evaluation.statistics import summarize_returns
from hippodrome.training.log.metrics import read_metrics
from hippodrome.training.step import make_experiment

# Environment steps between evaluations, by configuration.
EVALUATE_EVERY = collections.defaultdict(lambda: 1_280, {"dreamer-few-steps": 256, "dreamer-pendulum": 5_120})
TOLERANCE = 0.05
# The highest mean return there is.
BEST = {
    "dreamer-empty-room": 0.955,
    "dreamer": 1.0,
    "dreamer-few-steps": 1.0,
    "dreamer-repeat-previous": 1.0,
    "dreamer-memory-chain": 1.0,
    "dreamer-pendulum": 1.0,
}
# One layer, of which the hybrid has one each. The agent's parameters are those of the one with a block-GRU within 5 %.
BACKBONES: dict[str, tuple[str, ...]] = {
    "block-GRU": ("--memory.kind", "block_gru", "--memory.hidden", "64", "--memory.num-blocks", "4"),
    "S5": ("--memory.kind", "s5", "--memory.d-state", "128"),
    "Mamba-2": (
        *("--memory.kind", "mamba2", "--memory.d-model", "64", "--memory.expand", "1", "--memory.d-state", "8"),
    ),
    "hybrid: block-GRU, S5": (
        *("--memory.kind", "hybrid", "--memory.d-model", "96", "--memory.layers"),
        '{"kind": "block_gru", "hidden": 64, "num_blocks": 4}', '{"kind": "s5", "d_state": 64}',
    ),
}  # fmt: skip
ONE_LAYER = {label: (*flags, "--memory.num-layers", "1") for label, flags in BACKBONES.items()}
TWO_LAYERS = {label: (*flags, "--memory.num-layers", "2") for label, flags in BACKBONES.items()} | {
    "hybrid: block-GRU, S5": (
        *("--memory.num-layers", "1", "--memory.kind", "hybrid", "--memory.d-model", "128", "--memory.layers"),
        '{"kind": "block_gru", "hidden": 64, "num_blocks": 4}', '{"kind": "s5", "d_state": 192}',
    ),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row of a table: a shipped configuration, with flags.

    Attributes:
        label: what it is.
        config: its name.
        flags: what differs from it.
        best: the highest mean return there is.
    """

    label: str
    config: str
    flags: tuple[str, ...] = ()
    best: float = 1.0

    @functools.cached_property
    def resolved(self) -> Any:
        """The configuration."""
        return load_config(self.config, self.flags)


def cell(label: str, config: str, *flags: str, steps: int | None = None) -> Cell:
    """A cell of Dreamer, with another number of environment steps where given."""
    words = [] if steps is None else ["--total-env-steps", str(steps)]
    return Cell(label, config, (*words, *flags), BEST[config])


def backbone_cells(config: str, steps: int | None, models: dict[str, tuple[str, ...]], *others: str) -> list[Cell]:
    """The four sequence models with the same posterior, window and number of parameters; `others` are more flags."""
    return [cell(label, config, *flags, *others, steps=steps) for label, flags in models.items()]


def ppo_cell(num_envs: int) -> Cell:
    """PPO on the cartpole; minibatches are groups of environments."""
    flags = f"--env.id popgym/PositionOnlyCartPoleEasy --env.num-envs {num_envs} --total-env-steps 300000"
    minibatches = ("--agent.num-minibatches", str(min(num_envs, 8)))
    return Cell(f"PPO, {num_envs} environments", "popgym", (*flags.split(), *minibatches))


# Arms of benchmarks/distractors.py.
_HRSSM = "--agent.latent-coef 1 --agent.mask-ratio 0.5 --agent.mask-patch 5 --agent.bisimulation-coef 1"
PIXEL_ARMS = {
    "reconstruction": (),
    "HRSSM": (*_HRSSM.split(), "--agent.reconstruction-coef", "0"),
    "Barlow": ("--agent.barlow-coef", "1", "--agent.reconstruction-coef", "0"),
}
GROUPS: dict[str, list[Cell]] = {
    "gates": [
        cell("block-GRU, recurrent posterior", "dreamer-empty-room"),
        cell("S5, parallel posterior", "dreamer"),
        cell("S5, parallel posterior, train_ratio 512", "dreamer-few-steps"),
        cell("S5, parallel posterior", "dreamer-repeat-previous"),
        cell("S5, parallel posterior", "dreamer-memory-chain"),
    ],
    "ppo": [ppo_cell(num_envs) for num_envs in (4, 16, 64)],
    "backbones": [
        *backbone_cells("dreamer-repeat-previous", 40_000, ONE_LAYER),
        *backbone_cells("dreamer-memory-chain", 30_000, TWO_LAYERS, "--agent.uniform-mix", "0.01"),
        *backbone_cells("dreamer", 20_000, ONE_LAYER),
    ],
    "actor-input": [
        cell(f"actor_input {choice}", config, "--agent.actor-input", choice, steps=steps)
        for config, steps in (("dreamer-repeat-previous", 40_000), ("dreamer", 20_000))
        for choice in ("full", "output", "hidden")
    ],
    "small-vectors": [
        cell(f"reconstruction_coef {coef}", "dreamer-few-steps", "--agent.reconstruction-coef", coef)
        for coef in ("300", "30", "1")
    ],
    "small-rewards": [
        cell(f"reward_unit {unit}", "dreamer-repeat-previous", "--agent.reward-unit", unit, steps=40_000)
        for unit in ("0.02", "1")
    ],
    "rare-rewards": [
        cell("as shipped", "dreamer-memory-chain", steps=30_000),
        cell("reward_coef 1", "dreamer-memory-chain", "--agent.reward-coef", "1", steps=30_000),
        cell("entropy_coef 3e-4", "dreamer-memory-chain", "--agent.entropy-coef", "3e-4", steps=30_000),
        cell("uniform_mix 0.01", "dreamer-memory-chain", "--agent.uniform-mix", "0.01", steps=30_000),
    ],
    "distractor-returns": [
        cell(f"{background}: {arm}", "dreamer-pendulum", "--env.kwargs", f"background={background}", "size=32", *flags)
        for background in ("clean", "noise")
        for arm, flags in PIXEL_ARMS.items()
    ],
}


def folder_of(cell: Cell, seed: int, root: Path) -> Path:
    """Where a run lies; cells of several groups that are the same run share it."""
    return root / f"{cell.config}-{cell.resolved.memory.kind}-{digest_of(cell.resolved)}-seed{seed}"


def train(cell: Cell, folder: Path, seed: int) -> None:
    """One run; returns at once where that has been done."""
    if (folder / "evaluation.json").exists():
        return
    if (folder / "checkpoints").exists():
        run_to_end(["train", "--resume", str(folder)])
        return
    every = str(max(1, EVALUATE_EVERY[cell.config] // (cell.resolved.env.num_envs * cell.resolved.agent.num_steps)))
    words = ["train", cell.config, *cell.flags, "--seed", str(seed), "--run-dir", str(folder), "--log.no-tensorboard"]
    words += ["--evaluation.episodes", "64", "--evaluation.every-updates", every, "--log.every-updates", every]
    run_to_end(words)


def evaluate_run(folder: Path) -> dict[str, Any]:
    """What 512 fresh episodes give, and when it was solved."""
    result = evaluate(folder, episodes=512, seed=1)
    rows = read_metrics(folder)
    return {
        "return": result["return"]["mean"],
        "return_sampled": result["return_sampled"]["mean"],
        "curve": [[row["env_steps"], row["evaluation_return"]] for row in rows if "evaluation_return" in row],
        "wall_time": [row["wall_time"] for row in rows if "wall_time" in row][-1],
    }


def solved_at(curve: list[list[float]], final: float, steps: int, best: float) -> int | None:
    """Environment steps at the first of three evaluations in a row of 95 % of the best; the final one counts."""
    points = [*curve, [steps, final]]
    good = [value >= 0.95 * best for _, value in points]
    for index in range(len(points) - 2):
        if all(good[index : index + 3]):
            return int(points[index][0])
    return None


def count_parameters(cell: Cell) -> int:
    """Of the agent, without making it."""
    agent = make_experiment(cell.resolved).agent
    shapes = jax.eval_shape(lambda: agent.init(jax.random.key(0), 1).params)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def table(group: str, seeds: list[int], results: Results) -> str:
    """What has been measured of a group so far."""
    lines = [
        "| Task | Agent | Parameters | Env steps | Return (interval) | Each seed | Sampled | Solved at | Time (s) |",
        "|---|---|---:|---:|---:|---|---:|---|---:|",
    ]
    for cell in GROUPS[group]:
        names = [folder_of(cell, seed, Path()).name for seed in seeds]
        done = [results.found[name] for name in names if name in results.found]
        if done:
            lines.append(row(cell, done))
    return "\n".join(lines) + "\n"


def row(cell: Cell, found: list[dict[str, Any]]) -> str:
    """One cell: the mean over seeds, its 95 % bootstrap interval, and each."""
    steps = cell.resolved.total_env_steps
    returns = [each["return"] for each in found]
    summary = summarize_returns(np.array(returns)[:, None])
    solved = [solved_at(each["curve"], each["return"], steps, cell.best) for each in found]
    entries = [
        cell.resolved.env.id,
        cell.label,
        f"{count_parameters(cell):,}",
        f"{steps:,}",
        f"{statistics.mean(returns):.3f} ({summary['iqm_low']:.3f} to {summary['iqm_high']:.3f})",
        ", ".join(f"{value:.3f}" for value in returns),
        f"{statistics.mean(each['return_sampled'] for each in found):.3f}",
        ", ".join("-" if value is None else f"{value:,}" for value in solved),
        f"{statistics.median(each['wall_time'] for each in found):.0f}",
    ]
    return f"| {' | '.join(entries)} |"


def check_matched() -> None:
    """Exit unless the sequence models have the same number of parameters."""
    for config, models in (("dreamer-repeat-previous", ONE_LAYER), ("dreamer-memory-chain", TWO_LAYERS)):
        cells = backbone_cells(config, None, models)
        aim = count_parameters(cells[0])
        for cell in cells:
            if abs(count_parameters(cell) / aim - 1) > TOLERANCE:
                sys.exit(f"{cell.label} has {count_parameters(cell):,} parameters, not {aim:,} within {TOLERANCE:.0%}")


def main() -> None:
    """Fill the tables, run by run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--run-dir", type=Path, default=Path("runs/dreamer"))
    parser.add_argument("--results", type=Path, default=Path("docs/measured/dreamer_runs.json"))
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    logging.getLogger("hippodrome.config").setLevel(logging.ERROR)
    check_matched()
    todo = [(cell, seed) for group in arguments.groups for seed in arguments.seeds for cell in GROUPS[group]]
    results = Results(arguments.results)
    for cell, seed in [] if arguments.table_only else todo:
        folder = folder_of(cell, seed, arguments.run_dir)
        if folder.name not in results.found:
            train(cell, folder, seed)
            results.add(folder.name, evaluate_run(folder))
    parts = [f"### {group}\n\n{table(group, arguments.seeds, results)}" for group in arguments.groups]
    text = "\n".join(parts)
    if arguments.markdown:
        arguments.markdown.write_text(text)
    print(text, flush=True)


if __name__ == "__main__":
    main()
