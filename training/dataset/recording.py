"""Whole episodes played by a run's policy, or by random actions, as a data set (see `dataset.py`).

Legend: `T` steps of a chunk, `B` environments played together.
"""

import logging
import types
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key
from rich.table import Table

from hippodrome.agents import Decision, ReplayStep
from hippodrome.envs import Timestep, VectorEnv, environment_keys
from hippodrome.training.config import list_configs, load_config
from hippodrome.training.config.schema import EnvConfig
from hippodrome.training.evaluation.episodes import max_episode_steps, require_ended
from hippodrome.training.evaluation.evaluate import CheckpointChoice, check_numbers, open_run
from hippodrome.training.host import running
from hippodrome.training.replay_size import free_memory, require_memory, tree_bytes
from hippodrome.training.rollout import record
from hippodrome.training.step import make_environment

from .file import new_file, write_rows

_LOG = logging.getLogger("hippodrome.dataset")
_TOGETHER = 64
_CHUNK = 64


def record_episodes(
    source: str | Path,
    path: str | Path,
    *,
    episodes: int = 256,
    random: bool = False,
    deterministic: bool = False,
    seed: int = 0,
    step: CheckpointChoice = "last",
    train_seed: int | Literal["best"] = "best",
) -> dict[str, Any]:
    """Plays episodes and writes them as a data set: one episode in each of as many environments, from a fixed key.

    Args:
        source: a run folder; with `random`, the id of an environment, or a configuration, whose environment it is.
        path: the file to make, .npz; it must not exist.
        episodes: how many.
        random: play uniformly random actions instead of a run's policy.
        deterministic: the policy's most likely actions, not sampled ones.
        seed: of the environments and the actions.
        step: which checkpoint, see `load_policy`.
        train_seed: which of the vmapped seeds, see `load_policy`.

    Where it is interrupted (Ctrl-C), the file has the episodes played until then.

    Returns:
        `file`, `env`, `policy`, `episodes`, `steps` (rows), `return` (`mean`, `min`, `max` over the episodes).

    Raises:
        ConfigError: for a source that is none, a path that does not end in .npz, or more episodes than memory holds.
        EpisodeLimitError: if an episode does not end.
        RunFolderError: if the file exists or cannot be written.
    """
    check_numbers(seed, episodes=episodes)
    path = new_file(path)
    if random:
        env_config, params = _environment_of(source), None
        envs = make_environment(env_config, num_steps=_CHUNK)
        agent, policy = _random_agent(envs), "random"
    else:
        config, experiment, params, _, about = open_run(source, train_seed, step)
        env_config, agent = config.env, experiment.agent
        envs = make_environment(env_config, num_steps=_CHUNK)
        way = "deterministic" if deterministic else "sampled"
        policy = f"{config.agent.kind} over {config.memory.kind}, update {about['update']}, {way}"
        agent = types.SimpleNamespace(
            act=partial(agent.act, deterministic=deterministic), initial_carry=agent.initial_carry
        )
    rows: list[ReplayStep] = []
    with running(envs):
        try:
            for together in play_episodes(agent, envs, params, jax.random.key(seed), num_episodes=episodes):
                rows += together
                _require_memory(rows, episodes)
        except KeyboardInterrupt:
            if not rows:
                raise
            _LOG.warning("stopped: %d of %d episodes were played and are written", len(rows), episodes)
    written = write_rows(path, rows, envs, env=env_config.id, policy=policy)
    returns = [float(each.reward.sum()) for each in rows]
    return {
        "file": str(path),
        "env": written.env,
        "policy": policy,
        "episodes": written.episodes,
        "steps": written.steps,
        "return": {"mean": float(np.mean(returns)), "min": min(returns), "max": max(returns)},
    }


