"""What agents learn to do within a meta-episode: regret on bandits, returns on tabular processes, curves on control.

    uv run benchmarks/meta_runs.py [--groups bandits tabular ...] [--agents S5 GRU ...] [--run-dir runs/meta]
                                   [--results docs/measured/meta_runs.json] [--markdown FILE] [--table-only]

Every row is one run of `hippodrome train` with four vmapped seeds, so the command may be killed and given again: what
was measured is kept in the results file, what is half-finished is resumed. Policies are judged on 1,024 held-out tasks,
sampling actions. Bandits and tabular processes stand beside Thompson sampling and posterior sampling on as many
held-out tasks (benchmarks/meta_references.py). On control, a gain is the return of the last trial less that of the
first.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from child import digest_of, run_to_end
from measured import Results
from meta_references import bandit_reference, tabular_reference

from hippodrome.training.config import load_config
from hippodrome.training.config.checks import build_env
from hippodrome.training.evaluation.adaptation import (
    begin_meta_episodes,
    evaluate_adaptation,
    play_every_seed,
    split_env,
)
from hippodrome.training.evaluation.evaluate import restore_run
from hippodrome.training.evaluation.statistics import nested_interval

SEEDS, TASKS = 4, 1024


@dataclasses.dataclass(frozen=True)
class Cell:
    """A row: a shipped configuration, with flags."""

    label: str
    config: str
    flags: tuple[str, ...] = ()


def memory(kind: str, *flags: str) -> tuple[str, ...]:
    """The flags of a memory."""
    return ("--memory.kind", kind, *flags)


GROUPS = {
    "bandits": [Cell("S5", "meta-bandit")],
    "tabular": [Cell("Gated DeltaNet", "meta-tabular")],
    "control": [
        Cell("S5", "meta-control"),
        # About as many parameters as S5's 35,508.
        Cell("RG-LRU", "meta-control", memory("rg_lru", "--memory.d-model", "52")),
        Cell("GRU", "meta-control", memory("gru", "--memory.d-model", "42")),
        Cell("no memory", "meta-control", memory("mlp", "--memory.d-model", "42")),
    ],
    "cartpole": [Cell("S5", "meta-cartpole")],
}
SPLITS = ("train", "held-out-projections", "held-out-tasks", "held-out-both")


def name_of(cell: Cell) -> str:
    """Of a row's run."""
    name = f"{cell.config}-{cell.label.lower().replace(' ', '-')}"
    return f"{name}-{digest_of(load_config(cell.config, cell.flags))}"


def finished_run(cell: Cell, root: Path) -> Path:
    """The folder of the row's run, trained to its end."""
    folder = root / name_of(cell)
    if (folder / "evaluation.json").exists():
        return folder
    if folder.exists():
        run_to_end(["train", "--resume", str(folder)])
        return folder
    words = ["train", cell.config, *cell.flags, "--num-seeds", str(SEEDS), "--run-dir", str(folder)]
    run_to_end([*words, "--log.no-tensorboard"])
    return folder


def totals(folder: Path) -> tuple[np.ndarray, Any]:
    """Return of whole meta-episodes on held-out tasks, `[S, E]`, actions sampled, and the tasks."""
    config = load_config(folder)
    experiment, state, _ = restore_run(folder, config, "last")
    env, given = build_env(split_env(config.env, "held-out-tasks", None))

    begin_key, act_key = jax.random.split(jax.random.key(1))
    start = begin_meta_episodes(env, begin_key, num_episodes=TASKS, given=given)
    played = play_every_seed(
        experiment.agent, env, state.learner.params, start, act_key, deterministic=False, given=given
    )
    return played.trial_returns.sum(-1), played.task


def bandit_regret(config: Any, returns: np.ndarray, tasks: Any) -> tuple[np.ndarray, float]:
    """Regret of each meta-episode, and Thompson sampling's."""
    steps, arms = config.env.kwargs["steps"], config.env.kwargs["arms"]
    # Rewards stand for the chances of the arms pulled: the same on average.
    regret = steps * np.asarray(tasks.chances).max(-1) - returns
    return regret, bandit_reference(arms, steps, 20 * TASKS)[0]


