"""What Dreamer learns, seed by seed: learning gates, PPO beside it, four sequence models, what the actor sees.

    uv run benchmarks/dreamer_runs.py [--groups gates ppo ...] [--seeds 0 1 2] [--run-dir runs/dreamer]
                                      [--markdown FILE] [--table-only]

Every cell is a run of `hippodrome train` for each seed, so the command may be killed and given again: what is finished
is kept, what is half-finished is resumed. The tables give the return of the final policy on 512 fresh episodes, and
where it was solved: the environment steps at the first of three evaluations in a row (64 episodes each, every
`EVALUATE_EVERY` steps) that reach 95 % of the best possible return. The groups are in GROUPS.
"""

import argparse
import dataclasses
import hashlib
import json
import logging
import re
import signal
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hippodrome.training import evaluate
from hippodrome.training.config import load_config
from hippodrome.training.metrics import read_metrics
from hippodrome.training.statistics import summarize_returns
from hippodrome.training.step import make_experiment

EVALUATE_EVERY = 1_280


PARALLEL = "--agent.posterior parallel --agent.imagination-stride 4"
S5 = "--memory.kind s5 --memory.d-state 128 --memory.num-layers 2"


@dataclasses.dataclass(frozen=True)
class Task:
    """An environment, how long it is trained on, and the return that cannot be passed.

    Attributes:
        env_id, env_flags: the environment.
        steps: environment steps.
        best: the highest return there is, as a mean over episodes.
        agent_flags: of Dreamer on it.
    """

    env_id: str
    steps: int
    best: float
    env_flags: str = ""
    agent_flags: str = "--agent.train-ratio 64"


# Rewards of RepeatPreviousEasy are 1/48.
REPEAT = "--agent.train-ratio 64 --agent.reward-unit 0.02 --agent.entropy-coef 1e-2"
# One reward in 31 steps: with the weight of all others it is not learnt. It is the exclusive or of a bit and the last
# action; a policy that nothing keeps random settles on one action, and then it is that bit.
CHAIN = "--agent.train-ratio 64 --agent.learning-rate 1e-3 --agent.reward-coef 30 --agent.entropy-coef 0"
# Rewards of a step are at most 1/200.
PIXELS = (
    f"{S5} --agent.posterior parallel --agent.imagination-stride 8 --agent.train-ratio 16 --agent.image-depth 4 "
    "--agent.learning-rate 1e-3 --agent.reward-unit 0.005"
)
TASKS = {
    "empty": Task("hippodrome/Empty-5x5", 25_000, 0.955),
    "cartpole": Task("popgym/PositionOnlyCartPoleEasy", 25_000, 1.0),
    "repeat": Task("popgym/RepeatPreviousEasy", 60_000, 1.0, agent_flags=REPEAT),
    **{
        f"pendulum-{background}": Task(
            "hippodrome/PixelPendulum", 20_000, 1.0, f"--env.kwargs background={background} size=32", PIXELS
        )
        for background in ("clean", "noise")
    },
    "chain": Task("gymnax/MemoryChain-bsuite", 30_000, 1.0, "--env.params memory_length=30", CHAIN),
}

# The agent's parameters are those of the one with a block-GRU within 5 %, on RepeatPreviousEasy.
BACKBONES: dict[str, tuple[str, ...]] = {
    "block-GRU": (),
    "S5": ("--memory.kind", "s5", "--memory.num-layers", "1", "--memory.d-state", "128"),
    "Mamba-2": (
        "--memory.kind", "mamba2", "--memory.num-layers", "1", "--memory.d-model", "64", "--memory.expand", "1",
        "--memory.d-state", "8",
    ),
    "hybrid: block-GRU, S5": (
        "--memory.kind", "hybrid", "--memory.num-layers", "1", "--memory.d-model", "96", "--memory.layers",
        '{"kind": "block_gru", "hidden": 64, "num_blocks": 4}', '{"kind": "s5", "d_state": 64}',
    ),
}  # fmt: skip
TOLERANCE = 0.05