def recording_table(result: dict[str, Any]) -> Table:
    """The result as a table for a terminal."""
    table = Table(title=f"{result['file']}: {result['env']}, {result['policy']}", caption="steps: observations")
    for column in ("episodes", "steps", "return mean", "min", "max"):
        table.add_column(column, justify="right")
    returns = (f"{result['return'][name]:.3f}" for name in ("mean", "min", "max"))
    table.add_row(str(result["episodes"]), str(result["steps"]), *returns)
    return table


def play_episodes(
    agent: Any, envs: VectorEnv, params: Any, key: Key[Array, ""], *, num_episodes: int
) -> Iterator[list[ReplayStep]]:
    """The rows of each episode, `[its actions + 1, ...]`, 64 at a time: the first of each of as many environments.

    Args:
        agent: who acts, by `initial_carry` and `act`.
        envs: the environments, which draw start states for 64 steps.
        params: the agent's parameters.
        key: of the environments and the actions; an episode depends on its number and not on how many there are.
        num_episodes: how many.
    """
    env_key, act_key = jax.random.split(key)
    together = min(_TOGETHER, num_episodes)

    @jax.jit
    def begin(first):
        return envs.reset(environment_keys(env_key, first, together)), agent.initial_carry(together)

    @jax.jit
    def play(params, state, carry, chunk, first):
        noise = jax.random.fold_in(act_key, chunk)
        state, carry, stream, _ = record(agent, envs, params, state, carry, noise, num_steps=_CHUNK, first_env=first)
        return state, carry, stream.steps, stream.valid

    for first in range(0, num_episodes, together):
        state, carry = begin(first)
        parts: list[list[ReplayStep]] = [[] for _ in range(min(together, num_episodes - first))]
        ended = np.zeros(len(parts), bool)
        for chunk in range(-(-max_episode_steps(envs) // _CHUNK)):
            state, carry, steps, valid = play(params, state, carry, chunk, first)
            steps, valid = jax.device_get((steps, valid))
            for each in np.flatnonzero(~ended).tolist():
                parts[each].append(_until_end(steps, valid, each))
                ended[each] = parts[each][-1].last.any()
            if ended.all():
                break
        require_ended(ended, envs)
        yield [jax.tree.map(lambda *each: np.concatenate(each), *part) for part in parts]


def _require_memory(rows: list[ReplayStep], episodes: int) -> None:
    """Raise ConfigError unless memory holds the episodes still to come, twice, if they are like the first ones."""
    if len(rows) == min(_TOGETHER, episodes):
        each = sum(map(tree_bytes, rows)) / len(rows)
        parts = {"for them": int(each * (episodes - len(rows))), "for a copy to be written": int(each * episodes)}
        fits = int((free_memory() or 0) / (2 * each))
        require_memory(f"episodes={episodes}", parts, f"about {fits} fit; record fewer, or several files")


def _until_end(steps: ReplayStep, valid: np.ndarray, env: int) -> ReplayStep:
    """Of `[2T, B, ...]`, the steps there are of one environment, up to the first that ended an episode."""
    kept = np.flatnonzero(valid[:, env])
    ends = np.flatnonzero(np.asarray(steps.last)[kept, env])
    kept = kept[: ends[0] + 1] if len(ends) else kept
    return jax.tree.map(lambda leaf: leaf[kept, env], steps)


def _environment_of(source: str | Path) -> EnvConfig:
    """The environment of a configuration or a run, or that of an id."""
    if Path(source).exists() or str(source) in list_configs():
        return load_config(source).env
    return EnvConfig(id=str(source))


def _random_agent(envs: VectorEnv) -> Any:
    """Uniformly random actions, as an agent without a carry."""

    def act(params: Any, carry: Any, timestep: Timestep, key: Key[Array, " B"]) -> tuple[Any, Decision]:
        del params
        action = jax.vmap(envs.action_space.sample)(key)
        nothing = jnp.zeros(timestep.reset.shape)
        return carry, Decision(action, action, nothing, nothing)

    return types.SimpleNamespace(act=act, initial_carry=lambda num_envs: ())
