"""Random linear projections of observation and action, drawn anew for every task.

Legend: `n` numbers of an observation within, `N` of a projected one; `m`, `M` of an action; `A` discrete actions.

Source: Lu et al. 2023 (Structured state space models for in-context reinforcement learning), section 5.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Key

from .core import Environment, EnvParams, longest_episode
from .encoding import encode, space_width
from .host import require_in_jax
from .spaces import Box, Discrete, Space
from .splits import check_split, holds_out_projections, seeded_key


@struct.dataclass
class ProjectionParams(EnvParams):
    """A task and how it is seen.

    Attributes:
        max_steps_in_episode: that of the task.
        inner: parameters of the environment within.
        observation: float32 `[N, n]`; nothing where there is no projection.
        action: float32 `[m, M]`; int32 `[M]`, a permutation, where actions are discrete; nothing without projection.
    """

    inner: Any = None
    observation: Any = 0.0
    action: Any = 0


def padded(envs: Mapping[str, Environment]) -> dict[str, Environment]:
    """The same environments with observations and actions padded to the widest: members of a `Mixture`."""
    if not envs:
        raise ValueError("there is no environment to pad; give at least one")
    alone = [Projection(env, identity=True) for env in envs.values()]
    observation_size = max(env.observation_size for env in alone)
    action_size = max(env.action_size for env in alone)
    return {
        name: Projection(env, identity=True, observation_size=observation_size, action_size=action_size)
        for name, env in envs.items()
    }


class Projection(Environment):
    """Observations are multiplied by one random matrix and actions by another; a task has its own two.

    What is observed is `W o`, o the observation as one vector (discrete parts one-hot), W Gaussian of variance 1 / n.
    What is done is `clip(V a)` for `a` in [-1, 1]^M, V Gaussian of variance 1 / M, in units where the bounds within are
    -1 and 1. Discrete actions are permuted: of M actions, the i-th does what `permutation[i] % A` does. The sizes N
    and M are the same for every environment, so one agent serves them all.

    Args:
        env: the environment within.
        observation_size: N, at least n; n where None.
        action_size: M, at least m (or A); that where None.
        split: "train", "held-out-tasks" (the environment within decides), "held-out-projections" or "held-out-both":
            which matrices are drawn.
        identity: no projection, only the sizes: observations and actions padded. What a single task is without it.
        actions: False leaves actions as they are, padded.

    Raises:
        ValueError: for a projection narrower than its space, naming both, for an action space that is neither one
            bounded Box nor Discrete, or for a split there is not.
    """

    def __init__(
        self,
        env: Environment,
        *,
        observation_size: int | None = None,
        action_size: int | None = None,
        split: str = "train",
        identity: bool = False,
        actions: bool = True,
    ):
        check_split(split, projected=True)
        require_in_jax(env, "projections")
        self.env = env
        self.can_truncate = env.can_truncate
        self.split = split
        self.identity = identity
        self.actions = actions
        params = env.default_params
        self._observed = env.observation_space(params)
        self._acted: Any = env.action_space(params)
        if isinstance(self._acted, Discrete):
            self._actions = self._acted.n
        elif isinstance(self._acted, Box) and np.isfinite([self._acted.low, self._acted.high]).all():
            self._actions = math.prod(self._acted.shape)
        else:
            raise ValueError(
                f"action space {self._acted!r} of {env.name} must be one Box with finite bounds, or Discrete, to be "
                "projected"
            )
        self._width = space_width(self._observed)
        self.observation_size = self._width if observation_size is None else observation_size
        self.action_size = self._actions if action_size is None else action_size
        for what, size, least, space in (
            ("observation_size", self.observation_size, self._width, self._observed),
            ("action_size", self.action_size, self._actions, self._acted),
        ):
            if size < least:
                raise ValueError(
                    f"{what}={size} is narrower than {env.name}: its space {space!r} has {least}; give at least that"
                )

    @property
    def name(self) -> str:
        """That of the environment within."""
        return f"projected {self.env.name}"

    @property
    def default_params(self) -> ProjectionParams:
        """The default task, padded and not projected."""
        return self._task(self.env.default_params, *(((), ()) if self.identity else self._padding()))

    def longest_episode(self, params: ProjectionParams) -> int | None:
        """Steps of an episode at most."""
        return longest_episode(self.env, params.inner)

    def sample_task(self, key: Key[Array, ""], params: ProjectionParams) -> ProjectionParams:
        """Draws the task within and both projections."""
        if self.identity:
            return self._task(self.env.sample_task(key, params.inner), (), ())
        task_key, projection_key = jax.random.split(key)
        inner = self.env.sample_task(task_key, params.inner)
        key = seeded_key(projection_key, held_out=holds_out_projections(self.split), kind=2)
        observation_key, action_key = jax.random.split(key)
        shape = (self.observation_size, self._width)
        observation = jax.random.normal(observation_key, shape) / math.sqrt(self._width)
        if not self.actions:
            action = self._padding()[1]
        elif isinstance(self._acted, Discrete):
            action = jax.random.permutation(action_key, self.action_size).astype(jnp.int32)
        else:
            action = jax.random.normal(action_key, (self._actions, self.action_size)) / math.sqrt(self.action_size)
        return self._task(inner, observation, action)

    def reset_env(self, key: Key[Array, ""], params: ProjectionParams) -> tuple[Array, Any]:
        """Begins an episode."""
        observation, state = self.env.reset_env(key, params.inner)
        return self._project(observation, params), state

    def step_env(self, key: Key[Array, ""], state: Any, action: Any, params: ProjectionParams):
        """Takes one action, never resets."""
        observation, state, *rest = self.env.step_env(key, state, self.to_inner(action, params), params.inner)
        return self._project(observation, params), state, *rest

    def to_inner(self, action: Array, params: ProjectionParams) -> Array:
        """What an action does in the environment within."""
        matrix = self._padding()[1] if self.identity else params.action
        if isinstance(self._acted, Discrete):
            return matrix[action] % self._actions
        low, high = jnp.asarray(self._acted.low), jnp.asarray(self._acted.high)
        turned = jnp.clip(matrix @ jnp.clip(action, -1.0, 1.0), -1.0, 1.0).reshape(self._acted.shape)
        return low + 0.5 * (turned + 1.0) * (high - low)

    def is_truncated(self, state: Any, params: ProjectionParams) -> Array:
        """As the environment within."""
        return self.env.is_truncated(state, params.inner)

    def observation_space(self, params: ProjectionParams) -> Box:
        """N numbers without bounds."""
        return Box(-jnp.inf, jnp.inf, (self.observation_size,))

    def action_space(self, params: ProjectionParams) -> Space:
        """M actions, or M numbers between -1 and 1."""
        if isinstance(self._acted, Discrete):
            return Discrete(self.action_size)
        return Box(-1.0, 1.0, (self.action_size,))

    def _project(self, observation: Any, params: ProjectionParams) -> Float[Array, " N"]:
        matrix = self._padding()[0] if self.identity else params.observation
        return matrix @ encode(self._observed, observation)

    def _padding(self) -> tuple[Array, Array]:
        observation = jnp.eye(self.observation_size, self._width)
        if isinstance(self._acted, Discrete):
            return observation, jnp.arange(self.action_size, dtype=jnp.int32)
        return observation, jnp.eye(self._actions, self.action_size)

    def _task(self, inner: Any, observation: Any, action: Any) -> ProjectionParams:
        return ProjectionParams(
            max_steps_in_episode=inner.max_steps_in_episode, inner=inner, observation=observation, action=action
        )
