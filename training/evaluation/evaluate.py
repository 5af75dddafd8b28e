"""Evaluation of a run, or of anybody's policy, on an environment; and policies loaded from runs.

Legend: `S` training seeds, `E` episodes each.
"""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from rich.table import Table

from hippodrome.training.checkpoint.checkpointer import Checkpointer
from hippodrome.training.checkpoint.files import write_json
from hippodrome.training.config import ClusterConfig, EnvConfig, TrainConfig, load_config
from hippodrome.training.config.checks import MAX_SEED
from hippodrome.training.errors import ConfigError, RunFolderError
from hippodrome.training.host import running
from hippodrome.training.step import Experiment, TrainState, make_environment, make_experiment, state_template

from .episodes import agent_episodes, policy_episodes, require_ended
from .policy import Policy, load_callable
from .statistics import summarize_returns

CheckpointChoice = Literal["last", "best"] | int
_TABLE_CAPTION = "iqm: interquartile mean; iqm_low, iqm_high: its 95 % bootstrap interval, over seeds where several"


def load_policy(
    run: str | Path, *, train_seed: int | Literal["best"] = "best", step: CheckpointChoice = "last"
) -> Policy:
    """The policy of a run folder.

    Args:
        run: the folder.
        train_seed: which of the vmapped seeds, counted from 0; "best" takes the one with the highest training return.
        step: "last" is the newest checkpoint, "best" the parameters with the highest training return, a number the
            checkpoint of that update.

    Raises:
        ConfigError: if the folder is no run, or the seed is not one of its own.
        CheckpointError: if it has no such checkpoint.
    """
    opened = open_run(run, train_seed, step)
    envs = opened.experiment.envs
    return Policy(opened.experiment.agent, opened.params, envs.observation_space, envs.action_space)


class OpenRun(NamedTuple):
    """What can be looked at of a run.

    Attributes:
        config, experiment: of the run.
        params: of one seed, at one checkpoint.
        seed_index: which of the vmapped seeds.
        about: which checkpoint, as results of a look at it say: env, memory, checkpoint, update, env_steps, train_seed.
    """

    config: TrainConfig
    experiment: Experiment
    params: Any
    seed_index: int
    about: dict[str, Any]


def open_run(run: str | Path, train_seed: int | Literal["best"], step: CheckpointChoice) -> OpenRun:
    """A run's experiment and the parameters chosen; arguments and errors as of `load_policy`."""
    config = load_config(run)
    experiment, state, metadata = restore_run(run, config, step)
    index = choose_train_seed(state, config, train_seed)
    # One checkpoint holds both: the newest parameters and the best so far.
    params = params_of_seed(chosen_params(state, step), config, index)
    about = {
        "env": config.env.id,
        "memory": config.memory.kind,
        "checkpoint": step,
        "update": metadata["update"],
        "env_steps": metadata["env_steps"],
        "train_seed": index,
    }
    return OpenRun(config, experiment, params, index, about)


def check_numbers(seed: int, **counts: int) -> None:
    """Raise ConfigError unless the seed is one and every count at least 1."""
    errors = [f"{name}={value} must be at least 1" for name, value in counts.items() if value < 1]
    if not 0 <= seed <= MAX_SEED:
        errors.append(f"seed={seed} must be from 0 to {MAX_SEED}")
    if errors:
        raise ConfigError(errors)


def choose_train_seed(state: TrainState, config: TrainConfig, train_seed: int | Literal["best"]) -> int:
    """The index of a vmapped seed; "best" is the one with the highest training return of those that did not fail.

    Raises:
        ConfigError: for a seed that the run has not.
    """
    if train_seed == "best":
        # Before an episode has ended the score is -inf, and yet above that of a seed that failed.
        scores = np.maximum(np.asarray(state.best.score), np.finfo(np.float32).min)
        scores = np.where(np.asarray(state.failed_update) < 0, scores, -np.inf)
        return int(np.argmax(scores))
    if config.num_seeds == 1 and train_seed != 0:
        raise ConfigError(f"train_seed={train_seed} must be 0: the run has one seed")
    if not 0 <= train_seed < config.num_seeds:
        raise ConfigError(f"train_seed={train_seed} must be below the run's num_seeds={config.num_seeds}")
    return train_seed