@dataclasses.dataclass(frozen=True)
class Cell:
    """One row of a table: a task under one agent."""

    label: str
    task: str
    flags: tuple[str, ...] = ()
    config: str = "dreamer"
    steps: int | None = None

    @property
    def words(self) -> list[str]:
        """The command line of its runs, without seed and folder."""
        task = TASKS[self.task]
        words = [self.config, "--env.id", task.env_id, *task.env_flags.split()]
        if self.config == "dreamer":
            words += task.agent_flags.split()
        return [*words, "--total-env-steps", str(self.steps or task.steps), *self.flags]


def backbone_cells(task: str, steps: int) -> list[Cell]:
    """The four sequence models with the same posterior, window and number of parameters."""
    return [Cell(label, task, (*flags, *PARALLEL.split()), steps=steps) for label, flags in BACKBONES.items()]


def ppo_cell(num_envs: int) -> Cell:
    """PPO on the cartpole; minibatches are groups of environments."""
    minibatches = min(num_envs, 8)
    flags = ("--env.num-envs", str(num_envs), "--agent.num-minibatches", str(minibatches))
    return Cell(f"PPO, {num_envs} environments", "cartpole", flags, "popgym", 300_000)


# Of benchmarks/distractors.py.
_HRSSM = "--agent.latent-coef 1 --agent.mask-ratio 0.5 --agent.mask-patch 5 --agent.bisimulation-coef 1"
PIXEL_ARMS = {
    "reconstruction": (),
    "HRSSM": (*_HRSSM.split(), "--agent.reconstruction-coef", "0"),
    "Barlow": ("--agent.barlow-coef", "1", "--agent.reconstruction-coef", "0"),
}
GATE_S5 = (*S5.split(), *PARALLEL.split())
GROUPS: dict[str, list[Cell]] = {
    "gates": [
        Cell("block-GRU, recurrent posterior", "empty"),
        Cell("S5, parallel posterior", "cartpole", GATE_S5),
        Cell("S5, parallel posterior", "repeat", GATE_S5),
        Cell("S5, parallel posterior", "chain", GATE_S5),
    ],
    "ppo": [ppo_cell(num_envs) for num_envs in (4, 16, 64)],
    "backbones": [
        *backbone_cells("repeat", 30_000),
        *backbone_cells("chain", 20_000),
        *backbone_cells("cartpole", 15_000),
    ],
    "actor-input": [
        Cell(f"actor_input {choice}", task, (*GATE_S5, "--agent.actor-input", choice), steps=steps)
        for task, steps in (("repeat", 30_000), ("cartpole", 15_000))
        for choice in ("full", "output", "hidden")
    ],
    "small-rewards": [
        Cell(f"reward_unit {unit}", "repeat", (*GATE_S5, "--agent.reward-unit", unit), steps=30_000)
        for unit in ("0.02", "1")
    ],
    "rare-rewards": [
        Cell(label, "chain", (*GATE_S5, *flags), steps=20_000)
        for label, flags in (
            ("as above", ()),
            ("reward_coef 1", ("--agent.reward-coef", "1")),
            ("entropy_coef 3e-4", ("--agent.entropy-coef", "3e-4")),
        )
    ],
    "distractor-returns": [
        Cell(arm, f"pendulum-{background}", flags)
        for background in ("clean", "noise")
        for arm, flags in PIXEL_ARMS.items()
    ],
}


def folder_of(cell: Cell, seed: int, root: Path) -> Path:
    """Where a run lies; cells of several groups that are the same run share it."""
    label = "-".join(re.findall(r"[A-Za-z0-9.]+", " ".join(cell.words)))
    digest = hashlib.sha256(" ".join(cell.words).encode()).hexdigest()[:8]
    return root / f"{cell.task}-{label[:40]}-{digest}-seed{seed}"


