"""How an agent adapts within a meta-episode: the return of each trial, on the tasks it was trained on and on others.

Legend: `S` training seeds, `E` meta-episodes (each of a task of its own), `K` trials.
"""

import dataclasses
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key
from rich.table import Table

from hippodrome.agents import Agent
from hippodrome.envs import Outcome, environment_keys, longest_episode
from hippodrome.envs.mixture import Mixture, MixtureParams
from hippodrome.envs.projection import Projection, ProjectionParams
from hippodrome.envs.trials import Trials, TrialsState
from hippodrome.envs.vector import first_timestep, next_timestep
from hippodrome.training.checkpoint.files import write_json
from hippodrome.training.config import EnvConfig, load_config
from hippodrome.training.config.checks import build_env
from hippodrome.training.errors import ConfigError, RunFolderError
from hippodrome.training.inspection.picture import write_picture

from .adaptation_picture import draw_adaptation
from .evaluate import CheckpointChoice, check_numbers, chosen_params, restore_run
from .statistics import nested_interval

PERCENTILE = 20
Start = tuple[Any, TrialsState]


class Adaptation(NamedTuple):
    """What came of meta-episodes, leaves `[E, ...]`.

    Attributes:
        trial_returns: `[E, K]`; 0 for trials that were not finished.
        trials: trials finished.
        task: the parameters of the task of each.
    """

    trial_returns: Float[Array, "E K"]
    trials: Int[Array, " E"]
    task: Any


def begin_meta_episodes(env: Trials, key: Key[Array, ""], *, num_episodes: int, given: Any) -> Start:
    """First observations and states of meta-episodes, leaves `[E, ...]`, a task each.

    A program of its own: drawing tasks takes longer to compile than playing them, and is the same for every policy.

    Args:
        env: where.
        key: of tasks and start states.
        num_episodes: E.
        given: the environment's own parameters, that tasks are drawn from.
    """
    keys = environment_keys(key, 0, num_episodes)
    return jax.jit(jax.vmap(env.reset_env, in_axes=(0, None)))(keys, given)


def play_meta_episodes(
    agent: Agent, env: Trials, params: Any, start: Start, key: Key[Array, ""], *, deterministic: bool, given: Any
) -> Adaptation:
    """Plays meta-episodes to their ends; pure.

    Args:
        agent, params: who plays.
        env: where.
        start: from `begin_meta_episodes`.
        key: of environments and actions.
        deterministic: whether the most likely action is taken.
        given: the environment's own parameters.
    """
    observation, state = start
    num_episodes = jnp.shape(state.time)[0]
    space = env.action_space(given)
    timestep = jax.vmap(lambda observation: first_timestep(observation, space))(observation)

    def act(loop, t):
        state, timestep, carry, done = loop
        act_keys, step_keys = (
            environment_keys(jax.random.fold_in(jax.random.fold_in(key, t), which), 0, num_episodes) for which in (0, 1)
        )
        carry, decision = agent.act(params, carry, timestep, act_keys, deterministic=deterministic)
        action = decision.env_action
        step = jax.vmap(env.step_env, in_axes=(0, 0, 0, None))
        observation, reached, reward, ended, _ = step(step_keys, state, action, given)
        nothing = jnp.zeros_like(reward)
        never = jnp.zeros_like(ended)
        outcome = Outcome(reward, never, never, None, nothing, nothing.astype(jnp.int32))
        timestep = jax.vmap(partial(next_timestep, action_space=space))(outcome, observation, action)
        # A meta-episode that has ended stands still.
        state = jax.vmap(partial(jax.tree.map, jnp.where), in_axes=(0, 0, 0))(_like(done, state), state, reached)
        return (state, timestep, carry, done | ended), None

    loop: Any = (state, timestep, agent.initial_carry(num_episodes), jnp.zeros(num_episodes, bool))
    (state, *_), _ = jax.lax.scan(act, loop, jnp.arange(env.longest_episode(given)))
    return Adaptation(state.trial_returns, state.trial, state.task)


def play_every_seed(
    agent: Agent, env: Trials, params: Any, start: Start, key: Key[Array, ""], *, deterministic: bool, given: Any
) -> Adaptation:
    """`play_meta_episodes` with the parameters of every training seed, leaves `[S, ...]`; NumPy arrays `[S, E, ...]`.

    All play the same tasks, in turn, as one after the other asks for less memory.
    """

    @jax.jit
    def play(params: Any, start: Start, key: Key[Array, ""]) -> Adaptation:
        return jax.lax.map(
            lambda one: play_meta_episodes(agent, env, one, start, key, deterministic=deterministic, given=given),
            params,
        )

    return jax.device_get(play(params, start, key))


def _like(done: Array, tree: Any) -> Any:
    """`done` in the place of every leaf."""
    return jax.tree.map(lambda _: done, tree)


