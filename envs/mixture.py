"""Several environments as one: a task says which, and one program steps them all.

Legend: `n` members.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Key

from .core import Environment, EnvParams, EnvState, longest_episode
from .host import require_in_jax
from .spaces import Space


@struct.dataclass
class MixtureParams(EnvParams):
    """A task.

    Attributes:
        max_steps_in_episode: the longest of the members'.
        member: int32; which environment it is.
        members: the parameters of each.
    """

    member: Int[Array, ""] | int = 0
    members: tuple[Any, ...] = ()


@struct.dataclass
class MixtureState(EnvState):
    """Attributes: `time`, steps taken; `members`, the states of all, of which the task's alone means anything."""

    members: tuple[Any, ...]


class Mixture(Environment):
    """A task is one of several environments, drawn evenly, and a task of it.

    One program serves all (`jax.lax.switch`; under `vmap` every member is stepped and one kept).

    Args:
        members: environments by name. Their observation and action spaces must be the same: `padded` makes them so.

    Raises:
        ValueError: if there is none, or two members' spaces differ, naming both.
    """

    def __init__(self, members: Mapping[str, Environment]):
        if not members:
            raise ValueError("members must hold at least one environment")
        for env in members.values():
            require_in_jax(env, "mixtures")
        self.members = dict(members)
        self.names = tuple(self.members)
        self._envs = tuple(self.members.values())
        self.can_truncate = any(env.can_truncate for env in self._envs)
        self._spaces = [
            (env.observation_space(params), env.action_space(params))
            for env, params in ((env, env.default_params) for env in self._envs)
        ]
        for name, spaces in zip(self.names[1:], self._spaces[1:], strict=True):
            for kind, first, other in zip(("observation", "action"), self._spaces[0], spaces, strict=True):
                if repr(first) != repr(other):
                    raise ValueError(
                        f"a mixture needs one {kind} space, but {self.names[0]} has {first!r} and {name} has "
                        f"{other!r}; give all the same sizes by hippodrome.envs.projection.padded; "
                        "discrete and continuous actions do not mix"
                    )
        # What the other members' states are while one is played.
        defaults = tuple(env.default_params for env in self._envs)
        self._states = jax.eval_shape(self._reset_all, jax.random.key(0), defaults)

    @property
    def name(self) -> str:
        """The members' names."""
        return f"mixture of {', '.join(self.names)}"

    @property
    def default_params(self) -> MixtureParams:
        """The first member's default task."""
        return self._task(jnp.zeros((), jnp.int32), tuple(env.default_params for env in self._envs))

    def longest_episode(self, params: MixtureParams) -> int | None:
        """Steps of an episode at most, of whichever member; None where one has no limit."""
        limits = [longest_episode(env, part) for env, part in zip(self._envs, params.members, strict=True)]
        known = [limit for limit in limits if limit is not None]
        return max(known) if len(known) == len(limits) else None

    def sample_task(self, key: Key[Array, ""], params: MixtureParams) -> MixtureParams:
        """Draws which environment, and a task of it."""
        member_key, task_key = jax.random.split(key)
        member = jax.random.randint(member_key, (), 0, len(self._envs))
        # One of them counts, so all may be drawn by the same key: the same draws are compiled once.
        drawn = zip(self._envs, params.members, strict=True)
        return self._task(member, tuple(env.sample_task(task_key, part) for env, part in drawn))

    def reset_env(self, key: Key[Array, ""], params: MixtureParams) -> tuple[Any, MixtureState]:
        """Begins an episode of the task's environment."""

        def reset(index: int, key: Key[Array, ""], params: MixtureParams) -> tuple[Any, tuple[Any, ...]]:
            observation, state = self._envs[index].reset_env(key, params.members[index])
            return observation, self._with_state(self._empty(), index, state)

        observation, members = self._switch(reset, params, key, params)
        return observation, MixtureState(time=jnp.zeros((), jnp.int32), members=members)

    def step_env(self, key: Key[Array, ""], state: MixtureState, action: Any, params: MixtureParams):
        """Takes one action in it."""

        def step(index: int, key: Key[Array, ""], state: MixtureState, action: Any, params: MixtureParams):
            observation, inner, reward, terminated, _ = self._envs[index].step_env(
                key, state.members[index], action, params.members[index]
            )
            members = self._with_state(state.members, index, inner)
            return observation, members, jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool)

        observation, members, reward, terminated = self._switch(step, params, key, state, action, params)
        return observation, MixtureState(state.time + 1, members), reward, terminated, {}

    def is_truncated(self, state: MixtureState, params: MixtureParams) -> Array:
        """Whether the task's environment is."""

        def truncated(index: int, state: MixtureState, params: MixtureParams) -> Array:
            return jnp.asarray(self._envs[index].is_truncated(state.members[index], params.members[index]), bool)

        return self._switch(truncated, params, state, params)

    def observation_space(self, params: MixtureParams) -> Space:
        """That of every member."""
        return self._spaces[0][0]

    def action_space(self, params: MixtureParams) -> Space:
        """That of every member."""
        return self._spaces[0][1]

    def _switch(self, function: Any, params: MixtureParams, *operands: Any) -> Any:
        branches = [partial(function, index) for index in range(len(self._envs))]
        return jax.lax.switch(params.member, branches, *operands)

    def _reset_all(self, key: Key[Array, ""], params: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(env.reset_env(key, part)[1] for env, part in zip(self._envs, params, strict=True))

    def _empty(self) -> tuple[Any, ...]:
        def zeros(leaf: Any) -> Array:
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                return jnp.broadcast_to(jax.random.key(0), leaf.shape)
            return jnp.zeros(leaf.shape, leaf.dtype)

        return jax.tree.map(zeros, self._states)

    def _with_state(self, members: tuple[Any, ...], index: int, state: Any) -> tuple[Any, ...]:
        # The types of the templates: a reset may write Python numbers where a step computes arrays.
        state = jax.tree.map(lambda leaf, like: jnp.asarray(leaf, like.dtype), state, self._states[index])
        return (*members[:index], state, *members[index + 1 :])

    def _task(self, member: Any, members: tuple[Any, ...]) -> MixtureParams:
        return MixtureParams(
            max_steps_in_episode=max(int(env.default_params.max_steps_in_episode) for env in self._envs),
            member=member,
            members=members,
        )