def train(cell: Cell, seed: int, root: Path) -> None:
    """One run; returns at once where that has been done."""
    folder = folder_of(cell, seed, root)
    if (folder / "evaluation.json").exists():
        return
    command = [sys.executable, "-m", "hippodrome.launch", "train"]
    if (folder / "checkpoints").exists():
        command += ["--resume", str(folder)]
    else:
        config = load_config(cell.words[0], cell.words[1:])
        per_update = config.env.num_envs * config.agent.num_steps
        command += [*cell.words, "--seed", str(seed), "--run-dir", str(folder), "--evaluation.episodes", "64"]
        command += ["--evaluation.every-updates", str(max(1, EVALUATE_EVERY // per_update))]
        command += ["--log.every-updates", str(max(1, EVALUATE_EVERY // per_update)), "--log.no-tensorboard"]
    process = subprocess.Popen(command, stdout=sys.stderr)
    # Ctrl-C reaches the run too, which finishes its update and saves: it must not be killed meanwhile.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    status = process.wait()
    signal.signal(signal.SIGINT, previous)
    if status:
        sys.exit(status)


def evaluate_run(folder: Path) -> dict[str, Any]:
    """What 512 fresh episodes give, and when it was solved; kept in a file of its own."""
    path = folder / "benchmark.json"
    if path.exists():
        return json.loads(path.read_text())
    result = evaluate(folder, episodes=512, seed=1)
    rows = read_metrics(folder)
    found = {
        "return": result["return"]["mean"],
        "return_sampled": result["return_sampled"]["mean"],
        "curve": [[row["env_steps"], row["evaluation_return"]] for row in rows if "evaluation_return" in row],
        "wall_time": [row["wall_time"] for row in rows if "wall_time" in row][-1],
    }
    path.write_text(json.dumps(found))
    return found


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
    agent = make_experiment(load_config(cell.words[0], cell.words[1:])).agent
    shapes = jax.eval_shape(lambda: agent.init(jax.random.key(0), 1).params)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def table(group: str, seeds: list[int], root: Path) -> str:
    """What has been measured of a group so far."""
    lines = [
        "| Task | Agent | Parameters | Env steps | Return (interval) | Each seed | Sampled | Solved at | Time (s) |",
        "|---|---|---:|---:|---:|---|---:|---|---:|",
    ]
    for cell in GROUPS[group]:
        folders = [folder_of(cell, seed, root) for seed in seeds]
        done = [folder for folder in folders if (folder / "evaluation.json").exists()]
        if done:
            lines.append(row(cell, [evaluate_run(folder) for folder in done]))
    return "\n".join(lines) + "\n"


def row(cell: Cell, found: list[dict[str, Any]]) -> str:
    """One cell: the mean over seeds, its 95 % bootstrap interval, and each."""
    task, steps = TASKS[cell.task], cell.steps or TASKS[cell.task].steps
    returns = [each["return"] for each in found]
    summary = summarize_returns(np.array(returns)[:, None])
    solved = [solved_at(each["curve"], each["return"], steps, task.best) for each in found]
    entries = [
        task.env_id + (f" ({task.env_flags.split()[-1]})" if task.env_flags else ""),
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
    cells = backbone_cells("repeat", 30_000)
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
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    logging.getLogger("hippodrome.config").setLevel(logging.ERROR)
    check_matched()
    todo = [(cell, seed) for group in arguments.groups for seed in arguments.seeds for cell in GROUPS[group]]
    for cell, seed in [] if arguments.table_only else todo:
        train(cell, seed, arguments.run_dir)
        evaluate_run(folder_of(cell, seed, arguments.run_dir))
    parts = [f"### {group}\n\n{table(group, arguments.seeds, arguments.run_dir)}" for group in arguments.groups]
    text = "\n".join(parts)
    if arguments.markdown:
        arguments.markdown.write_text(text)
    print(text, flush=True)


if __name__ == "__main__":
    main()