def evaluate_adaptation(
    run: str | Path,
    *,
    split: str = "train",
    trials: int | None = None,
    episodes: int = 256,
    seed: int = 0,
    step: CheckpointChoice = "last",
    oracles: Sequence[str | Path] = (),
) -> dict[str, Any]:
    """Plays meta-episodes with every training seed of a run, by its most likely actions and by sampled ones.

    Writes adaptation-SPLIT.json (with the number of trials, where it is not the trained one) and a picture beside it.

    Args:
        run: the folder.
        split: which tasks, see `hippodrome.envs.splits`.
        trials: K; that of training where None. More than were trained on show what lies beyond.
        episodes: E, of each training seed.
        seed: of tasks, environments and actions.
        step: which checkpoint, see `load_policy`.
        oracles: runs that were each trained on one member of a mixture, not projected, in trials as long; what the
            adapted agent lacks of their last trial is told, by the better of their two ways to act.

    Raises:
        ConfigError: if the environment of the run is not one of meta-episodes, has no such split, or an argument breaks
            its rule.
    """
    check_numbers(seed, episodes=episodes)
    if trials is not None and trials < 1:
        raise ConfigError(f"trials={trials} must be at least 1")
    config = load_config(run)
    experiment, state, metadata = restore_run(run, config, step)
    env_config = split_env(config.env, split, trials)
    env, given = build_env(env_config)
    params = _seeds_lead(chosen_params(state, step), config.num_seeds)
    failed = np.atleast_1d(np.asarray(state.failed_update)) >= 0
    if failed.all():
        raise ConfigError(f"every seed of the run {run} failed; there is nothing to evaluate")
    begin_key, act_key = jax.random.split(jax.random.key(seed))
    start = begin_meta_episodes(env, begin_key, num_episodes=episodes, given=given)
    result: dict[str, Any] = {
        "env": config.env.id,
        "split": split,
        "trials": env.most_trials(),
        "trained_trials": experiment.envs.env.most_trials(),
        "episodes": episodes,
        "seeds": int((~failed).sum()),
        "failed_seeds": [config.seed + int(index) for index in np.flatnonzero(failed)],
        "checkpoint": step,
        "update": metadata["update"],
        "evaluation_seed": seed,
        "memory": config.memory.kind,
    }
    names = _member_names(env)
    chosen = _oracles(oracles, env)
    best = {name: _oracle_return(folder, split, episodes, seed) for name, folder in chosen.items()}
    result["oracles"] = {name: str(folder) for name, folder in chosen.items()}
    for choice, deterministic in (("deterministic", True), ("sampled", False)):
        played = play_every_seed(
            experiment.agent, env, params, start, act_key, deterministic=deterministic, given=given
        )
        kept = jax.tree.map(lambda leaf: leaf[~failed], played)
        result[choice] = summarize_adaptation(kept, names, best)
    _save(Path(run), result)
    return result


def split_env(config: EnvConfig, split: str, trials: int | None) -> EnvConfig:
    """The configuration of the same environment with other tasks, and another number of trials where one is given.

    Raises:
        ConfigError: if it is not one of meta-episodes, or takes neither.
    """
    env, _ = build_env(config)
    if not isinstance(env, Trials):
        raise ConfigError(
            f"env.id={config.id!r} has no meta-episodes, so there is no split of tasks: train on meta/..., or on "
            f"trials/{config.id} with --env.kwargs trials=4"
        )
    kwargs = dict(config.kwargs)
    if split != "train" or "split" in kwargs:
        kwargs["split"] = split
    if trials is not None and env.steps is None:
        kwargs["trials"] = trials
    elif trials is not None:
        kwargs["steps"] = trials * (longest_episode(env.env, env.env.default_params) or 1)
    return dataclasses.replace(config, kwargs=kwargs)


def summarize_adaptation(played: Adaptation, names: Sequence[str], best: dict[str, float]) -> dict[str, Any]:
    """The adaptation curve, what the last trial gains on the first, and the same by member of a mixture.

    Means are over seeds and meta-episodes; intervals (95 %) resample seeds, and meta-episodes within each. A trial that
    not every meta-episode finished is left out.

    Args:
        played: leaves `[S, E, ...]`.
        names: of the members of a mixture; empty where there is none.
        best: the oracle's return by member, where known.
    """
    finished = int(played.trials.min())
    if finished == 0:
        raise ConfigError("no trial was finished; give more trials, or more steps")
    returns = np.asarray(played.trial_returns, np.float64)[..., :finished]
    summary: dict[str, Any] = {**_summary(returns), "tasks": {}}
    member = _members_played(played.task)
    for index, name in enumerate(names):
        chosen = [rows[rows_member == index] for rows, rows_member in zip(returns, member, strict=True)]
        number = min(map(len, chosen))
        if not number:
            continue
        # Seeds play the same tasks.
        part = _summary(np.stack([rows[:number] for rows in chosen]))
        if name in best:
            part |= {"oracle": best[name], "gap_to_oracle": best[name] - part["last"]["mean"]}
        summary["tasks"][name] = {"episodes": number, **part}
    return summary