def tabular_return(config: Any, returns: np.ndarray, tasks: Any) -> tuple[np.ndarray, float]:
    """Return of each meta-episode, and posterior sampling's."""
    del tasks
    return returns, tabular_reference(config.env.kwargs["trials"], 4 * TASKS)["PSRL"][0]


# What is measured, the reference, and the numbers `[S, E]` with the reference's mean.
BESIDE: dict[str, tuple[str, str, Any]] = {
    "bandits": ("Regret", "Thompson sampling", bandit_regret),
    "tabular": ("Return", "PSRL", tabular_return),
}


def beside(group: str, cells: list[Cell], root: Path, results: Results, table_only: bool) -> str:
    """The table of a group that stands beside a reference."""
    what, reference, measure = BESIDE[group]
    lines = [f"| Agent | {what} (interval) | Each seed | {reference} | Ratio |", "|---|---:|---|---:|---:|"]
    for cell in cells:

        def find(cell: Cell = cell) -> dict[str, Any]:
            folder = finished_run(cell, root)
            values, expected = measure(load_config(folder), *totals(folder))
            seeds = values.mean(-1).tolist()
            interval = nested_interval(values)
            return {"mean": float(values.mean()), "interval": interval, "seeds": seeds, "reference": expected}

        if not table_only or name_of(cell) in results.found:
            lines.append(_row(cell, results.kept(name_of(cell), find)))
    return "\n".join(lines)


def adaptation(group: str, cells: list[Cell], root: Path, results: Results, table_only: bool) -> str:
    """First trial, last trial and gain in every split there is."""
    lines = [
        "| Agent | Split | Trials | First trial | Last trial | Gain (interval) | 20th percentile of the last |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for cell in cells:
        trained = load_config(cell.config, cell.flags).env.kwargs["trials"]
        cases = [(split, trained) for split in SPLITS] if group == "control" else [
            (split, trials) for split in ("train", "held-out-projections") for trials in (trained, 2 * trained)
        ]  # fmt: skip
        for split, trials in cases:

            def find(cell: Cell = cell, split: str = split, trials: int = trials) -> dict[str, Any]:
                folder = finished_run(cell, root)
                found = evaluate_adaptation(folder, split=split, trials=trials, episodes=TASKS, seed=1)
                return found["sampled"]

            name = f"{name_of(cell)}/{split}/{trials}"
            if table_only and name not in results.found:
                continue
            part = results.kept(name, find)
            gain = part["gain"]
            lines.append(
                f"| {cell.label} | {split} | {trials} | {part['first']['mean']:.2f} | {part['last']['mean']:.2f} | "
                f"{gain['mean']:+.2f} ({gain['low']:+.2f} to {gain['high']:+.2f}) | {part['percentile_20']:.2f} |"
            )
    return "\n".join(lines)


def _row(cell: Cell, found: dict[str, Any]) -> str:
    low, high = found["interval"]
    seeds = ", ".join(f"{value:.2f}" for value in found["seeds"])
    ratio = found["mean"] / found["reference"]
    return (
        f"| {cell.label} | {found['mean']:.2f} ({low:.2f} to {high:.2f}) | {seeds} | {found['reference']:.2f} | "
        f"{ratio:.2f} |"
    )


def main() -> None:
    """Fill the tables, run by run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=list(GROUPS), default=list(GROUPS), metavar="GROUP")
    labels = sorted({cell.label for cells in GROUPS.values() for cell in cells})
    parser.add_argument("--agents", nargs="+", choices=labels, default=labels, metavar="AGENT", help="only these rows")
    parser.add_argument("--run-dir", type=Path, default=Path("runs/meta"))
    parser.add_argument("--results", type=Path, default=Path("docs/measured/meta_runs.json"))
    parser.add_argument("--markdown", type=Path, help="write the tables there")
    parser.add_argument("--table-only", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    results = Results(arguments.results)
    parts = []
    for group in arguments.groups:
        table = beside if group in BESIDE else adaptation
        cells = [cell for cell in GROUPS[group] if cell.label in arguments.agents]
        rows = table(group, cells, arguments.run_dir, results, arguments.table_only)
        parts.append(f"### {group}\n\n{rows}\n")
    text = "\n".join(parts)
    if arguments.markdown:
        arguments.markdown.write_text(text)
    print(text, flush=True)


if __name__ == "__main__":
    main()
