"""The environment protocol and what a policy sees of it at one step.

Legend: `B` environments. An environment is the gymnax 1.x interface: subclass `Environment` and write `reset_env`,
`step_env`, `is_truncated`, `observation_space`, `action_space` and `default_params`. Only `vector.py` auto-resets.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from gymnax.environments.environment import Environment as GymnaxEnvironment
from gymnax.environments.environment import EnvParams, EnvState
from jaxtyping import Array, Bool, Float, Int

from .spaces import Box, flat_spaces

__all__ = ["EnvParams", "EnvState", "Environment", "Outcome", "Timestep", "null_action"]


class Environment(GymnaxEnvironment):
    """One environment, pure functions over an explicit state (the gymnax 1.x interface).

    `reset_env(key, params) -> (observation, state)`;
    `step_env(key, state, action, params) -> (observation, state, reward, terminated, info)`;
    `is_truncated(state, params)` of the state that `step_env` returned (default: `state.time` has reached
    `params.max_steps_in_episode`). `observation` is always that of the state reached, never of a new episode.
    """

    def reset_pool_size(self, num_steps: int) -> int:
        """How many start states to draw ahead, per environment, for `num_steps` steps; 0 draws one at every step.

        `reset_env` runs at every step under `vmap`, wanted or not, so an environment whose reset is costly returns the
        number of episodes that can end within `num_steps` (or as many as it can afford: the pool is used in turn).
        """
        del num_steps
        return 0


@struct.dataclass
class Timestep:
    """What a policy sees at step t, for `B` environments.

    Attributes:
        observation: the space's element, every leaf `[B, ...]`.
        reset: bool `[B]`; True when `observation` is the first of an episode.
        previous_action: the action taken at t-1, `[B, ...]`; where `reset`, null: -1 if discrete, 0 if continuous.
        previous_reward: float32 `[B]`; the reward that action yielded; 0 where `reset`.
    """

    observation: Any
    reset: Bool[Array, "..."]
    previous_action: Any
    previous_reward: Float[Array, "..."]


@struct.dataclass
class Outcome:
    """What the action at step t led to, for `B` environments.

    Attributes:
        reward: float32 `[B]`.
        terminated: bool `[B]`; the value beyond is 0. Wins where both flags were set.
        truncated: bool `[B]`; bootstrap from `final_observation`.
        final_observation: the observation reached, before any auto-reset, `[B, ...]`.
        episode_return: float32 `[B]`; sum of rewards since the episode began, this one included.
        episode_length: int32 `[B]`; steps since the episode began, this one included.
    """

    reward: Float[Array, "..."]
    terminated: Bool[Array, "..."]
    truncated: Bool[Array, "..."]
    final_observation: Any
    episode_return: Float[Array, "..."]
    episode_length: Int[Array, "..."]

    @property
    def ended(self) -> Bool[Array, "..."]:
        """Whether the episode ended with this action: `reset` of the next timestep."""
        return self.terminated | self.truncated


def null_action(space: Any) -> Any:
    """The previous action of a first step: -1 for every discrete part (its one-hot is all zeros), 0 for a Box."""

    def leaf(part: Any) -> jax.Array:
        if isinstance(part, Box):
            return jnp.zeros(part.shape, part.dtype)
        return jnp.full(part.shape, -1, jnp.int32)

    structure = jax.tree.structure(jax.eval_shape(space.sample, jax.random.key(0)))
    return jax.tree.unflatten(structure, [leaf(part) for part in flat_spaces(space)])