def params_of_seed(params: Any, config: TrainConfig, index: int) -> Any:
    """The parameters of one of the vmapped seeds; all there are where the run has one."""
    return params if config.num_seeds == 1 else jax.tree.map(lambda leaf: leaf[index], params)


def evaluate(
    target: str | Path,
    *,
    env: str | None = None,
    episodes: int = 256,
    seed: int = 0,
    step: CheckpointChoice = "last",
) -> dict[str, Any]:
    """Plays `episodes` episodes, one in each environment, deterministically and sampled; returns the summary.

    A run's result is also written to its folder: `evaluation.json`, or `evaluation-<env>.json` for another environment.

    Args:
        target: a run folder, or `module:policy` naming an object of the `load_policy` protocol, or a class or function
            that makes one; it is given the environment's id if it has a parameter `env`.
        env: environment id; a run's own by default, required for `module:policy`.
        episodes: episodes of each training seed.
        seed: of the evaluation environments.
        step: which checkpoint, see `load_policy`.

    Raises:
        ConfigError: for a target that is neither, an unknown environment, or one with other spaces than the run's.
    """
    check_numbers(seed, episodes=episodes)
    key = jax.random.key(seed)
    if not Path(target).is_dir() and ":" in str(target):
        return {**_evaluate_callable(str(target), env, episodes, key), "evaluation_seed": seed}
    config = load_config(target)
    experiment, state, metadata = restore_run(target, config, step)
    env_config = config.env if env is None or env == config.env.id else EnvConfig(id=env)
    with running(make_environment(env_config, num_steps=1)) as envs:
        _require_same_spaces(experiment, envs, config.env.id, env_config.id)
        summary = evaluate_state(experiment, envs, state, config, key, episodes, step)
    result = {
        **summary,
        "env": env_config.id,
        "update": metadata["update"],
        "evaluation_seed": seed,
    }
    save_evaluation(target, config, result)
    return result


def evaluate_state(
    experiment: Experiment,
    envs: Any,
    state: TrainState,
    config: TrainConfig,
    key: jax.Array,
    episodes: int,
    step: CheckpointChoice = "last",
) -> dict[str, Any]:
    """The summary of one training state; every seed plays the same episodes."""
    params = jax.device_get(chosen_params(state, step))
    if config.num_seeds == 1:
        params = jax.tree.map(lambda leaf: leaf[None], params)
    failed = np.atleast_1d(np.asarray(state.failed_update)) >= 0

    deterministic, sampled = (_play(experiment.agent, envs, params, key, episodes, choice) for choice in (True, False))
    failed_seeds = [int(each) for each in np.flatnonzero(failed)]
    summary = _result(deterministic, sampled, envs, episodes, failed_seeds, config.seed)
    return {"env": config.env.id, "checkpoint": step, **summary}


@partial(jax.jit, static_argnums=(0, 1, 4, 5))
def _play(agent: Any, envs: Any, params: Any, key: jax.Array, episodes: int, deterministic: bool) -> tuple:
    def one_seed(params):
        return agent_episodes(agent, envs, params, key, num_episodes=episodes, deterministic=deterministic)

    # Seeds in turn: a vmapped while_loop would run every seed to the end of the slowest.
    return jax.lax.map(one_seed, params)


def restore_run(
    run: str | Path, config: TrainConfig, step: CheckpointChoice
) -> tuple[Experiment, TrainState, dict[str, Any]]:
    """The experiment of a run, and the state of one of its checkpoints with its metadata, on one device."""
    experiment = make_experiment(dataclasses.replace(config, num_devices=1, cluster=ClusterConfig()))
    checkpointer = Checkpointer(Path(run) / "checkpoints", keep=config.checkpoint.keep)
    # Every checkpoint carries the best parameters so far, so the newest one has the best of the run.
    number = step if isinstance(step, int) else None
    if number is not None and number not in checkpointer.steps():
        raise ConfigError(f"step={number} must be a checkpoint of {run}; there: {checkpointer.steps() or 'none'}")
    # Nobody who looks at a policy needs what it was trained on.
    template = dataclasses.replace(state_template(experiment, config), replay=())
    return experiment, *checkpointer.restore(template, step=number)


