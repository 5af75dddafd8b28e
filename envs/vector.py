"""Many copies of one environment stepped together, with auto-reset and episode statistics.

Legend: `B` environments, `K` start states drawn ahead per environment.
"""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from .core import Outcome, Timestep, null_action
from .spaces import Box, Space, part_names


@struct.dataclass
class VectorState:
    """Everything `B` environments carry from step to step.

    Attributes:
        env_state: the environments' own states, leaves `[B, ...]`.
        key: typed key of each environment, `[B]`; depends on nothing but the key it began with and its own steps, so a
            run split over devices draws what one process draws.
        timestep: what the policy sees now.
        episode_return: float32 `[B]`; sum of rewards of the running episode.
        episode_length: int32 `[B]`; its steps.
        pool: `(observation, env_state)` start states drawn ahead, leaves `[B, K, ...]`; `()` where K is 0.
        pool_next: int32 `[B]`; which of the pool the next reset takes.
    """

    env_state: Any
    key: Key[Array, "..."]
    timestep: Timestep
    episode_return: Float[Array, "..."]
    episode_length: Int[Array, "..."]
    pool: Any
    pool_next: Int[Array, "..."]


class VectorEnv:
    """`vmap` over copies of an environment, with auto-reset: the only place that resets.

    When an episode ends at step t, the next timestep shows the first observation of a new episode, with `reset` True
    and a null previous action and reward; the observation that ended it is `Outcome.final_observation`.

    Args:
        env: an environment of the gymnax 1.x interface.
        params: its parameters; `env.default_params` where None.
        num_steps: rollout length for which start states are drawn ahead where `env.reset_pool_size` asks for it. Call
            `begin_rollout` at least every `num_steps` steps, or start states are used again in turn.

    Attributes:
        on_host: whether the environments live in Python; then a state cannot be restored, see `HostVectorEnv`.
        failure: the error of an environment on the host, None where there is none.
    """

    on_host = False
    failure: BaseException | None = None

    def __init__(self, env: Any, params: Any = None, *, num_steps: int = 1):
        if num_steps < 1:
            raise ValueError(f"num_steps={num_steps} must be at least 1")
        self.env = env
        self.params = env.default_params if params is None else params
        pool_size = getattr(env, "reset_pool_size", None)
        self.pool_size = pool_size(num_steps) if pool_size is not None else 0
        self.can_truncate = getattr(env, "can_truncate", True)
        self.observation_space = env.observation_space(self.params)
        self.action_space = env.action_space(self.params)

    def reset(self, keys: Key[Array, " B"]) -> VectorState:
        """Begins an episode in every environment, one typed key each."""
        keys, reset_keys = _split_each(keys)
        # One more than the pool holds: the first is where the episode begins.
        starts = self._start_states(reset_keys, self.pool_size + 1)
        observation, env_state = jax.tree.map(lambda leaf: leaf[:, 0], starts)
        num_envs = keys.shape[0]
        return VectorState(
            env_state=env_state,
            key=keys,
            timestep=jax.vmap(lambda observation: first_timestep(observation, self.action_space))(observation),
            episode_return=jnp.zeros(num_envs, jnp.float32),
            episode_length=jnp.zeros(num_envs, jnp.int32),
            pool=jax.tree.map(lambda leaf: leaf[:, 1:], starts) if self.pool_size else (),
            pool_next=jnp.zeros(num_envs, jnp.int32),
        )

    def step(self, state: VectorState, action: Any) -> tuple[VectorState, Outcome]:
        """Takes one action (leaves `[B, ...]`) in every environment; begins a new episode where one ended.

        Raises:
            ValueError: for an action of another shape, or of floats where the space is discrete.
        """
        check_batch("action", action, self.action_space, state.episode_length.shape[0])
        return jax.vmap(self._step_one)(state, action)

    def with_params(self, params: Any) -> "VectorEnv":
        """The same with other parameters, traced ones too, that leave its spaces as they are."""
        other = copy.copy(self)
        other.params = params
        return other

    def begin_rollout(self, state: VectorState) -> VectorState:
        """Draws the start states of the next `num_steps` steps; does nothing where resets are cheap."""
        if self.pool_size == 0:
            return state
        keys, pool_keys = _split_each(state.key)
        pool = self._start_states(pool_keys, self.pool_size)
        return dataclasses.replace(state, key=keys, pool=pool, pool_next=jnp.zeros_like(state.pool_next))

    def close(self) -> None:
        """Frees what the environments hold outside their state: nothing, where they step in JAX."""

    def _start_states(self, keys: Key[Array, " B"], count: int) -> Any:
        """`(observation, env_state)` of `count` start states for every key, leaves `[B, count, ...]`."""
        every = jax.vmap(lambda key: jax.random.split(key, count))(keys)
        # One vmap: two nested take twice as long to compile.
        starts = jax.vmap(self.env.reset_env, in_axes=(0, None))(every.reshape(-1), self.params)
        return jax.tree.map(lambda leaf: leaf.reshape(*every.shape, *leaf.shape[1:]), _strongly_typed(starts))

    def _step_one(self, state: VectorState, action: Any) -> tuple[VectorState, Outcome]:
        key, step_key, reset_key = jax.random.split(state.key, 3)
        observation, env_state, reward, terminated, _ = self.env.step_env(
            step_key, state.env_state, action, self.params
        )
        terminated = jnp.asarray(terminated, bool)
        truncated = jnp.asarray(self.env.is_truncated(env_state, self.params), bool) & ~terminated
        outcome = Outcome(
            reward=jnp.asarray(reward, jnp.float32),
            terminated=terminated,
            truncated=truncated,
            final_observation=observation,
            episode_return=state.episode_return + reward,
            episode_length=state.episode_length + 1,
        )
        if self.pool_size:
            fresh = jax.tree.map(lambda leaf: leaf[state.pool_next], state.pool)
            pool_next = (state.pool_next + outcome.ended) % self.pool_size
        else:
            fresh = self.env.reset_env(reset_key, self.params)
            pool_next = state.pool_next

        next_observation, next_env_state = _strongly_typed(_where(outcome.ended, fresh, (observation, env_state)))
        next_state = VectorState(
            env_state=next_env_state,
            key=key,
            timestep=next_timestep(outcome, next_observation, action, self.action_space),
            episode_return=jnp.where(outcome.ended, 0.0, outcome.episode_return),
            episode_length=jnp.where(outcome.ended, 0, outcome.episode_length),
            pool=state.pool,
            pool_next=pool_next,
        )
        return next_state, outcome


