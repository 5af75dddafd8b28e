"""What a suite can score: an agent trained on each environment, or somebody's own policy."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from hippodrome.training.checkpoint.checkpointer import Checkpointer
from hippodrome.training.checkpoint.files import read_json, write_json
from hippodrome.training.config import config_differences, load_config, save_config
from hippodrome.training.config.checks import check_config
from hippodrome.training.config.plugins import import_module
from hippodrome.training.config.schema import TrainConfig
from hippodrome.training.errors import ConfigError, RunFolderError
from hippodrome.training.evaluation.evaluate import evaluate
from hippodrome.training.log.metrics import read_metrics
from hippodrome.training.loop import train
from hippodrome.training.run_folder import require_writable
from hippodrome.training.step import make_experiment, state_template

EPOCH_STEPS = 65_536


class TrainedAgent:
    """An agent that is trained on each environment."""

    def __init__(self, config: TrainConfig, config_title: str, command: Sequence[str]):
        self.config = config
        self.name = f"{config.memory.kind} ({config_title})"
        self.label = f"{config_title}-{config.memory.kind}"
        self.command = list(command)
        seeds = f"{config.num_seeds} seed" + "s" * (config.num_seeds > 1)
        self.protocol = (
            f"{config.agent.kind}, {config.total_env_steps:,} steps a task, {seeds}, final checkpoint, "
            f"{config.evaluation.episodes} episodes"
        )

    def prepare(self, folder: Path, environments: Sequence[str]) -> None:
        """Check every configuration, and that the folder was not begun with another one, before any training."""
        found: dict[str, list[str]] = {}
        for env_id in environments:
            try:
                check_config(self._config_of(env_id))
            except ConfigError as error:
                for message in error.errors:
                    found.setdefault(message, []).append(env_id)
        if found:
            raise ConfigError(
                [
                    message if len(where) == len(environments) else f"{', '.join(where)}: {message}"
                    for message, where in found.items()
                ]
            )
        _prepare_folder(folder)
        saved = folder / "suite_config.yaml"
        if saved.exists():
            names = ("now", "when the folder was begun")
            differences = config_differences(self.config, load_config(saved), names=names, ignore=("env.id",))
            if differences:
                raise ConfigError(
                    [f"{folder} was begun with another configuration; choose another --run-dir", *differences]
                )
        save_config(self.config, saved)

    def is_finished(self, folder: Path) -> bool:
        """Whether an earlier call has trained and evaluated in `folder`."""
        return read_json(folder / "evaluation.json") is not None

    def score(self, env_id: str, folder: Path) -> dict[str, Any]:
        """Train in `folder`, from where it is, and return the numbers of each seed."""
        if not self.is_finished(folder):
            self._train(env_id, folder)
        result = read_json(folder / "evaluation.json")
        if result["episodes"] != self.config.evaluation.episodes:
            result = evaluate(folder, episodes=self.config.evaluation.episodes, seed=self.config.evaluation.seed)
        parameters = count_parameters(self._config_of(env_id))
        return {"return": result["return"]["per_seed"], "mmer": best_epochs(folder), "parameters": parameters}

    def _train(self, env_id: str, folder: Path) -> None:
        config = self._config_of(env_id)
        if Checkpointer(folder / "checkpoints").steps():
            train(config, resume=folder, command=self.command)
            return
        # Killed before its first checkpoint: nothing in it is worth keeping.
        shutil.rmtree(folder, ignore_errors=True)
        train(config, run_dir=folder, command=self.command)

    def _config_of(self, env_id: str) -> TrainConfig:
        return dataclasses.replace(self.config, env=dataclasses.replace(self.config.env, id=env_id))


class PolicyAgent:
    """Somebody's own policy, `module:policy`, scored as it is."""

    def __init__(self, target: str, episodes: int, overrides: Sequence[str]):
        if overrides:
            raise ConfigError(f"{' '.join(overrides)}: a policy is scored without training and takes no such options")
        self.target = target
        self.name = target
        self.label = target.replace(":", "-").replace("/", "-")
        self.episodes = episodes
        self.protocol = f"no training here, {episodes} episodes"

    def prepare(self, folder: Path, environments: Sequence[str]) -> None:
        """Import the policy's module, and make the folder."""
        import_module(self.target.partition(":")[0])
        _prepare_folder(folder)

    def is_finished(self, folder: Path) -> bool:
        """False: nothing is kept."""
        return False

    def score(self, env_id: str, folder: Path) -> dict[str, Any]:
        """Evaluate on one environment."""
        result = evaluate(self.target, env=env_id, episodes=self.episodes)
        folder.mkdir(exist_ok=True)
        write_json(folder / "evaluation.json", result)
        return {"return": result["return"]["per_seed"], "mmer": None, "parameters": None}


def count_parameters(config: TrainConfig) -> int:
    """Trainable parameters of one seed."""
    params = state_template(make_experiment(config), config).learner.params
    return sum(leaf.size for leaf in jax.tree.leaves(params)) // config.num_seeds


def best_epochs(folder: Path) -> list[float] | None:
    """For each seed of a run the highest mean training return of an epoch (its MMER); None where no episode ended.

    An epoch is 65,536 environment steps as in POPGym (Morad et al. 2023), or a log point where those are further
    apart; what is left at the end counts only if there is no whole one. Shorter ones would favour the episodes that
    end soon: in a maze the few that are solved, before any of the others has reached its limit.
    """
    epochs: list[list[dict[str, Any]]] = [[]]
    begin = 0
    for row in read_metrics(folder):
        if "episodes" not in row:  # an evaluation between updates
            continue
        epochs[-1].append(row)
        if row["env_steps"] - begin >= EPOCH_STEPS:
            begin = row["env_steps"]
            epochs.append([])
    means = [_mean_returns(epoch) for epoch in epochs[:-1] or epochs]
    seeds = sorted({seed for each in means for seed in each})
    return [max(each[seed] for each in means if seed in each) for seed in seeds] or None


def _mean_returns(rows: list[dict[str, Any]]) -> dict[int, float]:
    """The mean return of all episodes of each seed, where any ended."""
    totals: dict[int, float] = {}
    counts: dict[int, float] = {}
    for row in rows:
        several = row.get("per_seed", {})
        returns = several.get("episode_return", [row["episode_return"]])
        for seed, (value, count) in enumerate(zip(returns, several.get("episodes", [row["episodes"]]), strict=True)):
            if value is not None and count:
                totals[seed] = totals.get(seed, 0.0) + value * count
                counts[seed] = counts.get(seed, 0.0) + count
    return {seed: totals[seed] / counts[seed] for seed in totals}


def _prepare_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(
            f"suite folder {folder} cannot be made: {error.strerror}; choose another --run-dir"
        ) from error
    require_writable(folder)