def evaluation_table(result: dict[str, Any]) -> Table:
    """The result as a table for a terminal."""
    seeds = f"{result['seeds']} seed" + "s" * (result["seeds"] != 1)
    table = Table(title=f"{result['env']}: {result['episodes']} episodes, {seeds}", caption=_TABLE_CAPTION)
    columns = ["mean", "std", "iqm", "iqm_low", "iqm_high", "min", "max"]
    for column in ["policy", *columns]:
        table.add_column(column, justify="left" if column == "policy" else "right")
    for name, label in (("return", "deterministic"), ("return_sampled", "sampled")):
        table.add_row(label, *(f"{result[name][column]:.3f}" for column in columns))
    return table


def save_evaluation(run: str | Path, config: TrainConfig, result: dict[str, Any]) -> Path:
    """Writes a result to its run folder: evaluation.json, or evaluation-<env>.json for another environment."""
    env_id = result["env"]
    name = "evaluation.json" if env_id == config.env.id else f"evaluation-{env_id.replace('/', '-')}.json"
    try:
        write_json(Path(run) / name, result)
    except OSError as error:
        raise RunFolderError(f"{Path(run) / name} cannot be written: {error.strerror}") from error
    return Path(run) / name


def chosen_params(state: TrainState, step: CheckpointChoice) -> Any:
    """The newest parameters of a training state, or the best."""
    return state.best.params if step == "best" else state.learner.params


def _result(
    deterministic: tuple, sampled: tuple, envs: Any, episodes: int, failed: list[int], seed: int
) -> dict[str, Any]:
    """What evaluation.json holds besides the environment."""
    summaries: dict[str, Any] = {}
    num_seeds = np.asarray(deterministic[0]).shape[0]
    kept = [index for index in range(num_seeds) if index not in failed]
    if not kept:
        raise ConfigError(f"every seed of the run failed (seeds {failed}); there is nothing to evaluate")
    for name, (returns, lengths, done) in (("return", deterministic), ("return_sampled", sampled)):
        require_ended(np.asarray(done)[kept], envs)
        summaries[name] = summarize_returns(np.asarray(returns)[kept])
        summaries[name.replace("return", "length")] = float(np.asarray(lengths)[kept].mean())
    return {
        "episodes": episodes,
        "seeds": num_seeds,
        "train_seeds": [seed + index for index in kept],
        "failed_seeds": [seed + index for index in failed],
        **summaries,
    }


def _evaluate_callable(target: str, env: str | None, episodes: int, key: jax.Array) -> dict[str, Any]:
    if env is None:
        raise ConfigError(f"evaluating {target!r} needs an environment: --env suite/Name")
    policy = load_callable(target, env)
    with running(make_environment(EnvConfig(id=env), num_steps=1)) as envs:
        deterministic, sampled = (
            tuple(
                each[None]
                for each in policy_episodes(policy, envs, key, num_episodes=episodes, deterministic=is_deterministic)
            )
            for is_deterministic in (True, False)
        )
    return {"env": env, "policy": target, **_result(deterministic, sampled, envs, episodes, [], 0)}


def _require_same_spaces(experiment: Experiment, envs: Any, own: str, other: str) -> None:
    pairs = {
        "observation": (experiment.envs.observation_space, envs.observation_space),
        "action": (experiment.envs.action_space, envs.action_space),
    }
    for name, (here, there) in pairs.items():
        if repr(here) != repr(there):
            raise ConfigError(f"{other} has the {name} space {there!r}, but the run was trained on {own} with {here!r}")