def _split_each(keys: Key[Array, " B"]) -> tuple[Key[Array, " B"], Key[Array, " B"]]:
    pairs = jax.vmap(jax.random.split)(keys)
    return pairs[:, 0], pairs[:, 1]


def first_timestep(observation: Any, action_space: Space) -> Timestep:
    """What a policy sees at the first step of an episode of one environment."""
    return Timestep(
        observation=observation,
        reset=jnp.asarray(True),
        previous_action=null_action(action_space),
        previous_reward=jnp.zeros((), jnp.float32),
    )


def next_timestep(outcome: Outcome, observation: Any, action: Any, action_space: Space) -> Timestep:
    """What a policy sees after `action` led one environment to `outcome`; `observation` is that of the auto-reset."""
    return Timestep(
        observation=observation,
        reset=outcome.ended,
        previous_action=_where(outcome.ended, null_action(action_space), _like_space(action, action_space)),
        previous_reward=jnp.where(outcome.ended, 0.0, outcome.reward),
    )


def environment_keys(key: Key[Array, ""], first: Int[Array, ""] | int, num_envs: int) -> Key[Array, " B"]:
    """One key per environment, folded from its global index `first + i`: the same however they are split."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, first + jnp.arange(num_envs))


def check_batch(what: str, value: Any, space: Space, num_envs: int) -> None:
    """Raise ValueError unless `value` is an element of `space` for each of `num_envs` environments, by shape and kind.

    Values out of the space's bounds cannot be seen before the program runs.
    """
    _check_parts(what, value, space)
    for (where, part), leaf in zip(part_names(space), jax.tree.leaves(value), strict=True):
        wanted = (num_envs, *getattr(part, "shape", ()))
        if jnp.shape(leaf) != wanted:
            raise ValueError(
                f"{what}{where} has shape {jnp.shape(leaf)}, expected {wanted}: one {part!r} per environment"
            )
        counts = not isinstance(part, Box) or jnp.issubdtype(part.dtype, jnp.integer)
        if counts and not jnp.issubdtype(jnp.result_type(leaf), jnp.integer):
            raise ValueError(f"{what}{where} has dtype {jnp.result_type(leaf)}, expected integers for {part!r}")


def _check_parts(what: str, value: Any, space: Any) -> None:
    """Raise ValueError unless `value` has the dicts and tuples of `space`; jax pairs other names by their order."""
    parts = getattr(space, "spaces", None)
    if parts is None:
        if isinstance(value, Mapping | Sequence) or value is None:
            raise ValueError(f"{what} is a {type(value).__name__}, expected an array: one {space!r} per environment")
        return
    if isinstance(parts, Mapping):
        if type(value) is not dict or set(value) != set(parts):
            given = f"the parts {sorted(value)}" if type(value) is dict else f"type {type(value).__name__}"
            raise ValueError(f"{what} has {given}, expected a dict of {sorted(parts)}")
    elif not isinstance(value, tuple) or len(value) != len(parts):
        raise ValueError(f"{what} must be a tuple of {len(parts)}, one for each part of {space!r}")
    for name in parts if isinstance(parts, Mapping) else range(len(parts)):
        _check_parts(f"{what}[{name!r}]", value[name], parts[name])


def _where(condition: Bool[Array, ""], new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)


def _strongly_typed(tree: Any) -> Any:
    # A reset that writes `time=0` makes a weakly typed leaf; after one step it no longer is, and a jitted train step
    # would compile a second time for it.
    return jax.tree.map(lambda leaf: jax.lax.convert_element_type(leaf, jnp.asarray(leaf).dtype), tree)


def _like_space(action: Any, space: Any) -> Any:
    return jax.tree.map(lambda part, null: jnp.asarray(part, null.dtype), action, null_action(space))
