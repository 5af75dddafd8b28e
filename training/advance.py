"""What one training step does: act, and learn from the rollout itself or from replay; or learn from a data set.

Legend: `T` steps of a rollout, `B` environments (of this device).

Replay and what is learnt from it are split into shards, groups of environments. Every shard has a replay of its own,
draws an equal share of each batch from it by keys of its own, and only sums over shards are shared: by the axis of a
`vmap` within a device, by that of a `shard_map` between devices. The same shards therefore give the same run on any
number of devices.
"""

import dataclasses
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from hippodrome.agents import Agent
from hippodrome.agents.normalization import pmean
from hippodrome.envs import Outcome, VectorEnv

from .replay import Replay, ReplayBuffer, split_environments
from .rollout import collect, record

SHARD_AXIS = "shards"

# From the environments, the training state, two keys and the global index of the first environment: the fields of the
# state that change, the metrics, and what came of the actions.
Advance = Callable[..., tuple[dict[str, Any], dict[str, Array], Outcome]]


def on_policy(
    agent: Agent,
    envs: VectorEnv,
    state: Any,
    rollout_key: Key[Array, ""],
    learn_key: Key[Array, ""],
    *,
    act: Callable[..., Any] = collect,
    num_steps: int,
    bootstrap_truncation: bool,
    first_env: Any,
) -> tuple[dict[str, Any], dict[str, Array], Outcome]:
    """Collect a rollout, by `act`, and learn from it."""
    envs_state, carry, rollout = act(
        agent,
        envs,
        state.learner.params,
        state.envs,
        state.carry,
        rollout_key,
        num_steps=num_steps,
        first_env=first_env,
        bootstrap_truncation=bootstrap_truncation,
    )
    learner, metrics = agent.learn(state.learner, rollout, learn_key)
    return {"learner": learner, "envs": envs_state, "carry": carry}, metrics, rollout.outcome


def from_replay(
    agent: Any,
    buffer: ReplayBuffer,
    envs: VectorEnv,
    state: Any,
    rollout_key: Key[Array, ""],
    learn_key: Key[Array, ""],
    *,
    act: Callable[..., Any] = record,
    num_steps: int,
    num_shards: int | None = None,
    axis_name: Any = None,
    updates_per_step: Fraction,
    first_env: Any,
) -> tuple[dict[str, Any], dict[str, Array], Outcome]:
    """Add a rollout, made by `act`, to replay, then learn from windows of it as often as the replay ratio says.

    Where there are several shards, `num_shards` of them on this device, `buffer` is of one, `axis_name` goes over all,
    and replay's leaves lead with those of this device.
    """
    envs_state, carry, stream, outcome = act(
        agent,
        envs,
        state.learner.params,
        state.envs,
        state.carry,
        rollout_key,
        num_steps=num_steps,
        first_env=first_env,
    )

    def learn(replay, stream):
        replay = buffer.add(replay, stream.steps, stream.valid, stream.carries, state.learner.updates)
        return _learn_from(agent, buffer, state, replay, learn_key, updates_per_step, axis_name)

    if num_shards is not None:
        learn = jax.vmap(learn, in_axes=(0, 1), out_axes=(None, 0, None), axis_name=SHARD_AXIS)
        stream = split_environments(stream, num_shards, axis=1)
    learner, replay, metrics = learn(state.replay, stream)
    return {"learner": learner, "envs": envs_state, "carry": carry, "replay": replay}, metrics, outcome


def from_dataset(
    agent: Any,
    buffer: ReplayBuffer,
    envs: VectorEnv,
    state: Any,
    rollout_key: Key[Array, ""],
    learn_key: Key[Array, ""],
    *,
    updates_per_step: Fraction,
    first_env: Any,
) -> tuple[dict[str, Any], dict[str, Array], Outcome]:
    """Learn from windows of a replay that holds a data set, as often as if steps had been taken; none is.

    No episode ends, so the best parameters are the newest.
    """
    del envs, rollout_key, first_env
    learner, replay, metrics = _learn_from(agent, buffer, state, state.replay, learn_key, updates_per_step)
    best = dataclasses.replace(state.best, params=learner.params, update=state.update)
    nothing = jnp.zeros(0)
    outcome = Outcome(nothing, nothing.astype(bool), nothing.astype(bool), None, nothing, nothing.astype(jnp.int32))
    return {"learner": learner, "replay": replay, "best": best}, metrics, outcome


def _learn_from(
    agent: Any,
    buffer: ReplayBuffer,
    state: Any,
    replay: Replay,
    learn_key: Key[Array, ""],
    updates_per_step: Fraction,
    axis_name: Any = None,
) -> tuple[Any, Replay, dict[str, Array]]:
    """The learner after the updates that are due, replay with what they refreshed, and the means of their metrics."""
    # floor((u + 1) p / q) - floor(u p / q) depends on u modulo q alone, and its whole part is always the same: what is
    # multiplied is below q, and stays within int32.
    p, q = updates_per_step.as_integer_ratio()
    phase, (whole, rest) = state.update % q, divmod(p, q)
    due = whole + (phase + 1) * rest // q - phase * rest // q
    # All learn as soon as each has a window.
    num_windows = buffer.num_windows(replay)
    if axis_name is not None:
        num_windows = jax.lax.pmin(num_windows, axis_name)
        learn_key = jax.random.fold_in(learn_key, jax.lax.axis_index(axis_name))
    num_updates = jnp.where(num_windows > 0, due, 0)

    def learn_once(index, learner, replay):
        choose_key, update_key = jax.random.split(jax.random.fold_in(learn_key, index))
        replay, windows = buffer.choose(replay, choose_key)
        batch = buffer.read(replay, windows)
        age = pmean(buffer.age(replay, windows, learner.updates), axis_name)
        learner, metrics, feedback = agent.learn(learner, batch, update_key)
        replay = buffer.refresh(replay, windows, feedback, learner.updates)
        return learner, replay, {**metrics, "carry_age": age}

    def add_up(index, carried):
        learner, replay, totals = carried
        learner, replay, metrics = learn_once(index, learner, replay)
        return learner, replay, jax.tree.map(jnp.add, totals, metrics)

    totals = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape), jax.eval_shape(lambda: learn_once(0, state.learner, replay)[2])
    )
    learner, replay, totals = jax.lax.fori_loop(0, num_updates, add_up, (state.learner, replay, totals))
    metrics = {name: jnp.where(num_updates > 0, total / num_updates, jnp.nan) for name, total in totals.items()}
    metrics["learner_updates"] = num_updates.astype(jnp.float32)
    replay_steps = jnp.minimum(replay.count, buffer.capacity).sum().astype(jnp.float32)
    metrics["replay_steps"] = replay_steps if axis_name is None else jax.lax.psum(replay_steps, axis_name)
    return learner, replay, metrics