def _summary(returns: Float[np.ndarray, "S E K"]) -> dict[str, Any]:
    def interval(values):
        low, high = nested_interval(values)
        return {"mean": float(values.mean()), "low": low, "high": high}

    first, last = returns[..., 0], returns[..., -1]
    # Long curves are told at some of their trials.
    shown = np.unique(np.linspace(0, returns.shape[-1] - 1, min(returns.shape[-1], 64)).round().astype(int))
    return {
        "curve": [{"trial": int(trial) + 1, **interval(returns[..., trial])} for trial in shown],
        "first": interval(first),
        "last": interval(last),
        "gain": interval(last - first),
        "total": interval(returns.sum(-1)),
        f"percentile_{PERCENTILE}": float(np.percentile(last, PERCENTILE)),
    }


def adaptation_table(result: dict[str, Any]) -> Table:
    """The result for a terminal."""
    seeds = f"{result['seeds']} seed" + "s" * (result["seeds"] != 1)
    title = f"{result['env']}, {result['split']}: {result['trials']} trials, {result['episodes']} tasks, {seeds}"
    table = Table(
        title=title,
        caption="return of the first and of the last trial, and what the last gains, with 95 % intervals over seeds "
        f"and tasks; p{PERCENTILE}: the last trial's {PERCENTILE}th percentile over tasks",
    )
    for column in ("policy", "tasks", "first", "last", "gain", f"p{PERCENTILE}", "oracle - last"):
        table.add_column(column, justify="left" if column in ("policy", "tasks") else "right")
    for choice in ("deterministic", "sampled"):
        rows = {"all": result[choice], **result[choice]["tasks"]}
        for name, row in rows.items():
            cells = [_cell(row[what]) for what in ("first", "last", "gain")]
            gap = f"{row['gap_to_oracle']:.3f}" if "gap_to_oracle" in row else ""
            table.add_row(choice if name == "all" else "", name, *cells, f"{row[f'percentile_{PERCENTILE}']:.3f}", gap)
    return table


def _cell(value: dict[str, float]) -> str:
    return f"{value['mean']:.3f} ({value['low']:.3f} to {value['high']:.3f})"


def _seeds_lead(params: Any, num_seeds: int) -> Any:
    params = jax.device_get(params)
    return jax.tree.map(lambda leaf: leaf[None], params) if num_seeds == 1 else params


def _member_names(env: Trials) -> tuple[str, ...]:
    """Of the mixture within, projected or not; none where there is none."""
    inner: Any = env.env
    while isinstance(inner, Projection):
        inner = inner.env
    return inner.names if isinstance(inner, Mixture) else ()


def _members_played(task: Any) -> Any:
    """Which member each meta-episode was of, `[S, E]`; nothing where there is no mixture."""
    while isinstance(task, ProjectionParams):
        task = task.inner
    return task.member if isinstance(task, MixtureParams) else []


def _oracles(folders: Sequence[str | Path], env: Trials) -> dict[str, Path]:
    """Folder of each oracle by its member."""
    names, length = _member_names(env), longest_episode(env.env, env.env.default_params)
    how = f"train it with --env.kwargs members=[NAME] projected=false horizon={length}"
    found: dict[str, Path] = {}
    for folder in folders:
        other, _ = build_env(load_config(folder).env)
        member = _member_names(other) if isinstance(other, Trials) else ()
        if len(member) != 1 or member[0] not in names:
            raise ConfigError(
                f"oracle {folder} must be trained on one member of this mixture ({', '.join(names) or 'it has none'}), "
                f"but was trained on {', '.join(member) or other.name}; {how}"
            )
        if _is_projected(other):
            raise ConfigError(
                f"oracle {folder} must be trained without projections, but was trained behind some; {how}"
            )
        if (its := longest_episode(other.env, other.env.default_params)) != length:
            raise ConfigError(f"oracle {folder} has trials of {its} steps, those of this run have {length}; {how}")
        if member[0] in found:
            raise ConfigError(f"oracles {found[member[0]]} and {folder} are both of {member[0]}; leave one out")
        found[member[0]] = Path(folder)
    return found


def _is_projected(env: Trials) -> bool:
    inner: Any = env.env
    while isinstance(inner, Projection):
        if not inner.identity:
            return True
        inner = inner.env
    return False


def _oracle_return(run: Path, split: str, episodes: int, seed: int) -> float:
    """Mean return of the last trial of a run on its one family of tasks, by the better of the two ways to act."""
    tasks = "held-out-tasks" if split in ("held-out-tasks", "held-out-both") else "train"
    result = evaluate_adaptation(run, split=tasks, episodes=episodes, seed=seed)
    return max(result[choice]["last"]["mean"] for choice in ("deterministic", "sampled"))


def _save(run: Path, result: dict[str, Any]) -> None:
    name = f"adaptation-{result['split']}"
    if result["trials"] != result["trained_trials"]:
        name += f"-{result['trials']}-trials"
    try:
        write_json(run / f"{name}.json", result)
        write_picture(run / f"{name}.png", draw_adaptation(result))
    except OSError as error:
        raise RunFolderError(f"{run / name} cannot be written: {error.strerror}") from error
